"""
Whatever is retried or killed, a step starts at most one execution, and goes on with it.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.prefect.conftest import cleanups_of, pid_of, waits

if TYPE_CHECKING:
    from dev.prefect_rig import PrefectRig
    from tests.e2e.prefect.conftest import Block
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def went_on(rig: PrefectRig, oracle: Oracle, run: str, name: str) -> None:
    """The run has succeeded with the one execution that was ever started, and nothing was cancelled."""
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 1
    assert oracle.cancelled(name) == []


def test_killed_while_it_waits(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """SIGKILL of the flow's process during the wait: a retry from the UI goes on with the same execution."""
    name = block("killed", duration=600)
    run = rig.run_here("in-body", {"block": name})

    os.kill(waits(rig, run), signal.SIGKILL)

    assert rig.wait_for_end(run) == "Crashed"
    rig.retry(run)
    rig.wait_for_log(run, "waits for ", count=2)
    oracle.end(oracle.started(name)[0])
    went_on(rig, oracle, run, name)


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["flow-fails-once", "task-fails-once"])
def test_retried_by_prefect(rig: PrefectRig, oracle: Oracle, block: Block, flow: str) -> None:
    """A flow or a task that fails after its start is retried, and finds its execution."""
    name = block(flow)

    run = rig.run_here(flow, {"block": name})

    went_on(rig, oracle, run, name)


@pytest.mark.slow
def test_retried_from_the_ui(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A failed flow run whose task has succeeded runs both again, and starts nothing."""
    name = block("retried-by-a-person")
    run = rig.run_here("fails-until-retried", {"block": name})
    assert rig.wait_for_end(run) == "Failed"

    rig.retry(run)

    rig.wait_for_log(run, "pid ", count=2)
    went_on(rig, oracle, run, name)


@pytest.mark.slow
def test_killed_between_start_and_record(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """
    SIGKILL while the answer to the start is on its way: a retry starts nothing. For three minutes it says that another
    process may still be at the start; from then on it would be one of unknown fate.
    """
    name = block("killed-early")
    oracle.fault(on="start", definition=name, kind="hold", seconds=90)
    run = rig.run_here("in-body", {"block": name})
    rig.wait_for(lambda: oracle.started(name) or None, "the start", 180)

    os.kill(pid_of(rig, run), signal.SIGKILL)

    assert rig.wait_for_end(run) == "Crashed"
    rig.retry(run)
    rig.wait_for_log(run, "pid ", count=2)
    assert rig.wait_for_end(run) == "Failed"
    rig.wait_for_log(run, "Nothing was sent")  # logs come a moment after the state
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_answer_to_the_start_is_lost(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A start of unknown fate fails the flow run by that name; a retry does not start again."""
    name = block("lost")
    oracle.fault(on="start", definition=name, kind="lose")
    run = rig.run_here("in-body", {"block": name})
    assert rig.wait_for_end(run) == "Failed"

    rig.retry(run)

    rig.wait_for_log(run, "pid ", count=2)
    assert rig.wait_for_end(run) == "Failed"
    rig.wait_for_log(run, "StartOutcomeUnknown")  # logs come a moment after the state
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_result_cannot_be_stored(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A result storage that answers errors repeats tasks and flows, and starts nothing again."""
    name = block("full-disk")

    run = rig.run_here("result-cannot-be-stored", {"block": name})

    rig.wait_for_end(run)
    assert len(oracle.started(name)) == 1, rig.describe(run)
    assert oracle.cancelled(name) == []


@pytest.mark.slow
def test_process_is_told_to_end(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """SIGTERM of the flow's process without a decision: nothing is cancelled, a retry goes on."""
    name = block("evicted", duration=600)
    run = rig.run_here("in-body", {"block": name})

    os.kill(waits(rig, run), signal.SIGTERM)

    assert rig.wait_for_end(run) == "Crashed"
    rig.retry(run)
    rig.wait_for_log(run, "waits for ", count=2)
    oracle.end(oracle.started(name)[0])
    went_on(rig, oracle, run, name)


@pytest.mark.slow
def test_runner_is_redeployed(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """
    SIGTERM of the runner: Prefect calls its flow runs cancelled, and runs their hooks and the cleanup flow, although
    nobody cancelled them. Nothing is cancelled, and a retry goes on.
    """
    name = block("redeployed", duration=600)
    run = rig.run_here("in-body", {"block": name})
    waits(rig, run)

    rig.stop_runner(signal.SIGTERM)
    rig.start_runner()

    assert rig.wait_for_end(run) == "Cancelled"
    swept = rig.wait_for(lambda: cleanups_of(rig, run) or None, "the cleanup flow", 180)
    assert rig.wait_for_end(swept[0]) == "Completed"
    assert oracle.cancelled(name) == []
    rig.retry(run)
    rig.wait_for_log(run, "waits for ", count=2)
    oracle.end(oracle.started(name)[0])
    went_on(rig, oracle, run, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flow", "state"), [("waits-for-its-retry", "AwaitingRetry"), ("paused-in-its-process", "Paused")]
)
def test_runner_is_redeployed_meanwhile(rig: PrefectRig, oracle: Oracle, block: Block, flow: str, state: str) -> None:
    """
    SIGTERM of the runner while a flow run waits for its retry, or is paused: Prefect calls it cancelled at once, as it
    does where a person cancels what has no process. Nothing is cancelled.
    """
    name = block(flow, duration=600)
    run = rig.run_here(flow, {"block": name})
    rig.wait_for_state(run, {state})

    rig.stop_runner(signal.SIGTERM)
    rig.start_runner()

    assert rig.wait_for_end(run) == "Cancelled"
    swept = rig.wait_for(lambda: cleanups_of(rig, run) or None, "the cleanup flow", 180)
    assert rig.wait_for_end(swept[0]) == "Completed"
    assert len(oracle.started(name)) == 1
    assert oracle.cancelled(name) == []
    if state == "AwaitingRetry":
        rig.retry(run)
        rig.wait_for_log(run, "goes on with ", count=2)
        oracle.end(oracle.started(name)[0])
        went_on(rig, oracle, run, name)
