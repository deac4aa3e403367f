"""
Tries of a step, held wherever they ask the world for something.
"""

from __future__ import annotations

from typing import Any

from tests.builders import SAME, FakeClock, entry, refusal_document, response, run_request
from tests.driving import Hand
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidRequest,
    NoAnswer,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    TransactionlinkError,
)
from tl_orchestration.exchange import ClaimStart, ReadLedger, once
from tl_orchestration.ledger.entry import Entry, State
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.start import Step, start_once

STEP = Step(key="dag/run/task", generation="0")
#: Every way for a start to end without a usable answer: what is thrown or answered, and the error that it is.
UNKNOWN_FATES: list[tuple[Any, type[TransactionlinkError]]] = [
    (NoAnswer("reset", sent=True), NoAnswer),
    (InvalidAnswer("compressed", status_code=200), InvalidAnswer),
    (response(500), ServerError),
    (response(502, body=b"<html>", content_type="text/html"), ServerError),
    (response(503, retry_after="1"), ServerError),
    (response(504), ServerError),
    (response(408), ServerError),
    (response(307, location="https://elsewhere"), InvalidAnswer),
    (response(200), InvalidAnswer),
    (response(204), InvalidAnswer),
    (response(200, body=b"<html>", content_type="text/html"), InvalidAnswer),
    (response(200, body=b"{broken"), InvalidAnswer),
    (response(200, {"status": "RUNNING"}), InvalidAnswer),
    (response(200, {"id": "../x", "status": "RUNNING"}), InvalidAnswer),
    (response(200, []), InvalidAnswer),
]
REFUSALS: list[tuple[Any, type[TransactionlinkError]]] = [
    (response(400, refusal_document()), InvalidRequest),
    (response(401), AuthenticationError),
    (response(403), PermissionDenied),
    (response(404), NotFound),
    (response(409), InvalidRequest),
    (response(422), InvalidRequest),
    (response(429), RateLimited),
    (NoAnswer("refused", sent=False), NoAnswer),
]


def held(state: State, **fields: Any) -> Entry:
    """What the ledger holds of a step whose execution is e-1, where one is known."""
    known = state not in {State.INTENT, State.UNKNOWN, State.REJECTED}
    defaults: dict[str, Any] = {"execution_id": "e-1" if known else None}
    if state is State.SETTLED:
        defaults |= {"status": "FAILED", "raw_status": "FAILED"}
    if state is State.CANCEL_REQUESTED:
        defaults |= {"cancel_requested": True}
    return entry(state, **defaults | fields)


def started(
    held: Entry | None = None,
    *,
    step: Step = STEP,
    request: RunRequest | None = None,
    clock: FakeClock | None = None,
    workspace: str | None = None,
    delivers: bool = False,
) -> Hand[Execution]:
    """start_once, held at what follows the ledger's answer."""
    clock = clock or FakeClock()
    hand = Hand(
        start_once(
            Transactionlink(now=clock.clock().now, workspace_id=workspace),
            request or run_request(),
            step,
            identity=SAME,
            timeout=3600,
            clock=clock.clock(),
            start=once,
            repeat=once,
            delivers=delivers,
        )
    )
    assert step.key == hand.asks(ReadLedger).key
    return hand.reply(held)


def posted(**options: Any) -> Hand[Execution]:
    """start_once, held at its POST."""
    hand = started(**options)
    hand.asks(ClaimStart)
    return hand.reply(entry(State.INTENT))


def meet(hand: Hand[Execution], outcome: Any) -> Hand[Execution]:
    """Answer a request, or throw where the outcome is an error."""
    return hand.fail(outcome) if isinstance(outcome, Exception) else hand.reply(outcome)
