"""
What the state of a task says about a stop: a decision, a move, or nothing.
"""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetTaskStates
from attrs import define

from airflow_provider import decisions, versions


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

    class Supervisor:
        """What answers a worker, and a triggerer."""

        def send(self, question: GetTaskStates) -> Any:
            given["asked"] = {name: getattr(question, name) for name in Task().asked}
            if isinstance(given["states"], Exception):
                raise given["states"]
            return SimpleNamespace(task_states=given["states"])

        async def asend(self, question: GetTaskStates) -> Any:
            given["in"] = threading.get_ident()
            return self.send(question)

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)
    return given


@pytest.fixture
def _until_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Airflow that tells a trigger to stop for other reasons than a decision, too."""
    monkeypatch.setattr(versions, "ON_KILL_IS_A_DECISION", False)


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


@pytest.mark.usefixtures("_until_3_3")
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


@pytest.mark.parametrize(("state", "ends"), [("restarting", True), ("failed", True), ("running", False), (None, False)])
def test_clear_of_a_running_task_that_keeps_nothing(answer: dict[str, Any], state: str | None, *, ends: bool) -> None:
    """Where the next try does not find what this one has started, a clear ends it, in a stop and before a deferral."""
    answer["states"] = {"run-1": {"check": state}}
    assert decisions.somebody_decided({"ti": Task()}, durable=False) is ends
    assert decisions.ended_already({"ti": Task()}, durable=False) is ends
    assert decisions.ended_already({"ti": Task()}) is (state == "failed")


@pytest.mark.usefixtures("_until_3_3")
def test_trigger_without_a_task(answer: dict[str, Any]) -> None:
    """A trigger that belongs to no task cancels nothing."""
    answer["states"] = {"run-1": {"check": "failed"}}
    assert asyncio.run(decisions.deferred_task_was_ended(None, durable=True)) is False


def test_from_3_4_on_airflow_need_not_be_asked(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    """There a trigger that is told to stop has been told by somebody, and the first one of a process asks nothing."""
    monkeypatch.setattr(versions, "ON_KILL_IS_A_DECISION", True)
    monkeypatch.setattr(decisions, "_ready", False)
    answer["states"] = {"run-1": {"check": "deferred"}}
    asyncio.run(decisions.make_ready(Task()))
    assert asyncio.run(decisions.deferred_task_was_ended(Task(), durable=True)) is True
    assert "asked" not in answer


@pytest.mark.parametrize("is_a_decision", [True, False])
@pytest.mark.parametrize(("states", "expected"), [(states, durable) for states, durable, _ in STATES])
def test_where_a_cleared_task_goes_on_every_version_is_asked(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], states: Any, *, expected: bool, is_a_decision: bool
) -> None:
    """A clear, for which 3.4 tells a trigger to stop, too, ends nothing there."""
    monkeypatch.setattr(versions, "ON_KILL_IS_A_DECISION", is_a_decision)
    monkeypatch.setattr(decisions, "_ready", False)
    asyncio.run(decisions.make_ready(Task(), goes_on=True))
    assert answer.pop("asked") == Task().asked
    answer["states"] = states

    assert asyncio.run(decisions.deferred_task_was_ended(Task(), durable=True, goes_on=True)) is expected
    assert answer["asked"] == Task().asked


@pytest.mark.usefixtures("_until_3_3")
def test_3_1_is_asked_in_the_loop_and_to_the_end(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    """There a question from another thread, or one whose answer nobody reads, would end the triggerer."""
    monkeypatch.setattr(versions, "ASKS_IN_THE_LOOP", True)
    answer["states"] = {"run-1": {"check": "failed"}}

    async def asked() -> bool:
        abandoned = asyncio.create_task(decisions.deferred_task_was_ended(Task(), durable=True))
        await asyncio.sleep(0)
        abandoned.cancel()
        await asyncio.wait([abandoned])
        assert answer.pop("in") == threading.get_ident()
        return await decisions.deferred_task_was_ended(Task(), durable=True)

    assert asyncio.run(asked()) is True
