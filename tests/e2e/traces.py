"""
Everything that a real Airflow keeps, searched for what it must not keep.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from psycopg import sql

from tests.e2e.database import opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dev.airflow_rig import AirflowRig

#: What ``airflow db clean`` makes of a table, with the moment at the end.
ARCHIVE = re.compile(r"_airflow_deleted__(.+)__\d+")


def traces(airflow: AirflowRig, planted: Sequence[str]) -> list[tuple[str, str]]:
    """
    The tables, their archives, and the logs in which one of these values is, each with the value.
    """
    tables = contents(airflow)
    found = [(table, canary) for table, rows in tables.items() for row in rows for canary in planted if canary in row]
    logs = [path for path in airflow.home.rglob("*") if path.is_file() and path.suffix in {".log", ""}]
    found += [(str(path), canary) for path in logs for canary in planted if canary in path.read_text(errors="ignore")]
    assert len(tables) > 30
    assert logs
    return found


def contents(airflow: AirflowRig) -> dict[str, list[str]]:
    """
    All rows of all tables as text, archives included.
    """
    with opened(airflow) as database, database.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'"
        )
        rows = {}
        for schema, table in cursor.fetchall():
            cursor.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table)))
            rows[table] = [_shown(row) for row in cursor.fetchall()]
    return rows


def _shown(row: tuple[Any, ...]) -> str:
    return repr([bytes(value) if isinstance(value, memoryview) else value for value in row])
