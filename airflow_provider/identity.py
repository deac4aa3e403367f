"""
Which step a task is, and which life of it. Nothing else of this provider derives identity from the context.
"""

from __future__ import annotations

from typing import Protocol


class TaskIdentity(Protocol):
    """
    What is needed of Airflow's task instance.
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int | None
    max_tries: int


def step_key(ti: TaskIdentity) -> str:
    """
    The step's name, the same over retries: run, task and, for a mapped task, its index.
    """
    index = f"[{ti.map_index}]" if is_mapped(ti) else ""
    return f"{ti.dag_id}/{ti.run_id}/{ti.task_id}{index}"


def is_mapped(ti: TaskIdentity) -> bool:
    """
    Whether the task is one element of a mapped one; its index counts from 0.
    """
    return ti.map_index is not None and ti.map_index >= 0


def generation(ti: TaskIdentity) -> str:
    """
    The step's life. ``max_tries`` is the same over retries and redeployments; clearing the task changes it.
    """
    return str(ti.max_tries)
