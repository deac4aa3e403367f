"""
Whether a person decided: by the state of the flow run, of those around it, and by its history.
"""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_blocks import decisions
from tests.unit.prefect_blocks.prefect_server import PrefectServer


@pytest.mark.parametrize(
    ("states", "decided"),
    [
        (("RUNNING",), False),
        (("RUNNING", "CANCELLING"), True),
        (("RUNNING", "CANCELLING", "CANCELLED"), True),
        (("SCHEDULED", "CANCELLED"), True),
        (("RUNNING", "PAUSED", "CANCELLED"), True),
        (("RUNNING", "CANCELLED"), False),
        (("PENDING", "CANCELLED"), False),
        (("RUNNING", "CANCELLING", "RUNNING", "CANCELLED"), False),
        (("CANCELLED",), True),
        (("RUNNING", "CRASHED"), False),
        (("RUNNING", "FAILED"), False),
        ((), False),
    ],
)
def test_states(prefect_server: PrefectServer, states: tuple[str, ...], *, decided: bool) -> None:
    """A person's cancel leads over Cancelling or comes without a process; a runner's follows what was at work."""
    assert decisions.somebody_decided(prefect_server.flow_run(*states)) is decided


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

    def limits(task_limit: float | None, flow_limit: float | None) -> bool:
        began = datetime.now(UTC) - timedelta(seconds=5)
        inner = SimpleNamespace(task=SimpleNamespace(timeout_seconds=task_limit), start_time=began)
        outer = SimpleNamespace(flow=SimpleNamespace(timeout_seconds=flow_limit), start_time=began)
        monkeypatch.setattr(TaskRunContext, "get", lambda: inner)
        monkeypatch.setattr(FlowRunContext, "get", lambda: outer)
        return decisions.timed_out()

    assert not decisions.timed_out()
    assert not limits(None, None)
    assert not limits(6, 6)
    assert limits(4, 6)
    assert limits(6, 4)
    assert limits(None, 5)
