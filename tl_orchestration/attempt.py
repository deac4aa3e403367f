"""
One attempt: what it has to have before the request that starts, and that request.

It may have to make something at the service first, has an idempotency key where the service takes one, and a
correlation id where the step wants one. Every id is in the ledger before the next request is sent. So a later try makes
nothing again that it knows of, and knows that nothing runs as long as the attempt was still preparing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping

from attrs import evolve, frozen

from tl_orchestration.correlation import Correlation, new_correlation, recorded_correlation
from tl_orchestration.errors import LedgerError, TransactionlinkError
from tl_orchestration.exchange import AppendEvent, ClaimStart, Clock, Flow, Send, Sleep
from tl_orchestration.fate import is_unknown_fate, record_failure
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.ledger.entry import UNDECIDED, Entry, Event, State
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.services import Service
from tl_orchestration.services.service import IDEMPOTENCY_KEY, NOTHING

log = logging.getLogger(__name__)

#: How often one try sends a start with the same idempotency key, where the step wants that.
SAME_KEY_TRIES = 3
#: The first pause between them, seconds; it doubles.
_SAME_KEY_DELAY = 1.0


@frozen
class Ids:
    """
    What a new attempt has from the start: the ids of what an earlier one has made, and ids of its own.
    """

    known: Mapping[str, str]
    correlation: Correlation | None


def ids_to_begin_with(
    service: Service,
    entry: Entry | None,
    generation: str,
    identity: Fingerprint,
    *,
    correlation_parameter: str | None,
    same_key: bool,
) -> Ids:
    """
    The ids that a new attempt has from the start.

    What an earlier attempt has made is used again where no execution came of it, and only for provably the same
    request: a case is about a person, and must never be used for another one. What holds a correlation id is not:
    each attempt has its own, so that what is found by it is one start's.

    Args:
        correlation_parameter: The parameter that is to carry a correlation id.
        same_key: Whether it is the earlier attempt once more, with its idempotency key and its correlation id.
    """
    earlier = recorded_correlation(entry) if entry is not None else None
    if entry is not None and same_key:
        return Ids(entry.progress, earlier)
    correlation = None if correlation_parameter is None else new_correlation(correlation_parameter)
    ids: dict[str, str] = {}
    if (
        entry is not None
        and entry.generation == generation
        and entry.state in UNDECIDED | {State.REJECTED}
        and identity.is_of(entry.fingerprint, entry.fingerprint_key_id)
    ):
        ids.update(entry.progress)
    ids.pop(IDEMPOTENCY_KEY, None)
    if earlier is not None or correlation is not None:
        ids = {name: identifier for name, identifier in ids.items() if name not in service.holds_parameters}
    return Ids({**new_key(service), **ids}, correlation)


def new_key(service: Service) -> Mapping[str, str]:
    """
    A random idempotency key, for a service that takes one.
    """
    return {IDEMPOTENCY_KEY: str(uuid.uuid4())} if service.keyed else NOTHING


def prepare(
    service: Service,
    request: RunRequest,
    key: str,
    intent: Event,
    claimed: Entry,
    clock: Clock,
    send: Send,
    *,
    settle: float,
) -> Flow[Entry]:
    """
    Make what the start still needs, with each id in the ledger before the next step. Returns the entry with all ids.

    Args:
        intent: What was claimed, with the ids that were known.
        claimed: The entry after that.
        settle: Longest time from each intent to what follows it, seconds.

    Raises:
        LedgerError: Somebody else has moved the step on, or an id could not be recorded. No execution has started.
        TransactionlinkError: Something could not be made. No execution has started, whatever the error.
    """
    missing = service.needs(request, intent.progress)
    for name in missing:
        try:
            identifier = yield from service.make(name, request, send)
        except TransactionlinkError as error:
            yield from _give_up(name, error, key, claimed, clock)
            raise
        now = clock.now()
        intent = evolve(
            intent,
            at=now,
            settles_at=now + settle,
            progress={**intent.progress, name: identifier},
            preparing=name != missing[-1],
        )
        claimed = yield ClaimStart(key, intent, claimed)
    return claimed


def make_all(service: Service, request: RunRequest, send: Send) -> Flow[Mapping[str, str]]:
    """
    The same where no ledger is kept.
    """
    ids = dict(new_key(service))
    for name in service.needs(request, ids):
        ids[name] = yield from service.make(name, request, send)
    return ids


def run_recorded(
    send: Callable[[], Flow[Execution]],
    key: str,
    claimed: Entry,
    clock: Clock,
    *,
    correlation: Correlation | None,
    tries: int,
    unknown: bool,
) -> Flow[Execution]:
    """
    Start, and record it if that fails.

    Args:
        send: Sends the start once.
        claimed: The entry that announces it.
        correlation: What it can be found by.
        tries: How often it may be sent with its idempotency key.
        unknown: Whether an earlier start with this idempotency key has an unknown fate. Then, and after any lost
            answer here, a refusal does not show that nothing runs: the service may refuse what it has already done.

    Raises:
        StartOutcomeUnknown: Nobody knows whether an execution runs.
        TransactionlinkError: None does.
    """
    delay, repeated = _SAME_KEY_DELAY, unknown
    while True:
        tries -= 1
        try:
            return (yield from send())
        except TransactionlinkError as error:
            lost = is_unknown_fate(error)
            unknown = unknown or lost
            if not lost or error.execution_id is not None or tries <= 0:
                yield from record_failure(
                    error, key, claimed, clock, correlation=correlation, unknown=unknown, repeated=repeated
                )
                raise
            log.warning("Step %s repeats its start with the same idempotency key: %s", key, error)
        yield Sleep(delay, stoppable=False)  # whoever stops here would have to say that nothing was started
        delay, repeated = 2 * delay, True


def _give_up(name: str, error: TransactionlinkError, key: str, claimed: Entry, clock: Clock) -> Flow[None]:
    if getattr(error, "sent", True):
        log.warning(
            "Step %s: no execution has started, but the service may have made a %s that nobody knows of (%s).",
            key,
            name.removesuffix("_id"),
            type(error).__name__,
        )
    # Only over what this try has written: by now another one may be about to start.
    event = Event(state=State.REJECTED, at=clock.now(), reason=type(error).__name__, version=claimed.version)
    try:
        yield AppendEvent(key, event)
    except LedgerError:
        log.warning("Step %s: %s could not be recorded; a later try goes on from its intent.", key, event.state)
