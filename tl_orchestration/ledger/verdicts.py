"""
What a person may tell a ledger about a start of unknown fate. Works with every ledger.

A verdict is about the entry that the person saw: if it has moved on since, the verdict is refused.
"""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime
from typing import Protocol

from tl_orchestration.answers import safe_id
from tl_orchestration.claim import may_be_starting, settle_window
from tl_orchestration.errors import InvalidRequest, LedgerError
from tl_orchestration.ledger.entry import UNDECIDED, Entry, Event, State, purged


class Told(Protocol):
    """
    What is needed of a ledger to be told something; see :class:`tl_orchestration.ledger.Ledger`.
    """

    @property
    def fenced(self) -> bool: ...

    def read(self, key: str) -> Entry | None: ...

    def append(self, key: str, event: Event) -> Entry: ...


def adopt(ledger: Told, key: str, execution_id: str, *, reason: str, actor: str, now: float) -> Entry:
    """
    Say that the start of unknown fate did start this execution: the step's next try goes on with it.

    Args:
        reason: Why this is known; must not be personal.
        actor: Who says so.
        now: Epoch seconds.

    Raises:
        InvalidRequest: That is no execution id, or there is no reason.
        LedgerError: The step's fate is not unknown, or the entry has moved on.
    """
    if safe_id(execution_id) != execution_id:
        raise InvalidRequest("An execution id has letters, digits, '-', '_' and '.', and at most 128 characters.")
    entry = _undecided(ledger, key, now)
    event = Event(
        state=State.STARTED,
        at=now,
        execution_id=execution_id,
        adopted=True,
        reason=_reason(reason),
        actor=actor,
        version=entry.version,
    )
    return ledger.append(key, event)


def not_started(ledger: Told, key: str, *, reason: str, actor: str, now: float) -> Entry:
    """
    Say that the start of unknown fate started nothing: the step's next try starts.

    Args:
        reason: Why this is known; must not be personal.
        actor: Who says so.
        now: Epoch seconds.

    Raises:
        InvalidRequest: There is no reason.
        LedgerError: The step's fate is not unknown, or the entry has moved on.
    """
    entry = _undecided(ledger, key, now)
    event = Event(state=State.REJECTED, at=now, reason=_reason(reason), actor=actor, version=entry.version)
    return ledger.append(key, event)


def acting() -> str:
    """
    Who says so, where nobody gives a name: the operating system's user.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return f"user {os.getuid()}"


def _undecided(ledger: Told, key: str, now: float) -> Entry:
    entry = ledger.read(key)
    if entry is None:
        raise LedgerError(f"The ledger holds nothing for {key}: nothing was started with it.")
    if entry.state is State.PURGED:
        raise purged(entry)
    if entry.state not in UNDECIDED or entry.preparing:
        raise LedgerError(f"There is nothing to decide about {key}: {_known(entry)}.")
    if may_be_starting(entry, now, fenced=ledger.fenced):
        settled = datetime.fromtimestamp(entry.changed_at + settle_window(entry), UTC).isoformat(timespec="seconds")
        raise LedgerError(
            f"A process may be starting {key} just now. If it is still undecided at {settled}, say it then."
        )
    return entry


def _known(entry: Entry) -> str:
    if entry.preparing:
        return "its start has not been sent yet, and the next try goes on to it"
    if entry.state is State.REJECTED:
        return "it is known that nothing was started, and the next try starts"
    if entry.state is State.SETTLED:
        return f"it has started execution {entry.execution_id}, which has ended ({entry.status})"
    return f"it is known that it has started execution {entry.execution_id}"


def _reason(reason: str) -> str:
    text = " ".join(reason.split())
    if not text:
        raise InvalidRequest("A verdict needs a reason: how is it known?")
    return text


__all__ = ["Told", "acting", "adopt", "not_started"]
