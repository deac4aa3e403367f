"""
A person's verdict in Airflow's task state: where it is looked for, what the message says, what the cleared task does.
"""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_provider import failures
from airflow_provider.failures import TransactionlinkFailure, reported
from airflow_provider.identity import step_key
from airflow_provider.ledger import TaskStateLedger
from airflow_provider.operators.run_workflow import TransactionlinkRunWorkflowOperator
from tests.remote import TOKEN, Remote
from tests.unit.airflow_provider.test_ledger import Store
from tl_orchestration.errors import StartOutcomeUnknown
from tl_orchestration.ledger import verdicts
from tl_orchestration.ledger.airflow_step import AirflowStep

if TYPE_CHECKING:
    from airflow.sdk import Context

KEY = "d/r/check"


@pytest.fixture
def store(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The task state of a step whose start has an unknown fate: the sandbox carried it out, and did not answer."""
    fields = {"conn_type": "transactionlink", "host": remote.url, "password": TOKEN}
    monkeypatch.setenv("AIRFLOW_CONN_TRANSACTIONLINK_DEFAULT", json.dumps(fields))
    remote.order("start", "lose")
    store = Store()
    with pytest.raises(TransactionlinkFailure, match="may or may not have started"):
        execute(store, max_tries=0)
    return store


def execute(store: Store, max_tries: int, **arguments: Any) -> dict[str, Any]:
    """One try of the task; clearing it raises ``max_tries``."""
    operator = TransactionlinkRunWorkflowOperator(
        task_id="check", workflow_definition_id="kyc-approve", wait_for_completion=False, **arguments
    )
    ti = SimpleNamespace(
        try_number=1,
        dag_id="d",
        run_id="r",
        task_id="check",
        map_index=-1,
        max_tries=max_tries,
        start_date=None,
        xcom_push=print,
    )
    context = {"ti": ti, "task_instance": ti, "task_state_store": store}
    return operator.execute(cast("Context", context))


def test_cleared_task_goes_on_with_what_was_adopted(remote: Remote, store: Store) -> None:
    """The verdict binds the step: another generation takes it, starts nothing and cancels nothing; nor does a third."""
    execution_id = str(remote.starts()[0]["execution_id"])
    verdicts.adopt(TaskStateLedger(store), KEY, execution_id, reason="seen", actor="jo", now=time.time())

    assert execute(store, max_tries=1)["execution_id"] == execution_id
    assert execute(store, max_tries=1)["execution_id"] == execution_id
    assert (len(remote.starts()), remote.cancels()) == (1, [])
    assert execute(store, max_tries=2)["execution_id"] != execution_id
    assert (len(remote.starts()), remote.cancels()) == (2, [])


def test_cleared_task_starts_what_was_not_started(remote: Remote, store: Store) -> None:
    """After *not started* the next try starts, once."""
    verdicts.not_started(TaskStateLedger(store), KEY, reason="not there", actor="jo", now=time.time())

    first = execute(store, max_tries=1)

    assert execute(store, max_tries=1) == first
    assert [start["execution_id"] for start in remote.starts()][1:] == [first["execution_id"]]
    assert remote.cancels() == []


@pytest.mark.parametrize(
    ("dag_id", "run_id", "task_id", "map_index"),
    [
        ("d", "manual__2026-11-21T09:00:00+00:00", "group.check", -1),
        ("d.sub", "a/run/with/slashes", "check", 0),
        ("d", "r", "größe-2", 117),
    ],
)
def test_name_of_a_step_leads_back_to_its_task(dag_id: str, run_id: str, task_id: str, map_index: int) -> None:
    """What the provider calls a step is what the command finds its task by."""
    ti = SimpleNamespace(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index, max_tries=0)
    assert AirflowStep.of(step_key(ti)) == AirflowStep(dag_id, run_id, task_id, map_index)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://airflow.example.com/team/", "airflow+https://airflow.example.com/team"),
        ("http://localhost:8080", "airflow+http://localhost:8080"),
        ("http://airflow.example.com", "airflow+https://AIRFLOW"),
        ("https://jo:PLANTED@airflow.example.com", "airflow+https://AIRFLOW"),
        ("", "airflow+https://AIRFLOW"),
    ],
)
def test_message_names_the_command(monkeypatch: pytest.MonkeyPatch, base_url: str, url: str) -> None:
    """Key, execution and Airflow's address are ready to be pasted, as far as they are known."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    with pytest.raises(TransactionlinkFailure) as caught, reported():
        raise StartOutcomeUnknown("It is lost. Tell SQL.", what="It is lost.", key="d/r/t[3]", execution_id="e-1")
    assert str(caught.value) == (
        f"It is lost. Then tell Airflow's task state: `tl ledger adopt 'd/r/t[3]' e-1 --reason TEXT --url {url}` if it"
        f" runs, `tl ledger not-started 'd/r/t[3]' --reason TEXT --url {url}` if it does not. And clear the task; where"
        " Airflow asks, keep its task state."
    )


def test_start_that_nobody_recorded(remote: Remote, store: Store) -> None:
    """With durable=False there is no ledger to tell: the message offers what there is."""
    remote.order("start", "lose")
    with pytest.raises(TransactionlinkFailure) as caught:
        execute(store, max_tries=0, durable=False)
    assert str(caught.value).endswith(failures.UNRECORDED_START)
    assert "tl ledger" not in str(caught.value)
