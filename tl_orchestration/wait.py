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
from tl_orchestration.exchange import LAST_MOMENT, AppendEvent, Clock, Flow, Send, Sleep
from tl_orchestration.ledger.entry import Event, State
from tl_orchestration.models import Execution, Handle
from tl_orchestration.observer import SILENT, Metrics
from tl_orchestration.pacing import LONGEST_PAUSE, SAFETY_NET, Pacing
from tl_orchestration.services import Service
from tl_orchestration.status import Status

log = logging.getLogger(__name__)

#: How long a wait goes on after the execution's own expiry, seconds: clocks differ, and the service needs a moment.
EXPIRY_GRACE = 60.0
#: Longest time for all that follows a deadline, seconds: the last poll has ``LAST_MOMENT`` of it, a cancel or a look
#: for the result has the rest.
AFTERMATH = 10.0
#: What each of those requests has at least, seconds.
_AT_LEAST = 1.0
#: For how long a fresh execution may be unknown to the service's reading side, seconds.
READ_YOUR_START = 30.0
#: Polls after a hint whose change does not show yet: what the service reads from may lag behind what it sends.
FOLLOW_UPS = (2.0, 10.0)
_TRANSIENT = (NoAnswer, RateLimited, ServerError, InvalidAnswer)
_CREDENTIAL = (AuthenticationError, PermissionDenied)


@frozen(kw_only=True)
class Patience:
    """
    How a wait deals with time and failures.

    Args:
        pacing: Intervals between polls.
        safety_net: Intervals instead of them while the client has an inbox that can be read, whose hints make a poll
            immediate.
        error_budget: Seconds of unbroken failure after which the wait gives up; the execution goes on.
        credential_budget: The same for a credential that is refused after it has worked. None: the error budget. 0 is
            for a caller who can bring a new credential.
        cancel_on_timeout: Whether the deadline cancels the execution. None: if the handle owns it.
        on_change: Called with each poll that shows another status than the one before.
        quiet: Whether such changes are for the debug log only: whoever waits for thousands says how they stand.
    """

    pacing: Pacing = field(factory=Pacing)
    safety_net: Pacing = SAFETY_NET
    error_budget: float = 900.0
    credential_budget: float | None = None
    cancel_on_timeout: bool | None = None
    on_change: Callable[[Execution], None] | None = None
    quiet: bool = False


def wait(
    service: Service,
    handle: Handle,
    patience: Patience,
    *,
    send: Send,
    repeat: Send,
    clock: Clock,
    rng: random.Random,
    metrics: Metrics = SILENT,
    proven: bool = True,
) -> Flow[Execution]:
    """
    Poll until the execution has ended. Returns it, whatever its ending.

    Args:
        send: Sends a poll once; this flow decides what a failure means.
        repeat: Sends the result request and the cancel at the deadline, with retries.
        proven: Whether the credential counts as having worked, at the start or in another process's wait. Then a first
            poll that is answered 401 has met a token that is being rotated.

    Raises:
        WaitTimeout: Deadline or expiry has passed. The execution was cancelled if it is ours and its status is known.
        AuthenticationError, PermissionDenied: For longer than the credential budget; at the first poll at once, but for
            a 401 to a credential that is ``proven``, and for a handle that is ``polled``.
        NotFound: There is no such execution.
        NoAnswer, RateLimited, ServerError, InvalidAnswer: For longer than the error budget.
    """
    ends = _Ends(handle, clock)
    failures = _Failures(patience, clock, fresh=handle.owned, proven=proven, polled=handle.polled)
    began = clock.monotonic()
    seen: _Seen | None = None
    follow_ups: list[float] = []
    while True:
        pause = 0.0
        # Before a deadline is declared passed, the last poll is as persistent as a cancel would be.
        ask = ends.hurried(send if ends.remaining() > 0 else repeat, LAST_MOMENT)
        try:
            execution = yield from service.poll(handle.execution_id, ask)
        except TransactionlinkError as error:
            failures.forgive(error)  # raises what must not be forgiven
            pause = getattr(error, "retry_after", None) or 0.0
        else:
            failures.reset()
            if seen is None or execution.raw_status != seen.raw_status:
                follow_ups = []
                _notice(execution, patience, metrics)
            if execution.is_terminal:
                if seen is not None:
                    metrics.detected(clock.monotonic() - seen.at)
                yield from settle(execution, handle, clock)
                return execution
            seen = _Seen(execution.status, execution.raw_status, clock.monotonic())
            ends.learn(execution.handle.expires_at)
            del execution  # thousands of waits sleep at once: none needs to keep a whole answer
        remaining = ends.remaining()
        if remaining <= 0:
            hurried = ends.hurried(repeat, AFTERMATH)
            return (yield from _late(service, handle, patience, seen, ends, hurried, clock))
        waited, soon = clock.monotonic() - began, follow_ups.pop(0) if follow_ups else float("inf")
        often, rarely = (
            min(max(min(pacing.delay(waited, rng), soon), min(pause, LONGEST_PAUSE)), remaining)
            for pacing in (patience.pacing, patience.safety_net)
        )
        hinted = yield Sleep(often, hintable=pause == 0, with_hints=rarely)
        if hinted:
            follow_ups = [*FOLLOW_UPS]


