"""
Starting an execution at most once per step, generation and attempt.

The intent is recorded and acknowledged before the POST, the id before anything else happens. A crash in between
leaves an intent without an outcome, and a later try then says so instead of starting again.

A retry finds what its step started and re-attaches; :func:`decide` is the whole of that judgement.
"""

from __future__ import annotations

import logging
from typing import Literal

from attrs import evolve, field, frozen, validators

from tl_orchestration.errors import (
    InvalidAnswer,
    LedgerError,
    NoAnswer,
    RequestChanged,
    ServerError,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.exchange import AppendEvent, ClaimStart, Clock, Flow, ReadLedger, Send, Sleep
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.ledger.entry import OPEN, UNDECIDED, Entry, Event, State
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.services import Service
from tl_orchestration.status import Status

log = logging.getLogger(__name__)

#: How often recording the id of a started execution is tried before it is given up, and the delay between, seconds.
_RECORD_TRIES = 5
_RECORD_DELAY = 1.0


@frozen(kw_only=True)
class Step:
    """
    Which step starts, and what it may do about an earlier start of its own.

    Args:
        key: Names the step in the ledger; the same over retries. Must not be personal.
        generation: The step's life: the same over retries, changed when a person clears the step to run anew.
        retry_failed: A retry opens a new attempt where the last one has ended without success. Without it, a retry
            reports that ending again.
        on_unknown_start: ``restart`` accepts one more start per generation after one of unknown fate.
        on_changed_request: ``reattach`` goes on with what was started even if the request has changed since.
    """

    key: str
    generation: str = ""
    retry_failed: bool = False
    on_unknown_start: Literal["fail", "restart"] = field(default="fail", validator=validators.in_(("fail", "restart")))
    on_changed_request: Literal["fail", "reattach"] = field(
        default="fail", validator=validators.in_(("fail", "reattach"))
    )


@frozen
class Attach:
    """
    Go on with an execution that exists.
    """

    execution_id: str


@frozen
class Begin:
    """
    Start one; the execution of an earlier generation, if it may still run, is cancelled first.
    """

    cancel_first: str | None = None


def decide(entry: Entry | None, step: Step, request: Fingerprint) -> Attach | Begin:
    """
    What a try has to do, from what the ledger holds.

    Raises:
        StartOutcomeUnknown: An earlier start's fate is unknown, and the step does not accept a restart.
        RequestChanged: The execution to go on with was started for another request.
    """
    if entry is None or entry.state is State.REJECTED:
        return Begin()
    same_generation = entry.generation == step.generation
    if entry.state in UNDECIDED:
        return _decide_undecided(entry, step, same_generation=same_generation)
    if entry.execution_id is None:
        raise LedgerError(f"The ledger entry of step {step.key} is {entry.state} without an execution id.")
    if not same_generation and not entry.adopted:
        return Begin(cancel_first=entry.execution_id if entry.state in OPEN else None)
    ended = entry.state is State.SETTLED or entry.cancel_requested
    if ended and step.retry_failed and entry.status != Status.SUCCEEDED:
        return Begin()
    if request.differs_from(entry.fingerprint, entry.fingerprint_key_id) and step.on_changed_request == "fail":
        raise RequestChanged(
            f"Step {step.key} has started execution {entry.execution_id} for another definition, record or parameters"
            " than this try asks for. Clear the step to start anew, or set on_changed_request='reattach'.",
            execution_id=entry.execution_id,
        )
    if entry.fingerprint_key_id not in {None, request.key_id}:
        log.info(
            "The credential was rotated since execution %s was started: whether the request changed cannot be told.",
            entry.execution_id,
        )
    return Attach(entry.execution_id)


def _decide_undecided(entry: Entry, step: Step, *, same_generation: bool) -> Begin:
    restarts = entry.restarts if same_generation else 0
    if step.on_unknown_start == "restart" and restarts == 0:
        log.warning("Step %s starts again after a start of unknown fate, as on_unknown_start says.", step.key)
        return Begin()
    raise unknown_start(step.key, entry.execution_id, "An earlier try of this step")


def unknown_start(key: str | None, execution_id: str | None, who: str) -> StartOutcomeUnknown:
    """
    The error for a start of unknown fate, with the way out.
    """
    found = f" The service named execution {execution_id}." if execution_id else ""
    way_out = (
        f" Look for it in the vendor's dashboard, then tell the ledger: `tl ledger adopt {key} EXECUTION_ID` if it"
        f" runs, `tl ledger not-started {key}` if it does not."
        if key
        else " Look for it in the vendor's dashboard before you run it again."
    )
    return StartOutcomeUnknown(
        f"{who} may or may not have started an execution: the service's answer never arrived.{found} Nothing was"
        f" repeated.{way_out}",
        key=key,
        execution_id=execution_id,
    )


def start_once(
    service: Service,
    request: RunRequest,
    step: Step,
    *,
    identity: Fingerprint,
    timeout: float,
    clock: Clock,
    start: Send,
    repeat: Send,
) -> Flow[Execution]:
    """
    Start the step's execution, or go on with the one that it has started.

    Args:
        identity: Digest of the request, to notice a changed one.
        timeout: Seconds from the intent to the deadline of the execution.
        start: Sends the POST; never repeats it unless it was provably not processed.
        repeat: Sends requests that may be repeated.

    Raises:
        StartOutcomeUnknown: See :func:`decide`, or this start's answer was lost.
        RequestChanged: See :func:`decide`.
        LedgerError: The intent could not be recorded; nothing was sent.
        TransactionlinkError: The service refused the start; a later try may start anew.
    """
    entry: Entry | None = yield ReadLedger(step.key)
    decision = decide(entry, step, identity)
    if isinstance(decision, Attach):
        execution = yield from service.poll(decision.execution_id, repeat)
        log.info("Re-attached to execution %s of step %s.", execution.id, step.key)
        return _with_handle(execution, step, entry, reattached=True)
    if decision.cancel_first is not None:
        yield from _cancel_former(service, decision.cancel_first, repeat)
    now = clock.now()
    expires_at = request.expiry(now, timeout)
    intent = Event(
        state=State.INTENT,
        at=now,
        generation=step.generation,
        fingerprint=identity.digest,
        fingerprint_key_id=identity.key_id,
        deadline=now + timeout,
        expires_at=expires_at.timestamp(),
    )
    yield ClaimStart(step.key, intent, entry)
    try:
        execution = yield from service.run(request, expires_at, start)
    except TransactionlinkError as error:
        yield from _record_failure(error, step, clock)
        raise
    recorded = yield from _record_started(execution, step, clock)
    return _with_handle(execution, step, recorded, reattached=False)


def start_unrecorded(
    service: Service, request: RunRequest, *, timeout: float, clock: Clock, start: Send
) -> Flow[Execution]:
    """
    Start without a ledger: the caller answers for not calling twice.

    Raises:
        StartOutcomeUnknown: The answer was lost.
    """
    now = clock.now()
    try:
        execution = yield from service.run(request, request.expiry(now, timeout), start)
    except TransactionlinkError as error:
        if is_unknown_fate(error):
            raise unknown_start(None, error.execution_id, "This call") from error
        raise
    return evolve(execution, handle=evolve(execution.handle, deadline=now + timeout, owned=True))


def is_unknown_fate(error: TransactionlinkError) -> bool:
    """
    Whether the service may have carried out a start that failed with this error.

    A definite refusal (4xx) did not start; neither did a request of which nothing was sent. Every 5xx, broken answer
    and time-out after sending may have.
    """
    if isinstance(error, NoAnswer):
        return error.sent
    return isinstance(error, ServerError | InvalidAnswer)


def _cancel_former(service: Service, execution_id: str, repeat: Send) -> Flow[None]:
    try:
        yield from service.cancel(execution_id, repeat)
        log.info("Cancelled execution %s, which an earlier generation of this step had left running.", execution_id)
    except TransactionlinkError as error:
        log.warning(
            "Execution %s of an earlier generation could not be cancelled (%s); if it still runs: `tl cancel %s`.",
            execution_id,
            type(error).__name__,
            execution_id,
        )


def _record_failure(error: TransactionlinkError, step: Step, clock: Clock) -> Flow[None]:
    if not is_unknown_fate(error):
        yield AppendEvent(step.key, Event(state=State.REJECTED, at=clock.now(), reason=type(error).__name__))
        return
    event = Event(state=State.UNKNOWN, at=clock.now(), execution_id=error.execution_id, reason=type(error).__name__)
    try:
        yield AppendEvent(step.key, event)
    except LedgerError:
        log.warning("The unknown fate of step %s could not be recorded; its intent is, and means the same.", step.key)
    raise unknown_start(step.key, error.execution_id, f"This try of the step failed ({error.message}) and") from error


def _record_started(execution: Execution, step: Step, clock: Clock) -> Flow[Entry]:
    event = Event(
        state=State.STARTED,
        at=clock.now(),
        execution_id=execution.id,
        expires_at=execution.handle.expires_at,
        raw_status=execution.raw_status or None,
    )
    for attempt in range(1, _RECORD_TRIES + 1):
        try:
            recorded: Entry = yield AppendEvent(step.key, event)
        except LedgerError as error:
            log.warning("Execution %s has started but is not recorded yet: %s", execution.id, error)
            if attempt < _RECORD_TRIES:
                yield Sleep(_RECORD_DELAY)
        else:
            return recorded
    raise StartOutcomeUnknown(
        f"Execution {execution.id} has started, but the ledger could not record it for step {step.key}. Once the"
        f" ledger is back: `tl ledger adopt {step.key} {execution.id}`.",
        key=step.key,
        execution_id=execution.id,
    )


def _with_handle(execution: Execution, step: Step, entry: Entry | None, *, reattached: bool) -> Execution:
    handle = Handle(
        execution_id=execution.id,
        service=execution.service,
        key=step.key,
        deadline=entry.deadline if entry else None,
        expires_at=execution.handle.expires_at or (entry.expires_at if entry else None),
        owned=not (entry is not None and entry.adopted and entry.generation != step.generation),
    )
    return evolve(execution, handle=handle, reattached=reattached)
