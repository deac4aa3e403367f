"""
Everything that a real Airflow keeps, searched for what it must not keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dev.airflow_rig import AirflowRig


def traces(airflow: AirflowRig, planted: Sequence[str]) -> list[tuple[str, str]]:
    """
    The tables and logs in which one of these values is, each with the value.
    """
    assert airflow.database_url is not None
    found = []
    with psycopg.connect(airflow.database_url.replace("+psycopg2", "")) as database, database.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        for table in tables:
            cursor.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
            rows = [_shown(row) for row in cursor.fetchall()]
            found += [(table, canary) for row in rows for canary in planted if canary in row]
    logs = [path for path in airflow.home.rglob("*") if path.is_file() and path.suffix in {".log", ""}]
    found += [(str(path), canary) for path in logs for canary in planted if canary in path.read_text(errors="ignore")]
    assert len(tables) > 30
    assert logs
    return found


def _shown(row: tuple[Any, ...]) -> str:
    return repr([bytes(value) if isinstance(value, memoryview) else value for value in row])
