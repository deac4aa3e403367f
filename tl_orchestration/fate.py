"""
What a failed start means: nothing runs, or nobody knows.
"""

from __future__ import annotations

import logging
import shlex

from tl_orchestration.correlation import Correlation
from tl_orchestration.errors import (
    InvalidAnswer,
    LedgerError,
    NoAnswer,
    ServerError,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.exchange import AppendEvent, Clock, Flow
from tl_orchestration.ledger.entry import Entry, Event, State

log = logging.getLogger(__name__)


def is_unknown_fate(error: TransactionlinkError) -> bool:
    """
    Whether the service may have carried out a start that failed with this error.

    A definite refusal (4xx but 408) did not start; neither did a request of which nothing was sent. Every 5xx, broken
    answer and time-out after sending may have.
    """
    if isinstance(error, NoAnswer):
        return error.sent
    return isinstance(error, ServerError | InvalidAnswer)


def unknown_start(
    key: str | None,
    execution_id: str | None,
    who: str,
    *,
    correlation: Correlation | None = None,
    repeated: bool = False,
) -> StartOutcomeUnknown:
    """
    The error for a start of unknown fate, with the way out.

    Args:
        correlation: What to look for, where the start had such a parameter.
        repeated: Whether it was sent more than once, with the same idempotency key.
    """
    answer = (
        f"the service's answer named execution {execution_id}, but could not be accepted."
        if execution_id
        else "no usable answer of the service arrived."
    )
    what = (
        f"{who} may or may not have started an execution: {answer} "
        + ("It was repeated only with the same idempotency key." if repeated else "Nothing was repeated.")
        + f" Look for {sought(correlation)} in the vendor's dashboard"
    )
    if key is None:
        what += " before you run it again."
        return StartOutcomeUnknown(what, execution_id=execution_id)
    what, name = f"{what}.", shlex.quote(key)
    way_out = (
        f" Then tell the ledger: `tl ledger adopt {name} EXECUTION_ID --reason TEXT` if it runs,"
        f" `tl ledger not-started {name} --reason TEXT` if it does not."
    )
    return StartOutcomeUnknown(
        what + way_out,
        what=what,
        key=key,
        execution_id=execution_id,
        correlation_id=correlation.id if correlation else None,
    )


def sought(correlation: Correlation | None) -> str:
    """
    What a person has to look for, as the object of a sentence.
    """
    return f"{correlation} among the executions' parameters" if correlation else "it"


def record_failure(
    error: TransactionlinkError,
    key: str,
    claimed: Entry,
    clock: Clock,
    *,
    correlation: Correlation | None,
    unknown: bool,
    repeated: bool,
) -> Flow[None]:
    """
    Record what came of a start, REJECTED or UNKNOWN, if nobody has moved the step on since it was claimed.

    Raises:
        StartOutcomeUnknown: The latter.
    """
    event = Event(
        state=State.UNKNOWN if unknown else State.REJECTED,
        at=clock.now(),
        execution_id=error.execution_id,
        reason=type(error).__name__,
        version=claimed.version,
    )
    try:
        yield AppendEvent(key, event)
    except LedgerError:
        log.warning(
            "Step %s: %s could not be recorded; its intent is, and a later try takes that for an unknown fate.",
            key,
            event.state,
        )
    if not unknown:
        return
    who = f"This try of the step failed ({error.message}) and"
    raise unknown_start(key, error.execution_id, who, correlation=correlation, repeated=repeated) from error
