"""
DAGs of the end-to-end tests: a step of each other service, and one with a key of its own.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag

from airflow_provider.operators import TransactionlinkRunWorkflowOperator
from tests.e2e.canary import DOCUMENT_NUMBER, FIRST_NAME


def person(context: dict[str, Any], jinja_env: object) -> dict[str, str]:
    """A new legacy case: personal data, as parameters are."""
    return {"first_name": FIRST_NAME, "personal_number": DOCUMENT_NUMBER}


def step(task_id: str, **arguments: Any) -> TransactionlinkRunWorkflowOperator:
    return TransactionlinkRunWorkflowOperator(
        task_id=task_id,
        workflow_definition_id="{{ dag_run.conf['definition'] }}",
        deferrable=True,
        defer_after=0,
        poll_interval=0.5,
        result_fields={"decision": "decision"},
        **arguments,
    )


@dag(schedule=None)
def services() -> None:
    origin = {"source_system": "airflow", "source_entity_type": "customer"}
    step("legacy", transactionlink_conn_id="legacy", service_options=person)
    step("b3os", transactionlink_conn_id="b3os", service_options=origin)


@dag(schedule=None)
def keyed() -> None:
    step("check", transactionlink_conn_id="keyed", key="{{ dag_run.conf['definition'] }}-4711")


services()
keyed()
