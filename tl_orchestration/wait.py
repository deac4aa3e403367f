"""
Waiting for an execution to end: one deadline, a budget for failures, one last poll.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime

from attrs import evolve, field, frozen

from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    LedgerError,
    NoAnswer,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    TransactionlinkError,
    WaitTimeout,
)
from tl_orchestration.exchange import AppendEvent, Clock, Flow, Send, Sleep
from tl_orchestration.ledger.entry import Event, State
from tl_orchestration.models import Execution, Handle
from tl_orchestration.pacing import Pacing
from tl_orchestration.services import Service
from tl_orchestration.status import Status

log = logging.getLogger(__name__)

#: How long a wait goes on after the execution's own expiry, seconds: clocks differ, and the service needs a moment.
EXPIRY_GRACE = 60.0
#: For how long a fresh execution may be unknown to the service's reading side, seconds.
READ_YOUR_START = 30.0
_TRANSIENT = (NoAnswer, RateLimited, ServerError, InvalidAnswer)
_CREDENTIAL = (AuthenticationError, PermissionDenied)


@frozen(kw_only=True)
class Patience:
    """
    How a wait deals with time and failures.

    Args:
        pacing: Intervals between polls.
        error_budget: Seconds of unbroken failure after which the wait gives up; the execution goes on.
        cancel_on_timeout: Whether the deadline cancels the execution. None: if the handle owns it.
        on_change: Called with each poll that shows another status than the one before.
    """

    pacing: Pacing = field(factory=Pacing)
    error_budget: float = 900.0
    cancel_on_timeout: bool | None = None
    on_change: Callable[[Execution], None] | None = None


def wait(
    service: Service,
    handle: Handle,
    patience: Patience,
    *,
    send: Send,
    repeat: Send,
    clock: Clock,
    rng: random.Random,
) -> Flow[Execution]:
    """
    Poll until the execution has ended. Returns it, whatever its ending.

    Args:
        send: Sends a poll once; this flow decides what a failure means.
        repeat: Sends the result request and the cancel at the deadline, with retries.

    Raises:
        WaitTimeout: Deadline or expiry has passed. The execution was cancelled if it is ours and its status is known.
        AuthenticationError, PermissionDenied: At the first poll, or for longer than the error budget.
        NotFound: There is no such execution.
        NoAnswer, RateLimited, ServerError, InvalidAnswer: For longer than the error budget.
    """
    ends = _Ends(handle, clock)
    failures = _Failures(patience.error_budget, clock, fresh=handle.owned)
    began = clock.monotonic()
    seen: Execution | None = None
    while True:
        pause = 0.0
        try:
            execution = yield from service.poll(handle.execution_id, send)
        except TransactionlinkError as error:
            failures.forgive(error)  # raises what must not be forgiven
            pause = getattr(error, "retry_after", None) or 0.0
        else:
            failures.reset()
            if seen is None or execution.raw_status != seen.raw_status:
                _notice(execution, patience)
            seen = execution
            if execution.is_terminal:
                yield from settle(execution, handle, clock)
                return execution
        remaining = ends.remaining()
        if remaining <= 0:
            raise (yield from _timed_out(service, handle, patience, seen, ends, repeat, clock))
        delay = patience.pacing.delay(clock.monotonic() - began, rng)
        yield Sleep(min(max(delay, min(pause, 300.0)), remaining))


def _notice(execution: Execution, patience: Patience) -> None:
    log.info("Execution %s is %s (%s).", execution.id, execution.status, execution.raw_status)
    if patience.on_change is not None:
        patience.on_change(execution)


class _Ends:
    """
    The earlier of deadline and expiry, measured on the monotonic clock from here on.
    """

    def __init__(self, handle: Handle, clock: Clock) -> None:
        self._clock = clock
        limits = []
        if handle.deadline is not None:
            limits.append((handle.deadline, "its deadline"))
        if handle.expires_at is not None:
            limits.append((handle.expires_at + EXPIRY_GRACE, "its expiry"))
        self.at: float | None
        self.at, self.why = min(limits, default=(None, "nothing"))
        self._monotonic = None if self.at is None else clock.monotonic() + (self.at - clock.now())

    def remaining(self) -> float:
        return float("inf") if self._monotonic is None else self._monotonic - self._clock.monotonic()


class _Failures:
    """
    Which failure of a poll is forgiven, and for how long.
    """

    def __init__(self, budget: float, clock: Clock, *, fresh: bool) -> None:
        self._budget = budget
        self._fresh = fresh
        self._clock = clock
        self._began = clock.monotonic()
        self._since: float | None = None
        self._polled = False

    def reset(self) -> None:
        self._since = None
        self._polled = True

    def forgive(self, error: TransactionlinkError) -> None:
        """
        Return if the wait may go on; else raise the error.

        A refused credential is forgiven only where it has worked before in this wait: a rotated token must not kill
        what waits, a wrong one must be said at once. An unknown id is forgiven for a moment where we started it.
        """
        now = self._clock.monotonic()
        self._since = now if self._since is None else self._since
        if isinstance(error, NotFound):
            budget = self._budget if self._polled else READ_YOUR_START if self._fresh else -1.0
        elif isinstance(error, _CREDENTIAL):
            budget = self._budget if self._polled else -1.0
        elif isinstance(error, _TRANSIENT):
            budget = self._budget
        else:
            raise error
        if now - self._since > budget:
            raise error
        log.warning("A poll failed and is tried again: %s", error)


def _timed_out(
    service: Service,
    handle: Handle,
    patience: Patience,
    seen: Execution | None,
    ends: _Ends,
    repeat: Send,
    clock: Clock,
) -> Flow[WaitTimeout]:
    """
    The error for a passed deadline, after what the deadline asks for: a cancel, or a look for the result.
    """
    known = seen is not None and seen.status is not Status.UNKNOWN
    cancel = handle.owned if patience.cancel_on_timeout is None else patience.cancel_on_timeout
    cancelled, available = False, None
    if not known:
        # Perhaps it has ended in a way that we cannot read: never cancelled, but the result is worth a look.
        available = yield from _has_result(service, handle, repeat)
        outcome = (
            "It was not cancelled, because this version cannot read its status (status_map can teach it);"
            f" {'a result is there' if available else 'no result was there'}."
        )
    elif cancel:
        cancelled = yield from _cancel(service, handle, repeat, clock, reason=f"{ends.why} has passed")
        outcome = "It was cancelled." if cancelled else "It could not be cancelled."
    else:
        outcome = "It was left running."
    when = datetime.fromtimestamp(ends.at or 0.0, UTC).isoformat(timespec="seconds")
    raw = seen.raw_status if seen else None
    return WaitTimeout(
        f"Execution {handle.execution_id} has not ended: {ends.why} passed at {when} and its status"
        f" is {raw or 'not known'}. {outcome}",
        execution_id=handle.execution_id,
        raw_status=raw,
        result_available=available,
        cancelled=cancelled,
    )


def _has_result(service: Service, handle: Handle, repeat: Send) -> Flow[bool]:
    try:
        yield from service.result(handle.execution_id, repeat)
    except TransactionlinkError:
        return False
    return True


def _cancel(service: Service, handle: Handle, repeat: Send, clock: Clock, *, reason: str) -> Flow[bool]:
    """
    Cancel because a person or a deadline decided, with the decision in the ledger first. False if it did not work.
    """
    yield from record(handle, Event(state=State.CANCEL_REQUESTED, at=clock.now(), reason=reason))
    try:
        yield from service.cancel(handle.execution_id, repeat)
    except TransactionlinkError as error:
        log.warning(
            "Execution %s could not be cancelled: %s If it still runs: `tl cancel %s`.",
            handle.execution_id,
            error,
            handle.execution_id,
        )
        return False
    log.info("Execution %s was cancelled: %s.", handle.execution_id, reason)
    return True


def settle(execution: Execution, handle: Handle, clock: Clock) -> Flow[None]:
    """
    Record how an execution has ended.
    """
    event = Event(state=State.SETTLED, at=clock.now(), raw_status=execution.raw_status, status=execution.status.value)
    yield from record(handle, event)


def record(handle: Handle, event: Event) -> Flow[None]:
    """
    Write to the ledger where there is one. What is not recorded here can be read from the service again, so a ledger
    that refuses (a step that was taken from us, a store that is down) is reported and does not change the outcome.
    """
    if handle.key is None:
        return
    try:
        yield AppendEvent(handle.key, evolve(event, execution_id=handle.execution_id))
    except LedgerError as error:
        log.warning("Execution %s: %s could not be recorded: %s", handle.execution_id, event.state, error)
