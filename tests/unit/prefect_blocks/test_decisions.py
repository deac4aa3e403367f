"""
Whether a person decided: by the state of the flow run, of those around it, and by its history.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Paused, Suspended

from prefect_blocks import decisions
from tests.unit.prefect_blocks.prefect_server import PrefectServer

PAUSED: State[Any] = Paused(pause_key="p", timeout_seconds=300)
SUSPENDED: State[Any] = Suspended(pause_key="s", timeout_seconds=300)
SUSPENDED_BEFORE = SUSPENDED.model_copy(update={"type": StateType.CANCELLED, "name": "Cancelled"})
RESUMING: State[Any] = State(type=StateType.SCHEDULED, name="Resuming")


@pytest.mark.parametrize(
    ("states", "decided"),
    [
        (("RUNNING",), False),
        (("RUNNING", "CANCELLING"), True),
        (("RUNNING", "CANCELLING", "CANCELLED"), True),
        (("SCHEDULED", "CANCELLED"), True),
        (("RUNNING", PAUSED, "CANCELLED"), False),
        (("RUNNING", SUSPENDED, "CANCELLED"), True),
        (("RUNNING", SUSPENDED, SUSPENDED_BEFORE), False),
        (("RUNNING", RESUMING, "CANCELLED"), True),
        (("RUNNING", "CANCELLED"), False),
        (("PENDING", "CANCELLED"), False),
        (("RUNNING", "CANCELLING", "RUNNING", "CANCELLED"), False),
        (("CANCELLED",), False),
        (("RUNNING", "CRASHED"), False),
        (("RUNNING", "FAILED"), False),
        ((), False),
    ],
)
def test_states(prefect_server: PrefectServer, states: tuple[str | State, ...], *, decided: bool) -> None:
    """A person's cancel leads over Cancelling, or comes where there is no process; all else is a runner's."""
    assert decisions.somebody_decided(prefect_server.flow_run(*states)) is decided


@pytest.mark.parametrize(("pid", "name", "decided"), [("h:1", "AwaitingRetry", False), ("h:1", "Resuming", True)])
def test_process_that_waits_for_its_retry(prefect_server: PrefectServer, pid: str, name: str, *, decided: bool) -> None:
    """What is scheduled and has a process was ended by its runner; what resumes has left its process behind."""
    states = ("RUNNING", State(type=StateType.SCHEDULED, name=name), "CANCELLED")
    assert decisions.somebody_decided(prefect_server.flow_run(*states, pid=pid)) is decided


@pytest.mark.parametrize(("outer", "decided"), [(("RUNNING", "CANCELLING"), True), (("RUNNING",), False)])
def test_outer_flow_run_counts(prefect_server: PrefectServer, outer: tuple[str, ...], *, decided: bool) -> None:
    """Whoever cancels a flow run means its subflows too."""
    outermost = prefect_server.flow_run(*outer)
    middle = prefect_server.flow_run("RUNNING", within=outermost)

    assert decisions.somebody_decided(prefect_server.flow_run("RUNNING", within=middle)) is decided


def test_no_answer_is_no_decision(prefect_server: PrefectServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither is no flow run, an unknown one, or a server that is away; the log says which error."""
    assert not decisions.somebody_decided(None)
    assert not caplog.records
    assert not decisions.somebody_decided(uuid4())
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert not decisions.somebody_decided(UUID(int=1))
    assert [record.message for record in caplog.records if record.name == decisions.__name__] == [
        "Prefect did not say whether somebody cancelled this flow run (ObjectNotFound).",
        "Prefect did not say whether somebody cancelled this flow run (RuntimeError).",
    ] or "(ConnectError)" in caplog.text


def test_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own limit of the task, or of the flow around it, has passed or has not."""
    from datetime import UTC, datetime, timedelta
    from types import SimpleNamespace

    from prefect.context import FlowRunContext, TaskRunContext

    def limits(task_limit: float | None, flow_limit: float | None, outer_limit: float | None = None) -> bool:
        began = datetime.now(UTC) - timedelta(seconds=5)
        inner = SimpleNamespace(task=SimpleNamespace(timeout_seconds=task_limit), start_time=began)
        around = SimpleNamespace(flow=SimpleNamespace(timeout_seconds=outer_limit), start_time=began)
        entered = SimpleNamespace(old_value=around)
        outer = SimpleNamespace(flow=SimpleNamespace(timeout_seconds=flow_limit), start_time=began, _token=entered)
        monkeypatch.setattr(TaskRunContext, "get", lambda: inner)
        monkeypatch.setattr(FlowRunContext, "get", lambda: outer)
        return decisions.timed_out()

    assert not decisions.timed_out()
    assert not limits(None, None)
    assert not limits(6, 6, 6)
    assert limits(4, 6)
    assert limits(6, 4)
    assert limits(None, 5)
    assert limits(None, None, 4)
