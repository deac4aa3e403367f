"""
What a ledger knows about one step, and how an event changes it. Pure: no store, no clock.

An entry holds ids, times, states and a keyed fingerprint. It never holds a token, a link, a parameter of the caller's
or a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from attrs import evolve, field, fields, frozen

from tl_orchestration.errors import KeyPurged, LedgerError

ENTRY_FORMAT = 1


class State(StrEnum):
    """
    How far a start has come.

    ::

        (none) ──► INTENT ──► STARTED ──► LINK_DELIVERED ──► CANCEL_REQUESTED ──► SETTLED
                     │  └──► REJECTED (nothing runs)
                     └─────► UNKNOWN ──► STARTED (adopted) or REJECTED (judged not started)

        SETTLED, REJECTED ──► PURGED (a tombstone: what happened is forgotten, that it happened is not)

    A new INTENT may follow REJECTED, a SETTLED or cancelled attempt, a changed generation, or, where the caller
    accepts the risk, an unknown fate. While an attempt prepares (it makes what the start needs, such as a case),
    each id that it has made is recorded by one more INTENT of the same attempt; the last one is not ``preparing``.
    Nothing follows PURGED.
    """

    INTENT = "INTENT"
    STARTED = "STARTED"
    LINK_DELIVERED = "LINK_DELIVERED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    SETTLED = "SETTLED"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"
    PURGED = "PURGED"


def _ids(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


def _named_ids(value: Mapping[str, str]) -> Mapping[str, str]:
    named = dict(value)
    if not all(isinstance(text, str) for text in (*named, *named.values())):
        raise TypeError("progress maps names to ids")
    return named


_NO_PROGRESS: Mapping[str, str] = MappingProxyType({})


#: States in which an execution is known to exist and not known to have ended.
OPEN = frozenset({State.STARTED, State.LINK_DELIVERED, State.CANCEL_REQUESTED})
#: States in which nobody knows whether an execution exists.
UNDECIDED = frozenset({State.INTENT, State.UNKNOWN})

#: How many past generations an entry remembers.
_REMEMBERED = 32

_FOLLOWS: Mapping[State, frozenset[State]] = {
    State.STARTED: UNDECIDED | {State.STARTED},
    State.LINK_DELIVERED: frozenset({State.STARTED, State.LINK_DELIVERED}),
    State.CANCEL_REQUESTED: OPEN | {State.SETTLED},
    State.SETTLED: OPEN | {State.SETTLED},
    State.REJECTED: UNDECIDED | {State.REJECTED},
    State.UNKNOWN: UNDECIDED,
    State.PURGED: frozenset({State.SETTLED, State.REJECTED}),
}


@frozen(kw_only=True)
class Event:
    """
    One thing that happened. Times are epoch seconds (wall clock: they cross processes).

    Args:
        state: The state that it leads to.
        at: When.
        execution_id: The remote id, from STARTED on.
        generation: Which life of the step this is; given with INTENT.
        fingerprint: Keyed digest of the request; given with INTENT.
        fingerprint_key_id: Which key made it.
        deadline: When waiting ends; counted from the intent and not renewed by retries.
        expires_at: When the service lets the execution expire.
        raw_status: The service's literal, with SETTLED.
        status: Our reading of it, with SETTLED.
        reason: Why, in words without personal data.
        adopted: With STARTED: a person said which execution it was.
        consumed_by: The generation that goes on with an adopted execution; given by its first try.
        version: The version of the entry that this is about; the event can follow no other. A person's verdict must
            not hit what came after that person looked.
        actor: Who said so, where a person did; for stores that keep a trail.
        progress: With INTENT: ids that this attempt has or has made, by name: ``case_id``, ``parameters_id``,
            ``idempotency_key``.
        preparing: With INTENT: the request that starts has not been sent; another INTENT comes before it.
        correlation_parameter: With INTENT: the parameter that carries this attempt's correlation id.
        correlation_id: With INTENT: that id, random, by which a person finds the execution.
        interactive: With STARTED: whether the start's answer had a link or a token for a person; None: not known.
        link_lost: With CANCEL_REQUESTED: because nobody was given the link, and another start is to replace this one.
        settles_at: With INTENT: until when the process that says so may be at its start; None: not known.
        polled_with: A poll by the credential with this key id was answered; see ``fingerprint_key_id``.
    """

    state: State
    at: float
    execution_id: str | None = None
    generation: str = ""
    fingerprint: str | None = None
    fingerprint_key_id: str | None = None
    deadline: float | None = None
    expires_at: float | None = None
    raw_status: str | None = None
    status: str | None = None
    reason: str | None = None
    adopted: bool = False
    consumed_by: str | None = None
    version: int | None = None
    actor: str | None = None
    progress: Mapping[str, str] = field(default=_NO_PROGRESS, converter=_named_ids, hash=False)
    preparing: bool = False
    correlation_parameter: str | None = None
    correlation_id: str | None = None
    interactive: bool | None = None
    link_lost: bool = False
    settles_at: float | None = None
    polled_with: str | None = None


@frozen(kw_only=True)
class Entry:
    """
    The folded events of one key.

    Args:
        version: Counts the writes; the compare-and-set of a shared store hangs on it.
        attempt: Counts the starts that were intended in this generation, from 1.
        restarts: How many of them followed an unknown fate, on the caller's word.
        adopted: A person said which execution the start of unknown fate was.
        consumed_by: The generation that went on with it. Until then, any may.
        suspects: Ids of executions that may run besides, after such a restart. Empty where no id was known.
        suspect_correlation_ids: Correlation ids of the starts of unknown fate that were followed by a restart.
        former: The execution before this attempt, if it may still run.
        past: Generations that others have followed, the last 32. What is left of their processes must not act.
        progress: Ids that the latest attempt has or has made.
        preparing: Whether the latest attempt has not yet sent the request that starts, so that nothing can run.
        correlation_parameter: The parameter that carries the latest attempt's correlation id.
        correlation_id: That id.
        interactive: Whether a person has to act in the execution; None where nobody knows: another said which
            execution it is, or an earlier version recorded the start.
        link_lost: Its cancel was decided because nobody was given the link.
        settles_at: Until when the process of the latest intent may be at its start; None: an earlier version recorded
            the intent.
        polled_with: Key id of the credential that was last noted to have been answered when it polled the execution.
    """

    version: int
    state: State
    generation: str = ""
    attempt: int = 1
    restarts: int = 0
    execution_id: str | None = None
    intended_at: float | None = None
    changed_at: float
    fingerprint: str | None = None
    fingerprint_key_id: str | None = None
    deadline: float | None = None
    expires_at: float | None = None
    link_delivered: bool = False
    cancel_requested: bool = False
    adopted: bool = False
    consumed_by: str | None = None
    raw_status: str | None = None
    status: str | None = None
    reason: str | None = None
    former: str | None = None
    suspects: tuple[str, ...] = field(default=(), converter=_ids)
    progress: Mapping[str, str] = field(default=_NO_PROGRESS, converter=_named_ids, hash=False)
    preparing: bool = False
    correlation_parameter: str | None = None
    correlation_id: str | None = None
    suspect_correlation_ids: tuple[str, ...] = field(default=(), converter=_ids)
    past: tuple[str, ...] = field(default=(), converter=_ids)
    interactive: bool | None = None
    link_lost: bool = False
    settles_at: float | None = None
    polled_with: str | None = None

    def belongs_to(self, generation: str) -> bool:
        """
        Whether the execution is that generation's own: of the one that intended it, or, where a person adopted it, of
        the first one that goes on with it.
        """
        if not self.adopted:
            return self.generation == generation
        return self.consumed_by in {None, generation}

    def past_after(self, generation: str) -> tuple[str, ...]:
        """
        The generations that are over once this one goes on with the step.
        """
        lives = dict.fromkeys((*self.past, self.generation, self.consumed_by))
        return tuple(life for life in lives if life not in {None, generation})[-_REMEMBERED:]

    def to_dict(self) -> dict[str, Any]:
        """
        As JSON values, for stores that keep documents.
        """
        document: dict[str, Any] = {"format": ENTRY_FORMAT}
        for attribute in fields(Entry):
            value = getattr(self, attribute.name)
            if value != attribute.default:
                document[attribute.name] = _as_json(value)
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Entry:
        """
        Read a stored document.

        Raises:
            LedgerError: It was written in a format that this version does not know.
        """
        if type(document.get("format")) is not int or document["format"] != ENTRY_FORMAT:
            raise LedgerError(
                f"A ledger entry has format {document.get('format')!r}; this version reads format {ENTRY_FORMAT}."
                " Upgrade tl-orchestration where it runs the older version."
            )
        known = {attribute.name for attribute in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        try:
            return cls(**values | {"state": State(values["state"])})
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"A ledger entry cannot be read: {type(error).__name__}.") from None


@frozen
class Record:
    """
    An entry with its full name.
    """

    namespace: str
    key: str
    entry: Entry


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def fold(entry: Entry | None, event: Event) -> Entry:
    """
    The entry after the event.

    Raises:
        LedgerError: The event cannot follow the entry's state, or speaks of another execution or version.
        KeyPurged: The entry was purged.
    """
    if entry is not None and entry.state is State.PURGED:
        raise purged(entry)
    if event.version is not None and entry is not None and event.version != entry.version:
        raise LedgerError(
            f"The ledger's entry of this step has changed since it was read, so it cannot record {event.state}: look at"
            " it again."
        )
    if event.state is State.INTENT:
        return _intended(entry, event)
    if entry is None or entry.state not in _FOLLOWS[event.state]:
        raise LedgerError(
            f"The ledger holds {entry.state if entry else 'nothing'} for this step, so it cannot record"
            f" {event.state}: another process has moved it on."
        )
    if event.execution_id and entry.execution_id and event.execution_id != entry.execution_id:
        raise LedgerError(
            f"The ledger holds execution {entry.execution_id} for this step, so it cannot record {event.state}"
            f" of execution {event.execution_id}."
        )
    if event.state is State.PURGED:
        return Entry(version=entry.version + 1, state=State.PURGED, changed_at=event.at)
    settled = entry.state is State.SETTLED  # absorbing: a cancel of what is over changes nothing
    return evolve(
        entry,
        version=entry.version + 1,
        state=State.SETTLED if settled else event.state,
        changed_at=event.at,
        execution_id=event.execution_id or entry.execution_id,
        expires_at=event.expires_at or entry.expires_at,
        deadline=event.deadline or entry.deadline,
        link_delivered=entry.link_delivered or event.state is State.LINK_DELIVERED,
        cancel_requested=entry.cancel_requested or (event.state is State.CANCEL_REQUESTED and not settled),
        adopted=entry.adopted or event.adopted,
        consumed_by=entry.consumed_by if event.consumed_by is None else event.consumed_by,
        past=entry.past if event.consumed_by is None else entry.past_after(event.consumed_by),
        raw_status=event.raw_status or entry.raw_status,
        status=event.status or entry.status,
        reason=event.reason,
        preparing=False,
        interactive=entry.interactive if event.interactive is None else event.interactive,
        link_lost=entry.link_lost or (event.link_lost and not settled),
        polled_with=event.polled_with or entry.polled_with,
    )


def purged(entry: Entry) -> KeyPurged:
    """
    The error for whoever wants to go on with a purged key.
    """
    when = datetime.fromtimestamp(entry.changed_at, UTC).date().isoformat()
    return KeyPurged(
        f"This key was used before and was purged from the ledger on {when}, so nobody knows any more what it has"
        " started. Nothing was sent. Use a new key."
    )


def _intended(entry: Entry | None, event: Event) -> Entry:
    same_generation = entry is not None and entry.belongs_to(event.generation)
    if entry is not None and same_generation and entry.state in OPEN and not entry.cancel_requested:
        raise LedgerError(
            f"The ledger holds execution {entry.execution_id} for this step, so it cannot record another start: another"
            " process has moved it on."
        )
    if entry is not None and same_generation and entry.preparing:
        return _continued(entry, event)
    undecided = entry is not None and entry.state in UNDECIDED and not entry.preparing
    suspects = entry.suspects if entry is not None else ()
    if entry is not None and undecided and entry.execution_id:
        suspects = (*suspects, entry.execution_id)
    sought = entry.suspect_correlation_ids if entry is not None else ()
    if entry is not None and undecided and entry.correlation_id:
        sought = (*sought, entry.correlation_id)
    return Entry(
        version=entry.version + 1 if entry else 1,
        state=State.INTENT,
        generation=event.generation,
        attempt=entry.attempt + 1 if entry and same_generation else 1,
        restarts=(entry.restarts if entry and same_generation else 0) + (1 if undecided else 0),
        intended_at=event.at,
        changed_at=event.at,
        fingerprint=event.fingerprint,
        fingerprint_key_id=event.fingerprint_key_id,
        deadline=event.deadline,
        expires_at=event.expires_at,
        former=entry.execution_id if entry and entry.state in OPEN else None,
        suspects=suspects,
        progress=event.progress,
        preparing=event.preparing,
        correlation_parameter=event.correlation_parameter,
        correlation_id=event.correlation_id,
        suspect_correlation_ids=sought,
        past=entry.past_after(event.generation) if entry else (),
        settles_at=event.settles_at,
    )


def _continued(entry: Entry, event: Event) -> Entry:
    """
    The same attempt, one step further; or taken up again by a later try, with that try's request and deadline.
    """
    return evolve(
        entry,
        version=entry.version + 1,
        intended_at=event.at,
        changed_at=event.at,
        fingerprint=event.fingerprint,
        fingerprint_key_id=event.fingerprint_key_id,
        deadline=event.deadline,
        expires_at=event.expires_at,
        reason=event.reason,
        progress=event.progress,
        preparing=event.preparing,
        correlation_parameter=event.correlation_parameter,
        correlation_id=event.correlation_id,
        settles_at=event.settles_at,
    )
