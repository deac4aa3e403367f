"""
DAGs of the end-to-end tests. Each is one way to run a step; what it runs comes from the run's configuration.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_provider.operators import TransactionlinkRunWorkflowOperator
from airflow_provider.sensors import TransactionlinkWorkflowSensor
from tests.e2e.canary import DOCUMENT_NUMBER, FIRST_NAME

DEFINITION = "{{ dag_run.conf.get('definition', 'kyc-approve') }}"
CONNECTION = "{{ dag_run.conf.get('connection', 'transactionlink_default') }}"
RETRIES: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=1)}


def applicant(context: dict[str, Any], jinja_env: object) -> dict[str, str]:
    """Personal data that must be found in no table and no log of Airflow."""
    return {"firstName": FIRST_NAME, "documentNumber": DOCUMENT_NUMBER}


def step(**arguments: Any) -> TransactionlinkRunWorkflowOperator:
    chosen: dict[str, Any] = {
        "task_id": "check",
        "workflow_definition_id": DEFINITION,
        "parameters": applicant,
        "transactionlink_conn_id": CONNECTION,
        "poll_interval": 0.5,
        **RETRIES,
        **arguments,
    }
    return TransactionlinkRunWorkflowOperator(**chosen)


@dag(schedule=None)
def deferred() -> None:
    step(deferrable=True, defer_after=0, result_fields={"decision": "decision", "risk": "riskScore"})


@dag(schedule=None)
def grace() -> None:
    step(deferrable=True, defer_after=60, correlation_parameter="caseRef")


@dag(schedule=None)
def correlated() -> None:
    step(deferrable=True, defer_after=0, correlation_parameter="caseRef")


@dag(schedule=None)
def in_worker() -> None:
    step(deferrable=False)


@dag(schedule=None)
def in_worker_without_state() -> None:
    step(deferrable=False, durable=False)


@dag(schedule=None)
def whole_result() -> None:
    step(deferrable=True, defer_after=60, result="full")


@dag(schedule=None)
def judged() -> None:
    step(task_id="fails", defer_after=60, fail_when="decision == 'approve'")
    step(task_id="skips", defer_after=60, skip_when="decision == 'approve'")
    step(task_id="renamed", defer_after=60, fail_when="verdict == 'reject'")


@dag(schedule=None)
def bad_parameters() -> None:
    step(parameters={"when": {1, 2}})


@dag(schedule=None)
def short_deadline() -> None:
    step(deferrable=True, defer_after=0, timeout=4)


@dag(schedule=None)
def mapped() -> None:
    TransactionlinkRunWorkflowOperator.partial(
        task_id="by_definition", parameters=applicant, deferrable=True, poll_interval=0.5
    ).expand(workflow_definition_id=["kyc-approve", "kyc-reject"])

    @task
    def applications() -> list[dict[str, str]]:
        return [{"applicationId": "application-1"}, {"applicationId": "application-2"}]

    TransactionlinkRunWorkflowOperator.partial(
        task_id="by_parameters", workflow_definition_id="kyc-approve", deferrable=True, poll_interval=0.5
    ).expand(parameters=applications())


@dag(schedule=None)
def left_alone() -> None:
    step(deferrable=False, cancel_on_kill=False)


@dag(schedule=None)
def timed_out() -> None:
    # Long enough for a start by a process that a busy machine has only begun.
    limit = timedelta(seconds=15)
    step(task_id="deferred", deferrable=True, defer_after=0, execution_timeout=limit)
    step(task_id="in_worker", deferrable=False, execution_timeout=limit)


@dag(schedule=None)
def not_durable() -> None:
    step(deferrable=True, defer_after=0, durable=False, timeout=4, retries=0)


@dag(schedule=None)
def tries_failures_again() -> None:
    step(deferrable=True, defer_after=60, retry_failed=True, retries=1)


@dag(schedule=None)
def start_then_sense() -> None:
    started = step(task_id="start", wait_for_completion=False)

    @task
    def execution_id(start: dict[str, Any]) -> str:
        return str(start["execution_id"])

    found: Any = execution_id(started.output)  # type: ignore[arg-type]  # Airflow passes the value
    for mode, deferrable in (("poke", False), ("deferred", True)):
        TransactionlinkWorkflowSensor(
            task_id=f"sense_{mode}",
            execution_id=found,
            deferrable=deferrable,
            poke_interval=1,
            timeout=600,
            result_fields={"decision": "decision"},
        )


deferred()
grace()
correlated()
in_worker()
in_worker_without_state()
whole_result()
judged()
bad_parameters()
short_deadline()
mapped()
left_alone()
timed_out()
not_durable()
tries_failures_again()
start_then_sense()
