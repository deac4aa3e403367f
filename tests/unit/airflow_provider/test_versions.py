"""
What a user gets where an Airflow version lacks what later ones have. All versions run all of these.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_provider import versions
from airflow_provider.failures import TransactionlinkFailure
from airflow_provider.triggers import TransactionlinkExecutionTrigger
from tests.airflow_versions import TaskDeferred
from tests.unit.airflow_provider.services import CONN_ID, client_of, connect
from tests.unit.airflow_provider.test_steps import TaskInstance, refused, resumed, step
from tl_orchestration import RunRequest
from tl_orchestration.errors import InvalidSettings, StartOutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.remote import Remote


class TestWithoutTaskState:
    """Airflow 3.1 and 3.2 keep nothing of a task over its retries."""

    @pytest.fixture(autouse=True)
    def _quick(self, remote: Remote) -> None:
        remote.define("kyc-approve", duration=0.2)

    @pytest.fixture
    def given(self) -> Any:
        """What such a version hands to a task."""
        return {"ti": TaskInstance()}

    @pytest.fixture
    def _ledger(self, monkeypatch: pytest.MonkeyPatch, remote: Remote, tmp_path: Path) -> None:
        connect(monkeypatch, remote.url, "transactionlink", {"ledger_url": f"sqlite:///{tmp_path}/ledger.db"})

    def test_durable_step_without_a_ledger_is_refused_unsent(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, given: Any
    ) -> None:
        """The sentence names the SQL ledger, and what to say by whom that wants none."""
        connect(monkeypatch, remote.url, "transactionlink")
        error = refused(given)
        assert isinstance(error, InvalidSettings)
        assert f"Name a SQL ledger (ledger_url of connection '{CONN_ID}'" in str(error)
        assert "durable=False" in str(error)
        assert remote.starts() == []

    def test_step_without_a_ledger_runs_where_it_says_so(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, given: Any
    ) -> None:
        """durable=False gives up re-attachment, and nothing else."""
        connect(monkeypatch, remote.url, "transactionlink")
        assert step(durable=False).execute(given)["status"] == "SUCCEEDED"
        assert len(remote.starts()) == 1

    @pytest.mark.usefixtures("_ledger")
    def test_sql_ledger_keeps_a_durable_step(self, remote: Remote, given: Any) -> None:
        """A retry goes on with what the step started, over a deferral; a clear, and another run, start anew."""
        with pytest.raises(TaskDeferred) as caught:
            step(deferrable=True).execute(given)
        first = resumed(caught.value, given, deferrable=True)
        assert step().execute(given) == first
        assert len(remote.starts()) == 1
        ids = [first["execution_id"]]
        for facts in ({"max_tries": 1}, {"run_id": "other"}):
            later: Any = {"ti": TaskInstance(**facts)}
            ids.append(step().execute(later)["execution_id"])
        assert [start["execution_id"] for start in remote.starts()] == ids

    @pytest.mark.usefixtures("_ledger")
    def test_unknown_start_names_the_ledger_that_keeps_the_step(self, remote: Remote, given: Any) -> None:
        """`tl ledger` finds it there, without Airflow's address."""
        remote.order("start", "lose")
        with pytest.raises(TransactionlinkFailure, match="tl ledger adopt dag/run/check") as caught:
            step().execute(given)
        assert isinstance(caught.value.error, StartOutcomeUnknown)
        assert "airflow+http" not in str(caught.value)
        assert len(remote.starts()) == 1


@pytest.mark.parametrize("has_on_kill", [False, True])
def test_cancelled_trigger_looks_for_a_decision_where_airflow_does_not_call_on_kill(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, *, has_on_kill: bool
) -> None:
    """A person ended the task: before 3.3 the trigger cancels as it is cancelled; from 3.3 on Airflow calls on_kill."""
    connect(monkeypatch, remote.url, "transactionlink")
    monkeypatch.setattr(versions, "HAS_TRIGGER_ON_KILL", has_on_kill)

    async def states(**_: Any) -> dict[str, Any]:
        return {"run": {"check": "failed"}}

    monkeypatch.setattr(versions, "triggerer_task_states", states)
    with client_of("transactionlink", remote.url) as client:
        started = client.run(RunRequest("kyc-slow"))
    trigger = TransactionlinkExecutionTrigger(
        transactionlink_conn_id=CONN_ID, execution_id=started.id, owned=True, cancel_on_kill=True, poll_interval=0.1
    )
    task: Any = TaskInstance()
    trigger.task_instance = task

    async def cancelled() -> None:
        waiting = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.to_thread(remote.wait_for, "GET /workflows/{id}", 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    asyncio.run(cancelled())
    assert len(remote.cancels()) == (0 if has_on_kill else 1)


def test_this_airflow_is_known_by_what_it_has(record_property: Callable[[str, object], None]) -> None:
    """A trigger is told of a decision only where it is told of anything."""
    record_property("feature", "Airflow tells a deferred step whether it was ended, or only moves to another triggerer")
    record_property("here", "yes" if versions.ON_KILL_IS_A_DECISION else "no: the step asks for its task's state")
    assert versions.HAS_TRIGGER_ON_KILL is hasattr(BaseTrigger, "on_kill")
    assert versions.HAS_TRIGGER_ON_KILL or not versions.ON_KILL_IS_A_DECISION


def test_retry_policy_is_there_or_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Before 3.3 only this module cannot be imported."""
    record_property("feature", "`TransactionlinkRetryPolicy`")
    record_property("here", "yes" if versions.HAS_RETRY_POLICY else "no: `retries` and `retry_delay` alone")
    monkeypatch.delitem(sys.modules, "airflow_provider.retry_policy", raising=False)
    if versions.HAS_RETRY_POLICY:
        import airflow_provider.retry_policy
    monkeypatch.delitem(sys.modules, "airflow_provider.retry_policy", raising=False)
    monkeypatch.setattr(versions, "HAS_RETRY_POLICY", False)
    with pytest.raises(ImportError, match=r"needs Airflow 3\.3"):
        import airflow_provider.retry_policy  # noqa: F401
