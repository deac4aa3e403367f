"""
DAGs whose results go to a storage or whose retries follow a policy, and tasks about what another task started.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_provider.hooks import TransactionlinkHook
from airflow_provider.operators import TransactionlinkCancelWorkflowOperator, TransactionlinkRunWorkflowOperator
from airflow_provider.results import load_result
from airflow_provider.retry_policy import TransactionlinkRetryPolicy
from airflow_provider.sensors import TransactionlinkWorkflowSensor
from tests.e2e.airflow_dags.steps import step

FOLDER = "file://{{ dag_run.conf['folder'] }}/{{ task.task_id }}/"


@dag(schedule=None)
def stored_result() -> None:
    check = step(deferrable=True, defer_after=0, result=FOLDER)

    @task
    def read(reference: dict[str, Any]) -> str:
        return str(load_result(reference)["decision"])

    read(check.output)  # type: ignore[arg-type]  # Airflow passes the value


@dag(schedule=None)
def started_elsewhere() -> None:
    started = "{{ ti.xcom_pull('start')['execution_id'] }}"
    start = step(task_id="start", wait_for_completion=False)
    wait = TransactionlinkWorkflowSensor(
        task_id="sense", execution_id=started, mode="reschedule", poke_interval=5, timeout=600, result=FOLDER
    )
    start >> wait >> TransactionlinkCancelWorkflowOperator(task_id="cancel_ended", execution_id=started)
    start_slow = step(task_id="start_slow", workflow_definition_id="kyc-slow", wait_for_completion=False)
    start_slow >> TransactionlinkCancelWorkflowOperator(
        task_id="cancel_running", execution_id="{{ ti.xcom_pull('start_slow')['execution_id'] }}"
    )


@dag(schedule=None)
def by_retry_policy() -> None:
    policy = TransactionlinkRetryPolicy(longest_delay=timedelta(seconds=1))
    arguments: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(hours=1), "retry_policy": policy}
    step(task_id="told_to_come_back", **arguments)

    @task(**arguments)  # type: ignore[untyped-decorator]  # loses its types to the arguments
    def asks_for_nobodys_execution() -> None:
        with TransactionlinkHook().get_client() as client:
            client.poll("nobody")

    asks_for_nobodys_execution()


@dag(schedule=None)
def expanded_kwargs() -> None:
    @task
    def checks() -> list[dict[str, Any]]:
        return [{"workflow_definition_id": "kyc-approve", "parameters": {"applicationId": "application-3"}}]

    TransactionlinkRunWorkflowOperator.partial(task_id="check", poll_interval=0.5).expand_kwargs(checks())


stored_result()
started_elsewhere()
by_retry_policy()
expanded_kwargs()
