"""
What the state of a task says about a stop: a decision, a move, or nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from attrs import define

from airflow_provider import decisions


@define
class Task:
    """What Airflow's task instance says of itself."""

    dag_id: str = "kyc"
    task_id: str = "check"
    run_id: str = "run-1"
    map_index: int | None = -1
    max_tries: int = 0

    @property
    def asked(self) -> dict[str, Any]:
        return {"dag_id": "kyc", "task_ids": ["check"], "run_ids": ["run-1"], "map_index": self.map_index}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Airflow answers; an exception is raised."""
    given: dict[str, Any] = {"states": {}}

    def get_task_states(**criteria: Any) -> Any:
        given["asked"] = criteria
        if isinstance(given["states"], Exception):
            raise given["states"]
        return given["states"]

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(get_task_states))
    return given


STATES: list[tuple[Any, bool, bool]] = [
    # what Airflow says, whether that ends a step that keeps its state, and one that does not
    ({"run-1": {"check": "failed"}}, True, True),
    ({"run-1": {"check": "success"}}, True, True),
    ({"run-1": {"check": "skipped"}}, True, True),
    ({}, True, True),  # the run was deleted, and the task with it
    ({"run-1": {"check": "deferred"}}, False, False),
    ({"run-1": {"check": "restarting"}}, False, True),
    ({"run-1": {"check": "scheduled"}}, False, True),
    ({"run-1": {"check": "running"}}, False, True),
    ({"run-1": {"check": None}}, False, True),
    ({"run-1": {}}, False, False),
    ({"run-1": {"check": "failed", "other": "failed"}}, False, False),
    ({"run-2": {"check": "failed"}}, False, False),
    (RuntimeError("no supervisor"), False, False),
]


@pytest.mark.parametrize(("states", "durable", "not_durable"), STATES)
def test_deferred_task(answer: dict[str, Any], states: Any, *, durable: bool, not_durable: bool) -> None:
    """A deferred task has ended only where Airflow says so; what is unclear ends nothing."""
    answer["states"] = states
    for kept, expected in ((True, durable), (False, not_durable)):
        assert asyncio.run(decisions.deferred_task_was_ended(Task(), durable=kept)) is expected
    assert answer["asked"] == Task().asked


@pytest.mark.parametrize(("states", "expected"), [(states, durable) for states, durable, _ in STATES])
def test_running_task(answer: dict[str, Any], states: Any, *, expected: bool) -> None:
    """A running task was stopped by somebody only where Airflow says so."""
    answer["states"] = states
    assert decisions.somebody_decided({"ti": Task(map_index=3)}) is expected
    assert answer["asked"] == Task(map_index=3).asked


def test_trigger_without_a_task(answer: dict[str, Any]) -> None:
    """A trigger that belongs to no task cancels nothing."""
    answer["states"] = {"run-1": {"check": "failed"}}
    assert asyncio.run(decisions.deferred_task_was_ended(None, durable=True)) is False
