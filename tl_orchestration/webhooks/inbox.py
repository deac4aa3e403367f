"""
The inbox: one SQL table into which receivers insert what they have verified, and from which all that waits reads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from attrs import frozen
from sqlalchemy import URL, Engine, Row, Select, delete, select, text
from sqlalchemy.dialects import postgresql, sqlite

from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import inbox
from tl_orchestration.errors import LedgerError
from tl_orchestration.hints import OVERLAP, Cursor, Hint

T = TypeVar("T")

#: Longest time for the insert of one row, and for a pause between two statements of its transaction, seconds: what
#: takes longer is never committed, and readers rely on that (:data:`tl_orchestration.hints.OVERLAP`).
LONGEST_WRITE = 5.0
#: The same for all rows of a transaction together, until its commit.
LONGEST_TRANSACTION = OVERLAP / 2
#: For how long rows are kept, seconds, and how many at most; readers forget the rest.
RETENTION = 7 * 24 * 3600.0
MOST_ROWS = 1_000_000
#: How far before now a reader begins, seconds of the receivers' clocks.
_LOOK_BACK = 120.0
#: Rows of one read, and ids of one question.
_PORTION = 1000
_IDS = 500
_READERS = 2
#: Both limits of one transaction in one statement. A role needs no right for it.
_BE_QUICK = text(
    "SELECT set_config('statement_timeout', :limit, true),"
    " set_config('idle_in_transaction_session_timeout', :limit, true)"
)


@frozen
class Arrival:
    """
    A verified delivery, as it is kept.

    Args:
        service: ``transactionlink`` or ``b3os``.
        execution_id: Empty where it could not be read.
        kind: The sender's word for the event; may be empty.
        digest: SHA-256 of the body, hexadecimal.
        received_at: Epoch seconds.
    """

    service: str
    execution_id: str
    kind: str
    digest: str
    received_at: float


class Inbox:
    """
    Reads and writes the table. One object serves many threads, event loops, and child processes that are forked.

    Methods whose names begin with ``a`` are the same ones awaited: they run in two threads of this object's own, and
    never block an event loop.

    Args:
        url_or_engine: As for :class:`~tl_orchestration.ledger.sql.SqlLedger`; the table lies beside a ledger's.
        now: Epoch seconds.
        monotonic: Seconds.

    Raises:
        InvalidSettings: The URL cannot be used.
    """

    def __init__(
        self,
        url_or_engine: str | URL | Engine | Database,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = url_or_engine if isinstance(url_or_engine, Database) else Database(url_or_engine)
        self._now = now
        self._monotonic = monotonic
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    def __repr__(self) -> str:
        return f"<Inbox {self.database.address}>"

    def close(self) -> None:
        """
        Close the connections, and end the threads. It can be used again.
        """
        if self._threads is not None and self._threads[0] == os.getpid():
            self._threads[1].shutdown(wait=False)
        self._threads = None
        self.database.close()

    def put(self, arrivals: Iterable[Arrival]) -> None:
        """
        Keep deliveries, in one transaction that is durable when this returns. The same bytes count once a minute.

        Needs the right to insert into the table, and no other.

        Raises:
            LedgerError: Nothing of it was kept, or nobody knows.
        """
        rows = {
            (one.digest, int(one.received_at // 60), one.service): {
                "service": one.service,
                "execution_id": one.execution_id,
                "kind": one.kind,
                "received_at": one.received_at,
                "digest": one.digest,
                "minute": int(one.received_at // 60),
            }
            # Replicas that insert the same rows in the same order wait for each other and never in a circle.
            for one in sorted(arrivals, key=lambda arrival: (arrival.digest, arrival.received_at, arrival.service))
        }
        if not rows:
            return
        insert = sqlite.insert(inbox) if self.database.is_sqlite else postgresql.insert(inbox)
        began = time.monotonic()
        with self.database.inserting() as connection:
            if not self.database.is_sqlite:
                connection.execute(_BE_QUICK, {"limit": str(int(LONGEST_WRITE * 1000))})
            # Without naming the constraint, and without asking for ids: either would need the right to read.
            connection.execute(insert.on_conflict_do_nothing().inline(), list(rows.values()))
            if time.monotonic() - began > LONGEST_TRANSACTION:
                raise LedgerError("The database took too long over webhooks; nothing of them was kept.")

    def can_put(self) -> bool:
        """
        Whether rows could be inserted now.

        Raises:
            LedgerError: The database cannot be reached.
        """
        with self.database.inserting() as connection:
            if self.database.is_sqlite:
                return True
            found = "SELECT to_regclass('tl_inbox') IS NOT NULL AND has_table_privilege('tl_inbox', 'INSERT')"
            return bool(connection.scalar(text(found)))

    def start(self) -> Cursor:
        """
        A place from which on no hint of now or later is missed; some of the last two minutes come again.

        Raises:
            LedgerError: The database cannot be read, or needs an upgrade.
        """
        old = inbox.c.received_at < self._now() - _LOOK_BACK
        before = select(inbox.c.id).where(old).order_by(inbox.c.id.desc()).limit(1)
        with self.database.reading() as connection:
            return Cursor(connection.scalar(before) or 0)

    def resume(self, text: str) -> Cursor:
        """
        A place that was kept as text (:meth:`~tl_orchestration.hints.Cursor.to_text`), as far as it can be believed. In
        an inbox that was emptied, or made anew, or came from an older copy, numbers may be lower than the place: it
        would pass over all that comes.

        Raises:
            InvalidRequest: The text is not a place.
            LedgerError: The database cannot be read, or needs an upgrade.
        """
        place = Cursor.from_text(text)
        newest = self.latest(1)
        if not newest:
            return Cursor()
        return place if newest[0].number >= place.top else self.start()

    def since(self, cursor: Cursor | None = None) -> tuple[list[Hint], Cursor]:
        """
        What has come since a place: each hint once, in the order of their numbers, new ones by the thousand. A row that
        is committed late, below others that were read before, still comes.

        Args:
            cursor: The place; None: the beginning.

        Raises:
            LedgerError: The database cannot be read, or needs an upgrade.
        """
        place = cursor or Cursor()
        now = self._monotonic()
        late = [number for number, until in place.missing if until > now]
        hints = self._hints(_hints().where(inbox.c.id.in_(late))) if late else []
        hints += self._hints(_hints().where(inbox.c.id > place.top).order_by(inbox.c.id).limit(_PORTION))
        hints.sort(key=lambda hint: hint.number)
        return hints, place.moved([hint.number for hint in hints], now)

    def for_ids(self, execution_ids: Sequence[str]) -> list[Hint]:
        """
        Everything kept about some executions, in the order of arrival.

        Raises:
            LedgerError: The database cannot be read, or needs an upgrade.
        """
        found = []
        for first in range(0, len(execution_ids), _IDS):
            portion = execution_ids[first : first + _IDS]
            found += self._hints(_hints().where(inbox.c.execution_id.in_(portion)))
        return sorted(found, key=lambda hint: hint.number)

    def latest(self, limit: int = 100) -> list[Hint]:
        """
        The latest hints, the newest first; those whose execution could not be read among them.

        Raises:
            LedgerError: The database cannot be read, or needs an upgrade.
        """
        return self._hints(_hints().order_by(inbox.c.id.desc()).limit(limit))

    def purge(self, *, older_than: float = RETENTION, most: int = MOST_ROWS) -> int:
        """
        Forget rows that are older than so many seconds, and the oldest beyond so many rows. Returns how many.

        Raises:
            LedgerError: The database cannot be written; what was forgotten before stays forgotten.
        """
        with self.database.writing() as connection:
            old = connection.execute(delete(inbox).where(inbox.c.received_at < self._now() - older_than)).rowcount
        with self.database.writing() as connection:
            last = connection.scalar(select(inbox.c.id).order_by(inbox.c.id.desc()).offset(most).limit(1))
            if last is None:
                return old
            return old + connection.execute(delete(inbox).where(inbox.c.id <= last)).rowcount

    async def acan_put(self) -> bool:
        """
        As :meth:`can_put`.
        """
        return await self._aside(self.can_put)

    async def astart(self) -> Cursor:
        """
        As :meth:`start`.
        """
        return await self._aside(self.start)

    async def aresume(self, text: str) -> Cursor:
        """
        As :meth:`resume`.
        """
        return await self._aside(lambda: self.resume(text))

    async def asince(self, cursor: Cursor | None = None) -> tuple[list[Hint], Cursor]:
        """
        As :meth:`since`.
        """
        return await self._aside(lambda: self.since(cursor))

    async def afor_ids(self, execution_ids: Sequence[str]) -> list[Hint]:
        """
        As :meth:`for_ids`.
        """
        return await self._aside(lambda: self.for_ids(execution_ids))

    async def apurge(self) -> int:
        """
        As :meth:`purge`, with the usual bounds.
        """
        return await self._aside(self.purge)

    async def _aside(self, work: Callable[[], T]) -> T:
        if self._threads is None or self._threads[0] != os.getpid():  # threads do not come along in a fork
            self._threads = os.getpid(), ThreadPoolExecutor(_READERS, thread_name_prefix="tl-inbox")
        return await asyncio.get_running_loop().run_in_executor(self._threads[1], work)

    def _hints(self, query: Select[tuple[int, str, str, str, float]]) -> list[Hint]:
        with self.database.reading() as connection:
            return [_hint(row) for row in connection.execute(query)]


def _hints() -> Select[tuple[int, str, str, str, float]]:
    return select(inbox.c.id, inbox.c.service, inbox.c.execution_id, inbox.c.kind, inbox.c.received_at)


def _hint(row: Row[tuple[int, str, str, str, float]]) -> Hint:
    return Hint(row.id, row.service, row.execution_id, row.kind, row.received_at)


__all__ = ["Arrival", "Inbox"]
