"""
DAGs of the end-to-end tests whose step runs in an executor of ``tests.e2e.airflow_executors``.
"""

from __future__ import annotations

from airflow.sdk import dag

from tests.e2e.airflow_dags.steps import step


@dag(schedule=None)
def in_worker_said_to_fail() -> None:
    step(deferrable=False, executor="says_failed")


@dag(schedule=None)
def in_worker_said_to_fail_late() -> None:
    step(deferrable=False, executor="says_failed_late")


in_worker_said_to_fail()
in_worker_said_to_fail_late()
