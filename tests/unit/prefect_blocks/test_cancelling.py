"""
Which of the steps that a flow run has on record may be cancelled. None of these reaches a service.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from prefect_blocks.cancelling import _cancel, cleanup_deployment
from prefect_blocks.ledger import Recorded
from tl_orchestration.ledger.entry import Entry, Event, State, fold

LOG = logging.getLogger(__name__)


def recorded(*states: State, **fields: Any) -> Recorded:
    entry: Entry | None = None
    for at, state in enumerate(states):
        known: dict[str, Any] = {} if state in {State.INTENT, State.UNKNOWN} else {"execution_id": "e-1"}
        entry = fold(entry, Event(state=state, at=float(at), **known))
    assert entry is not None
    return Recorded(step="check", namespace="n", entry=entry, **fields)


@pytest.mark.parametrize(
    ("states", "fields", "what"),
    [
        ((State.INTENT,), {"credentials": "sandbox"}, "failed"),
        ((State.INTENT, State.UNKNOWN), {"credentials": "sandbox"}, "failed"),
        ((State.INTENT, State.STARTED, State.SETTLED), {"credentials": "sandbox"}, "ended"),
        ((State.INTENT, State.STARTED), {"credentials": "sandbox", "on_cancel": "leave"}, "left"),
        ((State.INTENT, State.STARTED), {"credentials": None}, "failed"),
    ],
)
def test_nothing_is_sent(states: tuple[State, ...], fields: dict[str, Any], what: str) -> None:
    """A start of unknown fate, an ending, a block that says leave, a block without a name: each is told as it is."""
    assert [outcome.what for outcome in _cancel(recorded(*states, **fields), None, LOG)] == [what]


def test_unknown_start_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the log learns which step may have left an execution behind."""
    _cancel(recorded(State.INTENT, credentials="sandbox"), None, LOG)

    assert "Step check has a start of unknown fate" in caplog.text


def test_start_of_unknown_fate_that_was_followed_by_another_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A restart does not hide that the start before it may have left an execution, by whose id nobody can cancel it."""
    entry = fold(None, Event(state=State.INTENT, at=0.0, correlation_parameter="c", correlation_id="c-1"))
    entry = fold(entry, Event(state=State.UNKNOWN, at=1.0))
    entry = fold(entry, Event(state=State.INTENT, at=2.0))
    entry = fold(
        fold(entry, Event(state=State.STARTED, at=3.0, execution_id="e-2")), Event(state=State.SETTLED, at=4.0)
    )

    outcomes = _cancel(Recorded(step="check", namespace="n", entry=entry, credentials="sandbox"), None, LOG)

    assert [(outcome.execution_id, outcome.what) for outcome in outcomes] == [(None, "failed")]
    assert "c-1" in caplog.text


def test_block_that_says_leave_needs_nobody_to_look() -> None:
    """Where nothing is to be cancelled, a start of unknown fate fails no cleanup."""
    (outcome,) = _cancel(recorded(State.INTENT, State.UNKNOWN, credentials="sandbox", on_cancel="leave"), None, LOG)

    assert outcome.what == "left"


def test_cleanup_is_found_wherever_it_is_installed() -> None:
    """The deployment names a module, not a file of this machine."""
    assert cleanup_deployment().entrypoint == "prefect_blocks.cancelling.cleanup_flow"
