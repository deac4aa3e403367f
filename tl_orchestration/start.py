"""
Starting an execution at most once per step, generation and attempt.

The intent is recorded and acknowledged before the POST, the id before anything else happens. A crash in between
leaves an intent without an outcome, and a later try then says so instead of starting again.

A retry finds what its step started and re-attaches; :func:`decide` is the whole of that judgement.
"""

from __future__ import annotations

import logging
import shlex
from typing import Literal

from attrs import evolve, field, frozen, validators

from tl_orchestration.attempt import SAME_KEY_TRIES, ids_to_begin_with, make_all, prepare, run_recorded
from tl_orchestration.claim import SETTLE_MARGIN, SETTLE_WINDOW, Claim
from tl_orchestration.correlation import check_free, check_parameter, recorded_correlation
from tl_orchestration.delivery import given_up, is_lost, link_lost
from tl_orchestration.errors import (
    InvalidRequest,
    LedgerError,
    RequestChanged,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.exchange import AppendEvent, Clock, Flow, Send, Sleep
from tl_orchestration.fate import is_unknown_fate, unknown_start
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.ledger.entry import OPEN, UNDECIDED, Entry, Event, State, purged
from tl_orchestration.ledger.key import checked_key
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.services import Service
from tl_orchestration.services.service import IDEMPOTENCY_KEY
from tl_orchestration.status import Status
from tl_orchestration.wait import may_pass, settle

log = logging.getLogger(__name__)

#: How often recording the id of a started execution is tried before it is given up, and the delay between, seconds.
_RECORD_TRIES = 5
_RECORD_DELAY = 1.0


@frozen(kw_only=True)
class Step:
    """
    Which step starts, and what it may do about an earlier start of its own.

    Args:
        key: Names the step in the ledger; the same over retries: printable text of at most 2,000 bytes. Must not be
            personal.
        generation: The step's life: the same over retries, changed when a person clears the step to run anew.
        retry_failed: A retry opens a new attempt where the last one has ended without success. Without it, a retry
            reports that ending again. An execution whose cancel was decided but never confirmed is cancelled once more
            before, and nothing is started beside it.
        on_partial: ``accept`` takes an ending as PARTIAL for a success, which ``retry_failed`` does not run again.
        on_unknown_start: ``restart`` accepts one more start per generation after one of unknown fate.
            ``repeat-same-key`` sends the same start with the same idempotency key again, some times at once and in one
            later try; only for a service that takes a key (B3OS), and on the caller's trust in it: what the service
            makes of the key is documented nowhere.
        on_changed_request: ``reattach`` goes on with what was started even if the request has changed since.
        on_link_lost: What a try with ``on_link`` does about an interactive execution of an earlier one, of which no
            delivery of the link is on record and whose link the service does not show again. ``restart`` cancels it
            and starts another.
        correlation_parameter: A name that the request's parameters do not have. Each start is given a random id under
            it, which the ledger knows before the start is sent: so after one of unknown fate a person can look for it
            in the vendor's dashboard. The workflow definition must take such a parameter. Must not be personal.
    """

    key: str = field(converter=checked_key)
    generation: str = ""
    retry_failed: bool = False
    on_partial: Literal["fail", "accept"] = field(default="fail", validator=validators.in_(("fail", "accept")))
    on_unknown_start: Literal["fail", "restart", "repeat-same-key"] = field(
        default="fail", validator=validators.in_(("fail", "restart", "repeat-same-key"))
    )
    on_changed_request: Literal["fail", "reattach"] = field(
        default="fail", validator=validators.in_(("fail", "reattach"))
    )
    on_link_lost: Literal["fail", "restart"] = field(default="fail", validator=validators.in_(("fail", "restart")))
    correlation_parameter: str | None = field(
        default=None, validator=lambda step, attribute, name: check_parameter(name)
    )

    @property
    def most_sends(self) -> int:
        """
        How often one try may send its start and get no answer that tells its fate.
        """
        return SAME_KEY_TRIES if self.on_unknown_start == "repeat-same-key" else 1


@frozen
class Attach:
    """
    Go on with an execution that exists.
    """

    execution_id: str


@frozen
class Begin:
    """
    Start one; the execution of an earlier generation, if it may still run, is cancelled first. ``own``: it is this
    generation's, whose cancel was decided and perhaps never arrived; nothing is started beside it. ``same_key``: an
    earlier start with this idempotency key has an unknown fate.
    """

    cancel_first: str | None = None
    own: bool = False
    same_key: bool = False


def decide(entry: Entry | None, step: Step, request: Fingerprint) -> Attach | Begin:
    """
    What a try has to do, from what the ledger holds.

    Raises:
        StartOutcomeUnknown: An earlier start's fate is unknown, and the step does not accept a restart.
        RequestChanged: The execution to go on with was started for another request.
        KeyPurged: The ledger was told to forget what this key has started.
    """
    if entry is None or entry.state is State.REJECTED:
        return Begin()
    if entry.state is State.PURGED:
        raise purged(entry)
    if entry.state in UNDECIDED:
        return Begin() if entry.preparing else _decide_undecided(entry, step, request)
    if entry.execution_id is None:
        raise LedgerError(f"The ledger entry of step {step.key} is {entry.state} without an execution id.")
    if not entry.belongs_to(step.generation):
        return Begin(cancel_first=entry.execution_id if entry.state in OPEN and not entry.adopted else None)
    replaces = step.retry_failed or (step.on_link_lost == "restart" and entry.link_lost)
    if replaces and entry.state is State.CANCEL_REQUESTED:
        return Begin(cancel_first=entry.execution_id, own=True)
    if replaces and entry.state is State.SETTLED and entry.status not in _successes(step):
        return Begin()
    if request.differs_from(entry.fingerprint, entry.fingerprint_key_id) and step.on_changed_request == "fail":
        what = (
            f"Step {step.key} has started execution {entry.execution_id} for another definition, record or parameters"
            " than this try asks for."
        )
        raise RequestChanged(
            f"{what} {_anew(step)}, or set on_changed_request='reattach'.",
            what=what,
            execution_id=entry.execution_id,
        )
    if entry.fingerprint_key_id not in {None, request.key_id}:
        log.info(
            "The credential was rotated since execution %s was started: whether the request changed cannot be told.",
            entry.execution_id,
        )
    return Attach(entry.execution_id)


def _anew(step: Step) -> str:
    """
    How a step's owner gets another start: a key without generations is a caller's own, which nobody can clear.
    """
    return "Clear the step to start anew" if step.generation else "Use another key to start anew"


def _successes(step: Step) -> frozenset[str]:
    return frozenset({Status.SUCCEEDED, Status.PARTIAL} if step.on_partial == "accept" else {Status.SUCCEEDED})


def _decide_undecided(entry: Entry, step: Step, request: Fingerprint) -> Begin:
    same_generation = entry.generation == step.generation
    restarts = entry.restarts if same_generation else 0
    same_request = same_generation and request.is_of(entry.fingerprint, entry.fingerprint_key_id)
    same_start = same_request and IDEMPOTENCY_KEY in entry.progress
    if step.on_unknown_start == "repeat-same-key" and restarts == 0 and same_start:
        log.warning("Step %s repeats a start of unknown fate with the same idempotency key.", step.key)
        return Begin(same_key=True)
    if step.on_unknown_start == "restart" and restarts == 0:
        log.warning("Step %s starts again after a start of unknown fate, as on_unknown_start says.", step.key)
        return Begin()
    raise unknown_start(
        step.key, entry.execution_id, "An earlier try of this step", correlation=recorded_correlation(entry)
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
    settle: float = SETTLE_WINDOW,
    fenced: bool = True,
    delivers: bool = False,
) -> Flow[Execution]:
    """
    Start the step's execution, or go on with the one that it has started.

    Args:
        identity: Digest of the request, to notice a changed one.
        timeout: Seconds from the intent to the deadline of the execution.
        start: Sends the POST; never repeats it unless it was provably not processed.
        repeat: Sends requests that may be repeated.
        settle: Longest time from an intent to its outcome, seconds; goes on record with it, for whoever finds it.
        fenced: Whether the ledger takes nothing from a process that has lost the step. If not, an intent that is found
            may be another process's that is at it.
        delivers: Whether the caller hands links over, so that he must not be left with an execution that waits for a
            person who was given none.

    Raises:
        StartOutcomeUnknown: See :func:`decide`, or this start's answer was lost.
        LinkLost: The link of an earlier try's execution is gone, and the step does not accept a restart.
        RequestChanged, KeyPurged: See :func:`decide`.
        InvalidRequest: The step's policy does not fit the service, or its correlation parameter is taken; nothing was
            sent.
        LedgerError: The intent could not be recorded, or another process is at the same step; nothing was sent.
        TransactionlinkError: The service refused the start; a later try may start anew.
    """
    _check_policy(step, service)
    check_free(request, step.correlation_parameter)
    claim, claimed = Claim(step.key, clock, fenced=fenced), None
    while claimed is None:
        entry = yield from claim.read()
        if not fenced:
            _check_turn(entry, step)
        decision = decide(entry, step, identity)
        if isinstance(decision, Attach):
            execution = yield from _go_on(
                service, decision.execution_id, step, entry, identity, timeout, clock, repeat, delivers=delivers
            )
            if entry is None or not (delivers and is_lost(execution, entry)):
                return execution
            delivering = yield from claim.may_be_delivering(entry)
            if delivering:
                continue
            if step.on_link_lost == "fail":
                raise link_lost(execution.id, step.key)
            service.expiry(request, clock.now(), timeout)  # a request that cannot be started ends nothing
            log.warning("Step %s gives execution %s up: nobody was given its link.", step.key, execution.id)
            yield AppendEvent(step.key, given_up(entry, clock.now()))
            continue
        if decision.cancel_first is not None:
            service.expiry(request, clock.now(), timeout)  # a request that cannot be started ends nothing
            if decision.own:
                ended = yield from _end(service, decision.cancel_first, step, clock, repeat)
                if ended:
                    continue
            else:
                yield from _cancel_former(service, decision.cancel_first, repeat)
        now = clock.now()
        expires_at = service.expiry(request, now, timeout)
        ids = ids_to_begin_with(
            service,
            entry,
            step.generation,
            identity,
            correlation_parameter=step.correlation_parameter,
            same_key=decision.same_key,
        )
        correlation = ids.correlation
        asked = correlation.added_to(request) if correlation else request
        intent = Event(
            state=State.INTENT,
            at=now,
            generation=step.generation,
            fingerprint=identity.digest,
            fingerprint_key_id=identity.key_id,
            deadline=now + timeout,
            expires_at=None if expires_at is None else expires_at.timestamp(),
            progress=ids.known,
            preparing=bool(service.needs(asked, ids.known)),
            correlation_parameter=correlation.parameter if correlation else None,
            correlation_id=correlation.id if correlation else None,
            settles_at=now + settle,
        )
        unknown = decision.same_key
        claimed = yield from claim.claim(intent, entry)
    claimed = yield from prepare(service, asked, step.key, intent, claimed, clock, start, settle=settle)
    execution = yield from run_recorded(
        lambda: service.run(asked, expires_at, _in_time(start, claimed), claimed.progress),
        step.key,
        claimed,
        clock,
        correlation=correlation,
        tries=step.most_sends,
        unknown=unknown,
    )
    recorded = yield from _record_started(execution, step, clock)
    return _with_handle(execution, step, recorded, reattached=False)


def _in_time(start: Send, claimed: Entry) -> Send:
    """
    Keep a start from leaving after the time that its intent has announced: by then others may act on its fate.
    """
    over_by = None if claimed.settles_at is None else claimed.settles_at - SETTLE_MARGIN
    return lambda request: start(request if request.repeatable else evolve(request, over_by=over_by))


def _go_on(
    service: Service,
    execution_id: str,
    step: Step,
    entry: Entry | None,
    identity: Fingerprint,
    timeout: float,
    clock: Clock,
    repeat: Send,
    *,
    delivers: bool,
) -> Flow[Execution]:
    """
    Re-attach to an execution. What a wait for it would outlive is no reason to fail here: then it is returned as the
    ledger knows it, as long as there is time left to wait, and unless its link may have to be delivered.
    """
    if entry is not None and entry.adopted and entry.consumed_by is None:
        # The first try that goes on with it uses the verdict up. One that a person has cleared the step for begins its
        # own time: the former deadline may have passed while that person was looking.
        now, cleared = clock.now(), entry.generation != step.generation
        taken = Event(
            state=entry.state,
            at=now,
            execution_id=execution_id,
            consumed_by=step.generation,
            version=entry.version,
            deadline=now + timeout if cleared else None,
        )
        entry = yield AppendEvent(step.key, taken)
    polled = entry is not None and entry.polled_with == identity.key_id
    undelivered = entry is not None and entry.state is State.STARTED and entry.interactive is not False
    link_wanted = delivers and undelivered
    try:
        execution = yield from service.poll(execution_id, repeat)
    except TransactionlinkError as error:
        if entry is None or link_wanted or not may_pass(error, polled=polled) or not _has_time(entry, clock):
            raise error.about(execution_id) from None
        log.warning(
            "Execution %s of step %s is known, but could not be asked about yet: %s", execution_id, step.key, error
        )
        return _with_handle(_as_recorded(service, execution_id, entry), step, entry, reattached=True, polled=polled)
    log.info("Re-attached to execution %s of step %s.", execution.id, step.key)
    attached = _with_handle(execution, step, entry, reattached=True, polled=True)
    if attached.is_terminal and (entry is None or entry.state is not State.SETTLED):
        # It has ended while nobody watched: the next try must know that this attempt is over.
        yield from settle(attached, attached.handle, clock)
    elif entry is not None and entry.state in OPEN and not link_wanted and not polled:
        yield from _note_poll(entry, step, identity, clock)
    return attached


def _has_time(entry: Entry, clock: Clock) -> bool:
    ends = [moment for moment in (entry.deadline, entry.expires_at) if moment is not None]
    return entry.deadline is not None and clock.now() < min(ends)


def _as_recorded(service: Service, execution_id: str, entry: Entry) -> Execution:
    ended = entry.status if entry.state is State.SETTLED else None
    return Execution(
        id=execution_id,
        status=Status(ended) if ended else Status.UNKNOWN,
        raw_status=entry.raw_status or "",
        service=service.name,
        handle=service.handle_of(execution_id),
    )


def _note_poll(entry: Entry, step: Step, identity: Fingerprint, clock: Clock) -> Flow[None]:
    """
    Record once that the credential may look at the execution: a 403 later on is then no missing permission.
    """
    noted = Event(
        state=entry.state,
        at=clock.now(),
        execution_id=entry.execution_id,
        version=entry.version,
        reason=entry.reason,
        polled_with=identity.key_id,
    )
    try:
        yield AppendEvent(step.key, noted)
    except LedgerError as error:
        log.debug("Execution %s: its poll could not be recorded: %s", entry.execution_id, error)


def _check_turn(entry: Entry | None, step: Step) -> None:
    """
    Raises:
        LedgerError: A later generation has taken the step over. A process that is left over from an earlier one must
            neither start nor end anything; a fenced ledger would not have let it write.
    """
    if entry is not None and step.generation in entry.past:
        raise LedgerError(
            f"Step {step.key} has gone on to another generation: this try belongs to an earlier one. Nothing was sent."
            " Clear the step to start anew."
        )


def _check_policy(step: Step, service: Service) -> None:
    if step.on_unknown_start == "repeat-same-key" and not service.keyed:
        raise InvalidRequest(
            f"on_unknown_start='repeat-same-key' needs a service that takes an idempotency key; {service.name} takes"
            " none."
        )


def start_unrecorded(
    service: Service, request: RunRequest, *, timeout: float, clock: Clock, start: Send
) -> Flow[Execution]:
    """
    Start without a ledger: the caller answers for not calling twice.

    Raises:
        StartOutcomeUnknown: The answer was lost.
    """
    now = clock.now()
    expires_at = service.expiry(request, now, timeout)
    ids = yield from make_all(service, request, start)
    try:
        execution = yield from service.run(request, expires_at, start, ids)
    except TransactionlinkError as error:
        if is_unknown_fate(error):
            raise unknown_start(None, error.execution_id, "This call") from error
        raise
    return evolve(execution, handle=evolve(execution.handle, deadline=now + timeout, owned=True))


def _cancel_former(service: Service, execution_id: str, repeat: Send) -> Flow[None]:
    try:
        yield from service.cancel(execution_id, repeat)
        log.info("Cancelled execution %s, which an earlier generation of this step had left running.", execution_id)
    except TransactionlinkError as error:
        if error.cancel_accepted:
            log.warning("An earlier generation of this step had left it running. %s", error)
            return
        log.warning(
            "Execution %s of an earlier generation could not be cancelled (%s); if it still runs: `tl cancel %s`.",
            execution_id,
            type(error).__name__,
            execution_id,
        )


def _end(service: Service, execution_id: str, step: Step, clock: Clock, repeat: Send) -> Flow[bool]:
    """
    Cancel the step's own execution again, whose cancel was decided and perhaps never arrived. Returns whether it has
    ended, which is then on record; if not, the service has at least accepted the cancel.

    Raises:
        TransactionlinkError: Neither is known, so nothing may be started.
    """
    try:
        execution = yield from service.cancel(execution_id, repeat)
    except TransactionlinkError:
        log.warning("Step %s starts nothing while execution %s may still run.", step.key, execution_id)
        raise
    if not execution.is_terminal:
        log.info("Execution %s of step %s was asked to end and is %s.", execution_id, step.key, execution.status)
        return False
    settled = Event(
        state=State.SETTLED,
        at=clock.now(),
        execution_id=execution_id,
        raw_status=execution.raw_status,
        status=execution.status.value,
    )
    yield AppendEvent(step.key, settled)
    return True


def _record_started(execution: Execution, step: Step, clock: Clock) -> Flow[Entry]:
    event = Event(
        state=State.STARTED,
        at=clock.now(),
        execution_id=execution.id,
        expires_at=execution.handle.expires_at,
        raw_status=execution.raw_status or None,
        interactive=execution.is_interactive,
    )
    for attempt in range(1, _RECORD_TRIES + 1):
        try:
            recorded: Entry = yield AppendEvent(step.key, event)
        except Exception as error:  # whatever a ledger raises, the id must not be lost
            why = error if isinstance(error, TransactionlinkError) else type(error).__name__
            log.warning("Execution %s has started but is not recorded yet: %s", execution.id, why)
            if attempt < _RECORD_TRIES:
                yield Sleep(_RECORD_DELAY, stoppable=False)
        else:
            return recorded
    what = f"Execution {execution.id} has started, but the ledger could not record it for step {step.key}."
    raise StartOutcomeUnknown(
        f"{what} Once the ledger is back: `tl ledger adopt {shlex.quote(step.key)} {execution.id} --reason TEXT`.",
        what=what,
        key=step.key,
        execution_id=execution.id,
    )


def _with_handle(
    execution: Execution, step: Step, entry: Entry | None, *, reattached: bool, polled: bool = False
) -> Execution:
    handle = Handle(
        execution_id=execution.id,
        service=execution.service,
        key=step.key,
        deadline=entry.deadline if entry else None,
        expires_at=execution.handle.expires_at or (entry.expires_at if entry else None),
        owned=not (entry is not None and entry.adopted and entry.generation != step.generation),
        api_version=execution.handle.api_version,
        polled=polled,
    )
    return evolve(execution, handle=handle, reattached=reattached)


__all__ = [
    "Attach",
    "Begin",
    "Step",
    "decide",
    "is_unknown_fate",
    "start_once",
    "start_unrecorded",
    "unknown_start",
]