def _notice(execution: Execution, patience: Patience, metrics: Metrics) -> None:
    level = logging.DEBUG if patience.quiet else logging.INFO
    log.log(level, "Execution %s is %s (%s).", execution.id, execution.status, execution.raw_status)
    metrics.noticed(execution)
    if patience.on_change is not None:
        patience.on_change(execution)


@frozen
class _Seen:
    """
    What the last poll that was answered said, and when.
    """

    status: Status
    raw_status: str
    at: float


class _Ends:
    """
    The earlier of deadline and expiry, measured on the monotonic clock from here on.
    """

    def __init__(self, handle: Handle, clock: Clock) -> None:
        self._clock = clock
        self._deadline = handle.deadline
        self._measure(handle.expires_at)

    def learn(self, expires_at: float | None) -> None:
        """
        Take over the expiry that the service tells: an id alone brings none.
        """
        if expires_at is not None and expires_at != self._expires_at:
            self._measure(expires_at)

    def _measure(self, expires_at: float | None) -> None:
        self._expires_at = expires_at
        limits = []
        if self._deadline is not None:
            limits.append((self._deadline, "its deadline"))
        if expires_at is not None:
            limits.append((expires_at + EXPIRY_GRACE, "its expiry"))
        self.at: float | None
        self.at, self.why = min(limits, default=(None, "nothing"))
        self._known_at = self._clock.monotonic()
        self._monotonic = None if self.at is None else self._known_at + (self.at - self._clock.now())

    def remaining(self) -> float:
        return float("inf") if self._monotonic is None else self._monotonic - self._clock.monotonic()

    def hurried(self, send: Send, seconds: float) -> Send:
        """
        Send so that the answer is there so many seconds after the end; after now, if that was over before it was known.
        """
        if self._monotonic is None:
            return send
        over = max(self._monotonic, self._known_at) + seconds
        return lambda request: send(evolve(request, within=max(_AT_LEAST, over - self._clock.monotonic())))


def may_pass(error: TransactionlinkError, *, polled: bool) -> bool:
    """
    Whether a poll that failed so says nothing about the execution, and a wait for it would try again.

    Args:
        polled: Whether this credential has been answered before when it asked about the execution. Then a 403 may pass,
            too.
    """
    if isinstance(error, PermissionDenied):
        return polled
    return isinstance(error, (*_TRANSIENT, AuthenticationError))


