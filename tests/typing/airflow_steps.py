"""
The Airflow provider as a typed author of DAGs writes it. Checked by mypy --strict, not executed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from airflow.sdk import BaseNotifier, Context, XComArg, task

from airflow_provider.decorators import transactionlink_task
from airflow_provider.hooks import TransactionlinkHook
from airflow_provider.operators import (
    TransactionlinkBatchOperator,
    TransactionlinkCancelWorkflowOperator,
    TransactionlinkRunWorkflowOperator,
)
from airflow_provider.results import load_result
from airflow_provider.retry_policy import TransactionlinkRetryPolicy
from airflow_provider.sensors import TransactionlinkWorkflowSensor
from tl_orchestration import AsyncClient, B3osOptions, Client, LegacyOptions, RunRequest
from tl_orchestration.batch import Book, Column, Columns, Query


def person(context: dict[str, Any], jinja_env: object) -> dict[str, str]:
    """Options that are made when the task runs."""
    return {"first_name": "Ada"}


def steps() -> list[TransactionlinkRunWorkflowOperator]:
    """Options as a dict, a value or a callable; a key; a policy that only one service has."""
    origin = {"source_system": "airflow", "source_entity_type": "customer"}
    return [
        TransactionlinkRunWorkflowOperator(task_id="a", workflow_definition_id="d", service_options={"case_id": "…"}),
        TransactionlinkRunWorkflowOperator(task_id="b", workflow_definition_id="d", service_options=LegacyOptions()),
        TransactionlinkRunWorkflowOperator(task_id="c", workflow_definition_id="d", service_options=person),
        TransactionlinkRunWorkflowOperator(
            task_id="d",
            workflow_definition_id="d",
            service_options=B3osOptions(**origin),
            key="onboarding-{{ params.application }}",
            on_unknown_start="repeat-same-key",
        ),
    ]


def batches() -> list[TransactionlinkBatchOperator]:
    """Options for all rows, as a step has them, and those of each row."""
    columns = Columns(key="id", options={"external_ref": "id", "client_safe_metadata": Column("meta", "json")})
    return [
        TransactionlinkBatchOperator(task_id="a", workflow_definition_id="d", columns=columns, service_options=given)
        for given in (None, {"source_system": "crm"}, LegacyOptions(), person)
    ]


def mail(context: dict[str, Any]) -> None:
    """Hands a link over."""
    assert context["link"]


async def post(context: Context) -> None:
    """The same, later."""


def links(notifier: BaseNotifier) -> None:
    """A link goes to a function, a coroutine function or a notifier."""
    TransactionlinkRunWorkflowOperator(task_id="a", workflow_definition_id="d", on_link=mail, on_link_lost="restart")
    TransactionlinkRunWorkflowOperator(task_id="b", workflow_definition_id="d", on_link=post)
    TransactionlinkRunWorkflowOperator(task_id="c", workflow_definition_id="d", on_link=notifier)
    TransactionlinkRunWorkflowOperator(task_id="d", workflow_definition_id="d", on_link_lost="ignore")  # type: ignore[arg-type]


def results(returned: dict[str, Any]) -> None:
    """A result in a storage, read again; a policy; a sensor and a cancel of what another task started."""
    policy = TransactionlinkRetryPolicy(longest_delay=timedelta(minutes=5))
    TransactionlinkRunWorkflowOperator(
        task_id="a", workflow_definition_id="d", result="s3://conn@bucket/{{ ds }}/", retry_policy=policy
    )
    TransactionlinkWorkflowSensor(task_id="b", execution_id="e", result="file:///kyc/one.json", mode="reschedule")
    TransactionlinkCancelWorkflowOperator(task_id="c", execution_id="e", transactionlink_conn_id="kyc")
    assert_type(load_result(returned), dict[str, Any])
    assert_type(load_result(returned, transactionlink_conn_id="kyc", api_version=1), dict[str, Any])


@task.transactionlink(workflow_definition_id="d", deferrable=True)
def check(application: str) -> dict[str, str]:
    """A task whose parameters a function makes, by Airflow's name for it."""
    return {"application": application}


@transactionlink_task(multiple_outputs=True)
def asked(application: str, *, locale: str = "en") -> RunRequest:
    """The same by an import; a request says everything."""
    return RunRequest("d", {"application": application}, locale=locale)


def decorated(applications: XComArg) -> list[XComArg]:
    """Called, overridden and mapped; the arguments are the function's."""
    assert_type(check("one"), XComArg)
    check(1)  # type: ignore[arg-type]
    asked(name="one")  # type: ignore[call-arg]
    again = check.override(task_id="again", retries=2)
    return [
        again("one"),
        check.expand(application=applications),
        asked.partial(locale="de").expand_kwargs(applications),
    ]


async def clients() -> None:
    """A hook gives clients of whatever service the connection names."""
    hook = TransactionlinkHook("b3os")
    assert_type(hook.service(), str)
    assert_type(hook.get_client(ledger=hook.sql_ledger()), Client)
    assert_type(await hook.aget_client(), AsyncClient)


def mistakes() -> None:
    """What a type checker finds; each ignore is needed, else mypy complains about the ignore."""
    TransactionlinkRunWorkflowOperator(task_id="a", workflow_definition_id="d", key=7)  # type: ignore[arg-type]
    TransactionlinkRunWorkflowOperator(task_id="b", workflow_definition_id="d", service_options=["x"])  # type: ignore[arg-type]
    TransactionlinkRunWorkflowOperator(task_id="c", workflow_definition_id="d", on_unknown_start="repeat")  # type: ignore[arg-type]
    TransactionlinkCancelWorkflowOperator(task_id="d")  # type: ignore[call-arg]
    load_result("e")  # type: ignore[arg-type]
    Book(workflow_definition_id="d", source=Query("", ""), columns=Columns(key="id"), options={})  # type: ignore[arg-type]
