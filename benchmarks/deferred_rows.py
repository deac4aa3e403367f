"""
Puts mapped task instances that are deferred into Airflow's database, as if so many workers had deferred them.

A thousand task processes would take this machine half an hour and measure nothing of the triggerer. Runs in a process
with Airflow's settings: ``python -m benchmarks.deferred_rows RUN_ID`` says *ready*, then reads the triggers as JSON.
"""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from sqlalchemy import delete, insert, select


def defer(run_id: str, triggers: list[tuple[str, dict[str, Any]]]) -> None:
    """
    Replace the only task instance of a run by one for each trigger.

    Args:
        triggers: Class path and arguments of each.
    """
    table = TaskInstance.__table__
    with create_session() as session:
        row = dict(session.execute(select(table).where(table.c.run_id == run_id)).mappings().one())
        session.execute(delete(table).where(table.c.run_id == run_id))
        rows = [Trigger(classpath=path, kwargs=arguments) for path, arguments in triggers]
        session.add_all(rows)
        session.flush()
        same = row | {"state": "deferred", "next_method": "execute_complete", "next_kwargs": {}, "try_number": 1}
        session.execute(
            insert(table),
            [same | {"id": uuid.uuid4(), "map_index": n, "trigger_id": one.id} for n, one in enumerate(rows)],
        )


if __name__ == "__main__":
    print("ready", flush=True)
    defer(sys.argv[1], json.load(sys.stdin))
