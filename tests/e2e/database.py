"""
Airflow's own tables, where the REST interface does not show what a test needs, or cannot make it so.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dev.airflow_rig import AirflowRig


@contextlib.contextmanager
def opened(airflow: AirflowRig) -> Iterator[psycopg.Connection[Any]]:
    """
    Airflow's database; what was changed is committed at the end.
    """
    assert airflow.database_url is not None
    with psycopg.connect(airflow.database_url.replace("+psycopg2", "")) as database:
        yield database


def trigger_of(airflow: AirflowRig, run_id: str) -> int:
    """
    The number of the trigger that the only task of a run waits for.
    """
    with opened(airflow) as database:
        row = database.execute("SELECT trigger_id FROM task_instance WHERE run_id = %s", [run_id]).fetchone()
    assert row is not None
    assert isinstance(row[0], int)
    return row[0]


def trigger_exists(airflow: AirflowRig, number: int) -> bool:
    """
    Whether Airflow still has it.
    """
    with opened(airflow) as database:
        return database.execute("SELECT 1 FROM trigger WHERE id = %s", [number]).fetchone() is not None