class _Failures:
    """
    Which failure of a poll is forgiven, and for how long.
    """

    def __init__(self, patience: Patience, clock: Clock, *, fresh: bool, proven: bool, polled: bool) -> None:
        self._budget = patience.error_budget
        self._credential_budget = (
            patience.error_budget if patience.credential_budget is None else patience.credential_budget
        )
        self._proven = proven
        self._fresh = fresh
        self._clock = clock
        self._began = clock.monotonic()
        self._since: float | None = None
        self._polled = polled

    def reset(self) -> None:
        self._since = None
        self._polled = True

    def forgive(self, error: TransactionlinkError) -> None:
        """
        Return if the wait may go on; else raise the error.

        A refused credential is forgiven where it has worked before: a rotated token must not kill what waits. A missing
        permission is said at once, unless it was there. An unknown id is forgiven for a moment where we started it.
        """
        now = self._clock.monotonic()
        first = self._since is None
        self._since = now if self._since is None else self._since
        if isinstance(error, NotFound):
            budget = self._budget if self._polled else READ_YOUR_START if self._fresh else -1.0
        elif isinstance(error, _CREDENTIAL):
            worked = self._polled or (self._proven and isinstance(error, AuthenticationError))
            budget = self._credential_budget if worked else -1.0
        elif isinstance(error, _TRANSIENT):
            budget = self._budget
        else:
            raise error
        if budget <= 0 or now - self._since > budget:
            raise error
        # One line per spell of failure, not per poll: thousands may wait through the same outage.
        log.log(logging.WARNING if first else logging.DEBUG, "A poll failed and is tried again: %s", error)


def _late(
    service: Service,
    handle: Handle,
    patience: Patience,
    seen: _Seen | None,
    ends: _Ends,
    repeat: Send,
    clock: Clock,
) -> Flow[Execution]:
    """
    Do what a passed deadline asks for, a cancel or a look for the result. Returns the execution if the cancel finds
    that it has ended by itself after all.

    Raises:
        WaitTimeout: In every other case.
    """
    known = seen is not None and seen.status is not Status.UNKNOWN
    cancel = handle.owned if patience.cancel_on_timeout is None else patience.cancel_on_timeout
    cancelled, available = False, None
    if not known:
        # Perhaps it has ended in a way that we cannot read: never cancelled, but the result is worth a look.
        available = yield from _has_result(service, handle, repeat)
        why = (
            "could not be asked" if seen is None else "is not one that this version can read (status_map can teach it)"
        )
        outcome = (
            f"It was not cancelled, because its status {why};"
            f" {'a result is there' if available else 'no result was there'}."
        )
    elif cancel and not service.can_cancel:
        outcome = "It goes on: this service cannot cancel it."
    elif cancel:
        after = yield from _cancel(service, handle, repeat, clock, reason=f"{ends.why} has passed")
        if isinstance(after, Execution):
            if after.is_terminal and after.status is not Status.CANCELLED:
                return after
            cancelled, outcome = True, "It was cancelled."
        elif after.cancel_accepted:
            cancelled, outcome = True, "Its cancel was accepted, but its status since then could not be read."
        else:
            outcome = f"It could not be cancelled: {after} If it still runs: `tl cancel {handle.execution_id}`."
    else:
        outcome = "It was left running."
    when = datetime.fromtimestamp(ends.at or 0.0, UTC).isoformat(timespec="seconds")
    raw = seen.raw_status if seen else None
    raise WaitTimeout(
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


def _cancel(
    service: Service, handle: Handle, repeat: Send, clock: Clock, *, reason: str
) -> Flow[Execution | TransactionlinkError]:
    """
    Cancel because a deadline decided, with the decision in the ledger first. Returns the error if it did not work.
    """
    yield from record(handle, Event(state=State.CANCEL_REQUESTED, at=clock.now(), reason=reason))
    try:
        execution = yield from service.cancel(handle.execution_id, repeat)
    except TransactionlinkError as error:
        if error.cancel_accepted:
            log.warning("%s", error)
        else:
            log.warning(
                "Execution %s could not be cancelled: %s If it still runs: `tl cancel %s`.",
                handle.execution_id,
                error,
                handle.execution_id,
            )
        return error
    if execution.is_terminal:
        yield from settle(execution, handle, clock)
    log.info("Execution %s was asked to end (%s) and is %s.", handle.execution_id, reason, execution.status)
    return execution


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
