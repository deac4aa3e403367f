"""
The operator's correlation parameter, as far as it goes without an Airflow (a real one is used end to end).
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider.failures import TransactionlinkFailure
from airflow_provider.operators.run_workflow import TransactionlinkRunWorkflowOperator
from tests.remote import TOKEN, Remote
from tests.unit.airflow_provider.test_ledger import Store
from tl_orchestration.errors import StartOutcomeUnknown

if TYPE_CHECKING:
    from airflow.sdk import Context


@pytest.fixture(autouse=True)
def _connection(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default connection leads to the sandbox."""
    fields = {"conn_type": "transactionlink", "host": remote.url, "password": TOKEN}
    monkeypatch.setenv("AIRFLOW_CONN_TRANSACTIONLINK_DEFAULT", json.dumps(fields))


def execute(store: Store | None = None, **arguments: Any) -> dict[str, Any]:
    """One try of the task."""
    operator = TransactionlinkRunWorkflowOperator(
        task_id="check", workflow_definition_id="kyc-approve", wait_for_completion=False, **arguments
    )
    ti = SimpleNamespace(
        try_number=1,
        dag_id="d",
        run_id="r",
        task_id="check",
        map_index=-1,
        max_tries=2,
        start_date=None,
        xcom_push=print,
    )
    context = {"ti": ti, "task_instance": ti, "task_state_store": store or Store()}
    return operator.execute(cast("Context", context))


def test_unknown_start_names_what_the_service_has(remote: Remote) -> None:
    """The task's message says what to look for, in every try, and the command."""
    remote.order("start", "lose")
    store = Store()
    for _ in range(2):
        with pytest.raises(TransactionlinkFailure, match="tl ledger adopt d/r/check EXECUTION_ID") as caught:
            execute(store, correlation_parameter="caseRef")
        (start,) = remote.starts()
        assert f"Look for caseRef = {start['parameters']['caseRef']} among" in str(caught.value)
        assert isinstance(caught.value.error, StartOutcomeUnknown)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"correlation_parameter": "caseRef", "durable": False}, "needs durable=True or a key"),
        ({"correlation_parameter": ""}, "printable text that is not empty"),
        ({"correlation_parameter": "caseRef", "parameters": {"caseRef": "mine"}}, "among the parameters already"),
    ],
)
def test_parameter_of_no_use_is_refused(remote: Remote, arguments: dict[str, Any], sentence: str) -> None:
    """Where the id could not be kept or sent, nothing is sent and no retry is wanted."""
    with pytest.raises(TransactionlinkFailure, match=sentence):
        execute(**arguments)
    assert remote.starts() == []
