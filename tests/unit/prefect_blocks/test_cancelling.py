"""
Which of the steps that a flow run has on record may be cancelled. None of these reaches a service.
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

import pytest

from prefect_blocks.cancelling import _cancel, cleanup_deployment
from prefect_blocks.ledger import Recorded
from tl_orchestration.ledger.entry import Entry, Event, State, fold

FLOW_RUN = UUID("00000000-0000-4000-8000-000000000001")
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
    assert _cancel(FLOW_RUN, recorded(*states, **fields), LOG).what == what


def test_unknown_start_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the log learns which step may have left an execution behind."""
    _cancel(FLOW_RUN, recorded(State.INTENT, credentials="sandbox"), LOG)

    assert "Step check has a start of unknown fate" in caplog.text


def test_cleanup_is_found_wherever_it_is_installed() -> None:
    """The deployment names a module, not a file of this machine."""
    assert cleanup_deployment().entrypoint == "prefect_blocks.cancelling.cleanup_flow"
