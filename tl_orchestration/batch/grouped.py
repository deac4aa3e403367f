"""
A SQL ledger whose callers share transactions: one commit, and one wait for the disk, serves all that came meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection

from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger.entry import Entry, Event, fold
from tl_orchestration.ledger.key import checked_key
from tl_orchestration.ledger.sql import SqlLedger, find

T = TypeVar("T")

#: Calls of one transaction at most.
_MOST = 100
#: As in :class:`SqlLedger`.
_APPEND_TRIES = 100


class GroupedLedger(SqlLedger):
    """
    As :class:`SqlLedger`; every call still returns only after its write is acknowledged.

    Whoever comes while nobody writes does so for all that come until it is done. A call that is refused has written
    nothing, so it does not keep the others from being committed; where the database fails, each is tried by itself.

    Args:
        ledger: Bound to its namespace.
    """

    def __init__(self, ledger: SqlLedger) -> None:
        super().__init__(ledger.database, ledger.namespace, actor=ledger._actor)
        self._turn = threading.Condition()
        self._waiting: list[tuple[Callable[[Connection], Any], Future[Any]]] = []
        self._writes = False

    def read(self, key: str) -> Entry | None:
        checked = checked_key(key)
        return self._together(lambda connection: find(connection, self.namespace, checked))

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        checked, entry = checked_key(key), fold(after, intent)

        def write(connection: Connection) -> Entry:
            if not self._write(connection, checked, entry, after):
                raise LedgerError("Another caller has claimed this step in the meantime; read it again.")
            self._note(connection, checked, entry, intent)
            return entry

        return self._together(write)

    def append(self, key: str, event: Event) -> Entry:
        def write(connection: Connection) -> Entry:
            for _ in range(_APPEND_TRIES):
                found = find(connection, self.namespace, key)
                entry = fold(found, event)
                if self._write(connection, key, entry, found):
                    self._note(connection, key, entry, event)
                    return entry
            raise LedgerError(f"{event.state} could not be recorded: other processes write to this entry all the time.")

        return self._together(write)

    def _together(self, call: Callable[[Connection], T]) -> T:
        mine: Future[T] = Future()
        with self._turn:
            self._waiting.append((call, mine))
        while True:
            with self._turn:
                self._turn.wait_for(lambda: mine.done() or not self._writes)
                if mine.done():
                    return mine.result()
                self._writes = True
                group, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            try:
                self._carry_out(group)
            finally:
                with self._turn:
                    self._writes = False
                    self._turn.notify_all()

    def _carry_out(self, group: list[tuple[Callable[[Connection], Any], Future[Any]]]) -> None:
        try:
            self._commit(group)
        except LedgerError:
            for one in group:
                self._alone(one)
        except BaseException as error:
            for _, future in group:
                future.set_exception(LedgerError(f"The ledger failed with {type(error).__name__}."))
            if not isinstance(error, Exception):
                raise

    def _alone(self, one: tuple[Callable[[Connection], Any], Future[Any]]) -> None:
        try:
            self._commit([one])
        except LedgerError as error:
            one[1].set_exception(error)

    def _commit(self, group: list[tuple[Callable[[Connection], Any], Future[Any]]]) -> None:
        """
        Raises:
            LedgerError: The database failed; nobody has been told anything.
        """
        told: list[tuple[Future[Any], Any, LedgerError | None]] = []
        with self.database.writing() as connection:
            for call, future in group:
                try:
                    told.append((future, call(connection), None))
                except LedgerError as refused:
                    told.append((future, None, refused))
        for future, result, refusal in told:
            if refusal is None:
                future.set_result(result)
            else:
                future.set_exception(refusal)


__all__ = ["GroupedLedger"]
