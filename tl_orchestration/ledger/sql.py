"""
A ledger in a SQL database, which any number of processes share. It also keeps a trail of who wrote what, and why.

Writes are compare-and-set: an entry is inserted only where there is none, and updated only where its version is still
the one that was read. Entry and trail are written in one transaction.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, Connection, Engine, Select, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import entries, trail
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger.entry import Entry, Event, Record, State, fold
from tl_orchestration.ledger.key import checked_key

#: How often an append is folded anew because somebody else wrote in between. Each time, somebody got further.
_APPEND_TRIES = 100
_VERDICTS = {State.STARTED: "adopt", State.REJECTED: "not-started", State.PURGED: "purge"}
# What each start runs several times: to put a statement together costs more than to run it.
_OF_KEY = (entries.c.namespace == bindparam("of_namespace"), entries.c.key == bindparam("of_key"))
_FIND = select(entries.c.namespace, entries.c.key, entries.c.document).where(*_OF_KEY)
_INSERT_SQLITE, _INSERT_POSTGRESQL = (
    insert.on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    for insert in (sqlite.insert(entries), postgresql.insert(entries))
)
_REPLACE = entries.update().where(*_OF_KEY, entries.c.version == bindparam("of_version"))
_NOTE = trail.insert()


class SqlLedger:
    """
    Keeps entries in SQLite (one host) or PostgreSQL.

    A SQLite file makes and upgrades its tables by itself; a PostgreSQL database needs ``tl db upgrade`` first, so that
    whoever runs workflows needs no right to change tables. Nothing is opened before the first use.

    Args:
        url_or_engine: ``sqlite:///file.db``, ``postgresql+psycopg://user@host/database``, an engine of either, or a
            database that is shared with others.
        namespace: Keeps equal keys of several services apart. A client binds its own where none is given.
        actor: Who writes, for the trail; by default process and host. Must not be personal.

    Raises:
        InvalidSettings: The URL cannot be used. Its password is in no message.
    """

    #: A process that has lost its step can still write; so a claim is compared, and a fresh intent may be somebody's.
    fenced = False

    def __init__(
        self, url_or_engine: str | URL | Engine | Database, namespace: str = "", *, actor: str | None = None
    ) -> None:
        self.database = url_or_engine if isinstance(url_or_engine, Database) else Database(url_or_engine)
        self.namespace = namespace
        self._actor = actor

    def __repr__(self) -> str:
        return f"<SqlLedger {self.database.address} namespace={self.namespace!r}>"

    def for_namespace(self, namespace: str) -> SqlLedger:
        """
        The same store, bound to a namespace. A ledger that is bound already stays as it is.
        """
        return self if self.namespace else SqlLedger(self.database, namespace, actor=self._actor)

    def close(self) -> None:
        """
        Close the connections. The ledger can be used again.
        """
        self.database.close()

    def read(self, key: str) -> Entry | None:
        """
        The entry as last written, or None.

        Raises:
            InvalidRequest: Nothing can have this key.
            LedgerError: The database cannot be reached, or needs an upgrade.
        """
        with self.database.reading() as connection:
            return find(connection, self.namespace, checked_key(key))

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        """
        Record an intent if the entry is still ``after`` (None: still absent).

        Raises:
            KeyPurged: The key was used up.
            LedgerError: Somebody else wrote in between, or the database cannot be written.
        """
        entry = fold(after, intent)
        with self.database.writing() as connection:
            if not self._write(connection, checked_key(key), entry, after):
                raise LedgerError("Another caller has claimed this step in the meantime; read it again.")
            self._note(connection, key, entry, intent)
        return entry

    def append(self, key: str, event: Event) -> Entry:
        """
        Fold one more event into the entry.

        Raises:
            LedgerError: The event cannot follow what the entry holds, or the database cannot be written.
        """
        for _ in range(_APPEND_TRIES):
            found = self.read(key)
            entry = fold(found, event)
            with self.database.writing() as connection:
                if self._write(connection, key, entry, found):
                    self._note(connection, key, entry, event)
                    return entry
        raise LedgerError(f"{event.state} could not be recorded: other processes write to this entry all the time.")

    def _write(self, connection: Connection, key: str, entry: Entry, after: Entry | None) -> bool:
        """
        Whether the entry was still the one that was read; only then it is written.
        """
        if after is None:
            once = _INSERT_SQLITE if self.database.is_sqlite else _INSERT_POSTGRESQL
            row = {"namespace": self.namespace, "key": key, **columns(entry)}
            return connection.execute(once, row).rowcount == 1
        return replace(connection, self.namespace, key, entry, after)

    def _note(self, connection: Connection, key: str, entry: Entry, event: Event) -> None:
        actor = event.actor or self._actor or f"process {os.getpid()} on {socket.gethostname()}"
        note(connection, self.namespace, key, entry, event, actor)


def find(connection: Connection, namespace: str, key: str) -> Entry | None:
    """
    The entry of a key.

    Raises:
        LedgerError: It was written by a version that this one does not understand.
    """
    found = read_records(connection, _FIND, {"of_namespace": namespace, "of_key": key})
    return found[0].entry if found else None


def select_records() -> Select[tuple[str, str, Any]]:
    """
    Everything, to be narrowed and given to :func:`read_records`.
    """
    return select(entries.c.namespace, entries.c.key, entries.c.document)


def read_records(
    connection: Connection, query: Select[tuple[str, str, Any]], named: Mapping[str, Any] | None = None
) -> list[Record]:
    """
    What a query finds.

    Args:
        named: Values of the query's parameters.

    Raises:
        LedgerError: A document was damaged, or written by a version that this one does not understand.
    """
    try:
        rows = connection.execute(query, named).all()
    except ValueError:
        raise LedgerError("A ledger entry cannot be read: it is not JSON.") from None
    return [Record(namespace, key, _entry(document)) for namespace, key, document in rows]


def _entry(document: object) -> Entry:
    if not isinstance(document, Mapping):
        raise LedgerError("A ledger entry cannot be read: it is not a JSON object.")
    return Entry.from_dict(document)


def replace(connection: Connection, namespace: str, key: str, entry: Entry, after: Entry) -> bool:
    """
    Write an entry over the one that was read. False, and nothing is written, if it is another by now.
    """
    of = {"of_namespace": namespace, "of_key": key, "of_version": after.version}
    return connection.execute(_REPLACE, of | columns(entry)).rowcount == 1


def note(connection: Connection, namespace: str, key: str, entry: Entry, event: Event, actor: str) -> None:
    """
    Add what has just been written to the trail.
    """
    connection.execute(
        _NOTE,
        {
            "namespace": namespace,
            "key": key,
            "version": entry.version,
            "time": event.at,
            "state": event.state.value,
            "execution_id": event.execution_id,
            "actor": actor,
            "action": _action(event),
            "reason": event.reason,
        },
    )


def columns(entry: Entry) -> dict[str, Any]:
    """
    An entry as the values of its row.
    """
    return {
        "version": entry.version,
        "state": entry.state.value,
        "execution_id": entry.execution_id,
        "generation": entry.generation,
        "status": entry.status,
        "changed_at": entry.changed_at,
        "document": entry.to_dict(),
    }


def _action(event: Event) -> str:
    if event.state is State.INTENT:
        return "claim"
    if event.consumed_by is not None:
        return "take over"
    return _VERDICTS.get(event.state, "record") if event.actor else "record"


__all__ = ["SqlLedger"]
