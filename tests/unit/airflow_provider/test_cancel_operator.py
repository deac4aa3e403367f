"""
The step that cancels, against the sandbox.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry
from airflow_provider.operators import TransactionlinkCancelWorkflowOperator
from airflow_provider.provider_info import get_provider_info
from tests.unit.airflow_provider.services import B3OS_OPTIONS, CONN_ID, client_of, connect
from tests.unit.airflow_provider.test_steps import context, step
from tl_orchestration import RunRequest
from tl_orchestration.errors import InvalidRequest, NotCancellableYet, NotFound, NotSupported

if TYPE_CHECKING:
    from tests.remote import Remote


def cancelling(execution_id: Any, **values: Any) -> TransactionlinkCancelWorkflowOperator:
    """The operator, rendered as Airflow does."""
    task = TransactionlinkCancelWorkflowOperator(
        task_id="cancel", execution_id=execution_id, transactionlink_conn_id=CONN_ID
    )
    given: Any = values
    task.render_template_fields(given)
    return task


def running(remote: Remote, definition: str = "kyc-slow") -> str:
    with client_of("transactionlink", remote.url) as client:
        return client.run(RunRequest(definition)).id


def test_running_execution_is_cancelled(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """By an id that a template brings; the task says how the execution then stands."""
    connect(monkeypatch, remote.url, "transactionlink")
    execution_id = running(remote)
    returned = cancelling("{{ start }}", start=execution_id).execute(context())
    assert returned == {"execution_id": execution_id, "status": "CANCELLED"}
    assert [cancel["execution_id"] for cancel in remote.cancels()] == [execution_id]


def test_ended_execution_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """A success stays one, and a retry of a cancel that was carried out is none the worse."""
    connect(monkeypatch, remote.url, "transactionlink")
    remote.define("kyc-approve", duration=0.1)
    succeeded = step().execute(context())["execution_id"]
    assert cancelling(succeeded).execute(context()) == {"execution_id": succeeded, "status": "SUCCEEDED"}
    execution_id = running(remote)
    assert [cancelling(execution_id).execute(context())["status"] for _ in range(2)] == ["CANCELLED"] * 2


def test_what_cannot_be_cancelled_is_said(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """Nobody's execution, no id, and a service that cannot: each one sentence, and no retry."""
    connect(monkeypatch, remote.url, "transactionlink")
    for execution_id, kind, says in (
        ("nobody", NotFound, "does not know execution nobody (404)"),
        ("", InvalidRequest, "An execution id has letters"),
        (None, InvalidRequest, "An execution id has letters"),
    ):
        with pytest.raises(TransactionlinkFailure) as caught:
            cancelling(execution_id).execute(context())
        assert isinstance(caught.value.error, kind)
        assert says in str(caught.value)
    connect(monkeypatch, remote.url, "transactionlink-legacy")
    with pytest.raises(TransactionlinkFailure, match="The legacy API cannot cancel") as caught:
        cancelling("e1").execute(context())
    assert isinstance(caught.value.error, NotSupported)
    assert remote.cancels() == []


def test_what_may_be_cancelled_later_is_tried_again(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """B3OS before there is a run, and a service that does not answer: Airflow's retries are for that."""
    connect(monkeypatch, remote.url, "b3os")
    remote.define("kyc-slow", before_run={"workflow_queued": None})
    started = step(workflow_definition_id="kyc-slow", service_options=B3OS_OPTIONS, wait_for_completion=False)
    execution_id = started.execute(context())["execution_id"]
    with pytest.raises(TransactionlinkRetry) as caught:
        cancelling(execution_id).execute(context())
    assert isinstance(caught.value.error, NotCancellableYet)


def test_operator_is_in_the_provider_info() -> None:
    """A module that Airflow lists has it."""
    (operators,) = get_provider_info()["operators"]
    listed = [import_module(name) for name in operators["python-modules"]]
    assert any(TransactionlinkCancelWorkflowOperator.__name__ in module.__all__ for module in listed)
