"""
A SQL ledger as a whole: what it holds, how that came about, and what it may forget.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Select, select

from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import entries, trail
from tl_orchestration.ledger.entry import Event, Record, State, fold
from tl_orchestration.ledger.sql import note, read_records, replace, select_records

#: What may be purged: of an open or undecided step the ledger must know everything.
PURGEABLE = (State.SETTLED, State.REJECTED)
#: Entries that are purged in one transaction.
_PORTION = 200


@frozen(kw_only=True)
class Line:
    """
    One line of the trail.

    Args:
        time: Epoch seconds.
        actor: Process or person.
        action: ``claim``, ``record``, ``take over``, or a person's ``adopt``, ``not-started``, ``purge``.
        version: The entry's, after it.
    """

    time: float
    state: State
    execution_id: str | None
    actor: str
    action: str
    reason: str | None
    version: int


class Records:
    """
    Reads and prunes what ledgers of any namespace have written to a database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: str, namespace: str | None = None) -> list[Record]:
        """
        The entries of a key, one for each namespace that has it.

        Raises:
            LedgerError: The database cannot be reached.
        """
        query = _select(namespace).where(entries.c.key == key)
        with self._database.reading() as connection:
            return read_records(connection, query)

    def matching(
        self,
        *,
        states: Iterable[State] = (),
        unchanged_since: float | None = None,
        namespace: str | None = None,
        limit: int = 100,
    ) -> list[Record]:
        """
        Entries, the longest unchanged first.

        Args:
            states: Only these; none: all of them.
            unchanged_since: Only what was last written before; epoch seconds.
            limit: At most so many.

        Raises:
            LedgerError: The database cannot be reached.
        """
        query = _select(namespace).limit(limit)
        if names := [state.value for state in states]:
            query = query.where(entries.c.state.in_(names))
        if unchanged_since is not None:
            query = query.where(entries.c.changed_at < unchanged_since)
        with self._database.reading() as connection:
            return read_records(connection, query)

    def trail(self, record: Record) -> list[Line]:
        """
        How an entry came about, the first write first.

        Raises:
            LedgerError: The database cannot be reached.
        """
        query = (
            select(trail)
            .where(trail.c.namespace == record.namespace, trail.c.key == record.key)
            .order_by(trail.c.version)
        )
        with self._database.reading() as connection:
            return [
                Line(
                    time=row.time,
                    state=State(row.state),
                    execution_id=row.execution_id,
                    actor=row.actor,
                    action=row.action,
                    reason=row.reason,
                    version=row.version,
                )
                for row in connection.execute(query)
            ]

    def purge(
        self,
        *,
        unchanged_since: float,
        actor: str,
        now: float,
        key: str | None = None,
        namespace: str | None = None,
    ) -> int:
        """
        Forget settled and rejected entries and their trails. A tombstone of each stays, so that its key starts nothing
        any more.

        Args:
            unchanged_since: Only what was last written before; epoch seconds.
            actor: Who wants it.
            now: Epoch seconds.
            key: Only this key.

        Returns:
            How many were purged.

        Raises:
            LedgerError: The database cannot be written; what was purged before stays purged.
        """
        query = (
            _select(namespace)
            .where(entries.c.state.in_([state.value for state in PURGEABLE]), entries.c.changed_at < unchanged_since)
            .limit(_PORTION)
        )
        if key is not None:
            query = query.where(entries.c.key == key)
        event = Event(state=State.PURGED, at=now, actor=actor)
        purged = 0
        while True:
            with self._database.writing() as connection:
                portion = read_records(connection, query)
                purged += sum(bury(connection, record, event) for record in portion)
            if not portion:
                return purged


def _select(namespace: str | None) -> Select[tuple[str, str, Any]]:
    query = select_records().order_by(entries.c.changed_at, entries.c.namespace, entries.c.key)
    return query if namespace is None else query.where(entries.c.namespace == namespace)


def bury(connection: Connection, record: Record, event: Event) -> bool:
    """
    Make a tombstone of an entry. False, and nothing is changed, if the entry has moved on since it was read.
    """
    tombstone = fold(record.entry, event)
    if not replace(connection, record.namespace, record.key, tombstone, record.entry):
        return False
    connection.execute(trail.delete().where(trail.c.namespace == record.namespace, trail.c.key == record.key))
    note(connection, record.namespace, record.key, tombstone, event, event.actor or "")
    return True


__all__ = ["PURGEABLE", "Line", "Record", "Records"]
