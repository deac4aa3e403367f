"""
One SQL database: connections that survive forks, errors that show no secret, tables that fit this version.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from sqlalchemy import URL, Connection, Engine, Pool, create_engine, event
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tl_orchestration.database import schema
from tl_orchestration.database.addresses import POSTGRESQL, SQLITE, database_url, secrets_of, shown
from tl_orchestration.errors import InvalidSettings, LedgerError

#: How long a write waits for another process's write to the same SQLite file, seconds.
_BUSY_TIMEOUT = 15
#: Connections that are kept open, and that may be opened besides under load.
_POOL = {"pool_size": 2, "max_overflow": 8, "pool_timeout": 30}
_POSTGRESQL_OPTIONS: dict[str, Any] = {
    "application_name": "tl-orchestration",
    "connect_timeout": 10,
    # A peer that has vanished without a word is noticed in half a minute instead of in a quarter of an hour.
    "keepalives_idle": 30,
    "tcp_user_timeout": 30_000,
    # Poolers such as PgBouncer hand each transaction to another server, which knows no prepared statement of ours.
    "prepare_threshold": None,
}
_LONGEST_REASON = 200
_AWAY = (OperationalError, InterfaceError, PoolTimeout)


class DatabaseAway(LedgerError):
    """
    The database could not be reached or did not answer, as opposed to what it refused. It may be back later.
    """


class Database:
    """
    A database, opened at the first use. One object serves many threads, and child processes that are forked.

    Args:
        url_or_engine: SQLAlchemy URL of a SQLite file or a PostgreSQL database; or an engine of one, whose pool and
            time-outs are the caller's choice.

    Raises:
        InvalidSettings: It is neither, or its driver is not installed. Nothing was opened.
    """

    def __init__(self, url_or_engine: str | URL | Engine) -> None:
        if isinstance(url_or_engine, Engine):
            self._engine = url_or_engine
        else:
            self._engine = _engine(database_url(url_or_engine))
            weakref.finalize(self, self._engine.dispose)  # at the latest when the process ends
        if self._engine.dialect.name not in {SQLITE, POSTGRESQL} or self._engine.dialect.is_async:
            raise InvalidSettings("A ledger needs a synchronous engine for SQLite or PostgreSQL.")
        self.is_sqlite = self._engine.dialect.name == SQLITE
        self._fits = False
        self._lock = threading.Lock()
        self._abandoned: list[Pool] = []
        _OPEN.add(self)

    def __repr__(self) -> str:
        return f"<Database {self.address}>"

    @property
    def address(self) -> str:
        """
        Its URL for people: without password and options.
        """
        return shown(self._engine.url)

    @property
    def is_missing(self) -> bool:
        """
        Whether it is a SQLite file that does not exist yet.
        """
        return self.is_sqlite and not os.path.exists(self._engine.url.database or "")  # noqa: PTH110 -- also no name

    def close(self) -> None:
        """
        Close its connections. It can be used again.
        """
        self._engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """
        A connection to read with.

        Raises:
            LedgerError: The database cannot be reached, or its tables do not fit this version.
        """
        with self._translating():
            self._check()
            with self._engine.connect() as connection:
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """
        A transaction: committed at the end, or nothing of it happened.

        Raises:
            LedgerError: As :meth:`reading`, or it could not be committed.
        """
        with self._translating():
            self._check()
            with self._engine.begin() as connection:
                yield connection

    @contextlib.contextmanager
    def inserting(self) -> Iterator[Connection]:
        """
        As :meth:`writing`, for a role of PostgreSQL that may only insert, and so cannot ask which revision the tables
        have.

        Raises:
            LedgerError: As :meth:`writing`.
        """
        with self._translating():
            if self.is_sqlite:
                self._check()
            with self._engine.begin() as connection:
                yield connection

    def revision(self) -> str | None:
        """
        The revision of its tables; None where there are none.

        Raises:
            LedgerError: It cannot be reached.
        """
        if self.is_missing:  # asking would make the file
            return None
        with self._translating(), self._engine.connect() as connection:
            return schema.revision(connection)

    def upgrade(self) -> None:
        """
        Make its tables those of this version. Any number of processes may do so at once.

        Raises:
            LedgerError: It cannot be reached, may not be changed, or belongs to a newer version.
        """
        with self._translating():
            schema.upgrade(self._engine, self.address)
        self._fits = True

    def _check(self) -> None:
        if self._fits:
            return
        with self._lock:
            with self._engine.connect() as connection:
                found = schema.revision(connection)
            if schema.is_behind(found, self.address):
                if not self.is_sqlite:
                    raise LedgerError(schema.advice(found, self.address))
                schema.upgrade(self._engine, self.address)
            self._fits = True

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            # None of the cause: its text may have values in it, and a traceback of it the URL.
            kind = DatabaseAway if isinstance(error, _AWAY) else LedgerError
            raise kind(f"The database {self.address} {self._reason(error)}") from None

    def _reason(self, error: SQLAlchemyError) -> str:
        cause: BaseException | None = getattr(error, "orig", None)
        if cause is None:
            return f"did not answer in time or in form ({type(error).__name__})."
        # Only these say what is wrong with the database, and not with a value. The first line has no values.
        tells = isinstance(cause, sqlite3.Error) or isinstance(error, OperationalError | ProgrammingError)
        text = str(cause).strip().partition("\n")[0] if tells else ""
        for secret in secrets_of(self._engine.url):
            text = text.replace(secret, "***")
        state = getattr(cause, "sqlstate", None)
        kind = f"{type(cause).__name__}{f' {state}' if state else ''}"
        return f"cannot be used ({kind}{': ' if text else ''}{text[:_LONGEST_REASON]})."

    def _forget_connections(self) -> None:
        # They belong to the parent. Kept, because closing one would tell the server, or unlock the file.
        self._abandoned.append(self._engine.pool)
        self._engine.dispose(close=False)
        self._lock = threading.Lock()


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork() -> None:
    for database in list(_OPEN):
        database._forget_connections()


os.register_at_fork(after_in_child=_after_fork)


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == SQLITE:
            engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_TIMEOUT}, **_POOL)
            event.listen(engine, "connect", _be_durable)
            return engine
        options = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in url.query}
        return create_engine(
            url,
            hide_parameters=True,
            connect_args=options,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            pool_recycle=1800,
            **_POOL,
        )
    except ImportError:
        raise InvalidSettings("PostgreSQL needs a driver: pip install 'tl-orchestration[sql]'") from None
    except (SQLAlchemyError, TypeError, ValueError):
        raise InvalidSettings(f"The database URL {shown(url)} has an option that is not known.") from None


def _be_durable(connection: Any, record: object) -> None:
    # An intent that a power cut undoes after its start was sent would be started again.
    connection.execute("PRAGMA synchronous=FULL")
