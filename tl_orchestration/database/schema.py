"""
Which revision the tables have, and how they get to the newest one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from sqlalchemy import Connection, Engine, column, inspect, select, table, text
from sqlalchemy.exc import OperationalError

from tl_orchestration.database.addresses import SQLITE
from tl_orchestration.database.tables import REVISIONS, VERSION_TABLE
from tl_orchestration.errors import LedgerError

#: Any number, the same for all processes: whoever holds this lock of the database is the one that upgrades.
_UPGRADE_LOCK = 0x746C_6F72_6368
#: How long an upgrade waits for another one, and for tables that are in use.
_LOCK_TIMEOUT = "60s"


def revision(connection: Connection) -> str | None:
    """
    The revision of the tables in this database; None where there are none.
    """
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return found


def is_behind(found: str | None, address: str) -> bool:
    """
    Whether tables of this revision have to be upgraded.

    Raises:
        LedgerError: They are newer than this version.
    """
    if found is not None and found not in REVISIONS:
        raise LedgerError(
            f"The tables in {address} have revision {found}, which this version does not know (it knows up to"
            f" {REVISIONS[-1]}): upgrade tl-orchestration here."
        )
    return found != REVISIONS[-1]


def advice(found: str | None, address: str) -> str:
    """
    What to do about tables that are behind.
    """
    what = "There are no tables of this project yet" if found is None else f"The tables have revision {found}"
    return (
        f"{what} in {address}; this version needs revision {REVISIONS[-1]}. Somebody who may change tables has to run:"
        f" tl db upgrade --url {address}"
    )


def upgrade(engine: Engine, address: str) -> None:
    """
    Bring the tables to the newest revision, in one transaction that waits for any other upgrade.

    Raises:
        LedgerError: They are newer than this version.
    """
    is_sqlite = engine.dialect.name == SQLITE
    if is_sqlite:
        _write_ahead(engine)
    with engine.begin() as connection:
        if is_sqlite:
            # Python's driver begins no transaction for statements that change tables.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
        if is_behind(revision(connection), address):
            migrate(connection, REVISIONS[-1])


def migrate(connection: Connection, target: str) -> None:
    """
    Run the migrations up to a revision, in the connection's transaction.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _write_ahead(engine: Engine) -> None:
    # Readers then do not wait for writers. It stays with the file; a process that is at it just now does it for us.
    with engine.connect() as connection, contextlib.suppress(OperationalError):
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
