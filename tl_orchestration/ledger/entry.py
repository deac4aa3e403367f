"""
What a ledger knows about one step, and how an event changes it. Pure: no store, no clock.

An entry holds ids, times, states and a keyed fingerprint. It never holds a token, a link, a parameter or a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from attrs import evolve, field, fields, frozen

from tl_orchestration.errors import LedgerError

ENTRY_FORMAT = 1


class State(StrEnum):
    """
    How far a start has come.

    ::

        (none) ──► INTENT ──► STARTED ──► LINK_DELIVERED ──► CANCEL_REQUESTED ──► SETTLED
                     │  └──► REJECTED (nothing runs)
                     └─────► UNKNOWN ──► STARTED (adopted) or REJECTED (judged not started)

    A new INTENT may follow REJECTED, a SETTLED or cancelled attempt, a changed generation, or, where the caller
    accepts the risk, an unknown fate.
    """

    INTENT = "INTENT"
    STARTED = "STARTED"
    LINK_DELIVERED = "LINK_DELIVERED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    SETTLED = "SETTLED"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"


def _ids(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


#: States in which an execution is known to exist and not known to have ended.
OPEN = frozenset({State.STARTED, State.LINK_DELIVERED, State.CANCEL_REQUESTED})
#: States in which nobody knows whether an execution exists.
UNDECIDED = frozenset({State.INTENT, State.UNKNOWN})

_FOLLOWS: Mapping[State, frozenset[State]] = {
    State.STARTED: UNDECIDED | {State.STARTED},
    State.LINK_DELIVERED: frozenset({State.STARTED, State.LINK_DELIVERED}),
    State.CANCEL_REQUESTED: OPEN | {State.SETTLED},
    State.SETTLED: OPEN | {State.SETTLED},
    State.REJECTED: UNDECIDED | {State.REJECTED},
    State.UNKNOWN: UNDECIDED,
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


@frozen(kw_only=True)
class Entry:
    """
    The folded events of one key.

    Args:
        version: Counts the writes; the compare-and-set of a shared store hangs on it.
        attempt: Counts the starts that were intended in this generation, from 1.
        restarts: How many of them followed an unknown fate, on the caller's word.
        suspects: Ids of executions that may run besides, after such a restart. Empty where no id was known.
        former: The execution of the previous generation, if it may still run.
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
    raw_status: str | None = None
    status: str | None = None
    reason: str | None = None
    former: str | None = None
    suspects: tuple[str, ...] = field(default=(), converter=_ids)

    def to_dict(self) -> dict[str, Any]:
        """
        As JSON values, for stores that keep documents.
        """
        document: dict[str, Any] = {"format": ENTRY_FORMAT}
        for attribute in fields(Entry):
            value = getattr(self, attribute.name)
            if value != attribute.default:
                document[attribute.name] = list(value) if isinstance(value, tuple) else value
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Entry:
        """
        Read a stored document.

        Raises:
            LedgerError: It was written in a format that this version does not know.
        """
        if document.get("format") != ENTRY_FORMAT:
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


def fold(entry: Entry | None, event: Event) -> Entry:
    """
    The entry after the event.

    Raises:
        LedgerError: The event cannot follow the entry's state, or speaks of another execution.
    """
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
        raw_status=event.raw_status or entry.raw_status,
        status=event.status or entry.status,
        reason=event.reason,
    )


def _intended(entry: Entry | None, event: Event) -> Entry:
    same_generation = entry is not None and entry.generation == event.generation
    undecided = entry is not None and entry.state in UNDECIDED
    suspects = entry.suspects if entry is not None else ()
    if entry is not None and undecided and entry.execution_id:
        suspects = (*suspects, entry.execution_id)
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
        former=entry.execution_id if entry and entry.state in OPEN and not same_generation else None,
        suspects=suspects,
    )
