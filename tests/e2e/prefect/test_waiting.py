"""
A flow run that waits has no process; the timer wakes it. The sandbox is the witness of what was started.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.e2e.prefect.conftest import alive, pid_of, waits

if TYPE_CHECKING:
    from dev.prefect_rig import PrefectRig
    from tests.e2e.prefect.conftest import Block
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def suspended(rig: PrefectRig, run: str, times: int) -> bool | None:
    """True as soon as the flow run has been suspended so often."""
    return rig.states(run).count("Suspended") >= times or None


def wait_until_gone(rig: PrefectRig, pid: int) -> None:
    """A process that has nothing left to do ends a moment after its flow run was suspended."""
    rig.wait_for(lambda: None if alive(pid) else True, "the end of the flow's process", 180)


def test_suspended_and_woken_by_the_timer(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A deployed flow is suspended, has no process, is woken, and succeeds with one start."""
    name = block("woken", duration=600, wait_mode="auto", suspend_after=0)

    run = rig.run_here("in-body", {"block": name})

    rig.wait_for_state(run, {"Suspended"})
    wait_until_gone(rig, pid_of(rig, run))
    oracle.end(oracle.started(name)[0])
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert rig.states(run).count("Suspended") == rig.states(run).count("Resuming") > 0
    assert len(oracle.started(name)) == 1
    assert oracle.cancelled(name) == []


def test_ready_flow_is_suspended(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """The ready flow, served as it is, releases its worker, and ends with one start."""
    name = block("ready", duration=600, wait_mode="suspend", suspend_after=0)

    run = rig.run_here("transactionlink-run-workflow", {"workflow": name})

    rig.wait_for_state(run, {"Suspended"})
    for execution_id in oracle.started(name):
        oracle.end(execution_id)
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_async_flow_is_suspended(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """An async flow releases its worker in the same way."""
    name = block("woken-async", duration=600, wait_mode="suspend", suspend_after=0)

    run = rig.run_here("in-async-body", {"block": name})

    rig.wait_for_state(run, {"Suspended"})
    for execution_id in oracle.started(name):
        oracle.end(execution_id)
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_polls_for_a_while_first(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """What ends within the grace costs no suspension."""
    name = block("quick", duration=2.0, wait_mode="auto", suspend_after=30)

    run = rig.run_here("in-body", {"block": name})

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert "Suspended" not in rig.states(run)
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_several_suspended_at_once(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A flow that waits for several executions is suspended once for all, and finds each again."""
    name = block("several", duration=600, wait_mode="auto", suspend_after=0)

    run = rig.run_here("several", {"block": name, "count": 3})

    rig.wait_for_state(run, {"Suspended"})
    for execution_id in oracle.started(name):
        oracle.end(execution_id)
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 3


@pytest.mark.slow
def test_several_with_other_deadlines(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """The deadline of one cancels that one; the others are waited for, and then the flow is told."""
    late = block("several-late", duration=600, timeout=3)
    ends = block("several-ends", duration=9)

    run = rig.run_here("several-blocks", {"blocks": [late, ends]})

    assert rig.wait_for_end(run) == "Failed", rig.describe(run)
    rig.wait_for_log(run, "WaitTimeout")  # logs come a moment after the state
    assert oracle.cancelled(late) == oracle.started(late) != []
    assert oracle.cancelled(ends) == []


@pytest.mark.slow
def test_several_with_other_deadlines_suspended(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A deadline that has passed in an earlier pass is told as if it had been in the last one."""
    mode = {"wait_mode": "auto", "suspend_after": 0}
    late = block("suspended-late", duration=600, timeout=3, **mode)
    ends = block("suspended-ends", duration=25, **mode)

    run = rig.run_here("several-blocks", {"blocks": [late, ends]})

    assert rig.wait_for_end(run) == "Failed", rig.describe(run)
    assert "Suspended" in rig.states(run)
    rig.wait_for_log(run, "WaitTimeout")
    assert oracle.cancelled(late) == oracle.started(late)
    assert len(oracle.started(late)) == len(oracle.started(ends)) == 1
    assert oracle.cancelled(ends) == []


@pytest.mark.slow
def test_deadline_before_the_timer(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A deadline that the timer would miss is waited for in the process, and cancels in time."""
    name = block("deadline-first", duration=600, timeout=15, wait_mode="auto", suspend_after=0)

    run = rig.run_here("in-body", {"block": name})

    assert rig.wait_for_end(run) == "Failed", rig.describe(run)
    assert "Suspended" not in rig.states(run)
    assert oracle.cancelled(name) == oracle.started(name) != []


@pytest.mark.slow
def test_woken_early_and_suspended_again(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A flow run that was resumed before its time, as by a webhook, and waits on, is woken by the timer again."""
    name = block("woken-early", duration=30.0, wait_mode="auto", suspend_after=0)
    run = rig.run_here("in-body", {"block": name})
    for times in (1, 2):
        rig.wait_for(partial(suspended, rig, run, times), "a suspension", 180)
        rig.resume(run)

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_no_suspension_beside_a_task(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """While a submitted task runs, the flow keeps polling; it is suspended when the task has ended."""
    name = block("beside", duration=25.0, wait_mode="auto", suspend_after=0)

    run = rig.run_here("beside-a-task", {"block": name, "seconds": 10})

    pid = waits(rig, run)
    seen = oracle.polls(name)
    rig.wait_for(lambda: oracle.polls(name) > seen + 2 or None, "polls in the process", 180)
    assert rig.state(run) == "Running"
    assert alive(pid)
    rig.wait_for_state(run, {"Suspended"})
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_a_persons_approval_is_not_given_by_the_timer(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A flow run that is suspended for another reason than an execution is left to a person."""
    name = block("approval", duration=6.0, wait_mode="auto", suspend_after=0)
    run = rig.run_here("approval", {"block": name})
    rig.wait_for(lambda: rig.states(run).count("Suspended") == 2 or None, "the second suspension", 180)

    time.sleep(25)  # more than twice the timer's span

    assert rig.state(run) == "Suspended"
    rig.resume(run)
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_insisting_in_a_subflow_starts_nothing(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """wait_mode="suspend" where Prefect cannot suspend fails before the start."""
    name = block("insists", wait_mode="suspend")

    run = rig.run_here("in-subflow", {"block": name})

    assert rig.wait_for_end(run) == "Failed"
    assert oracle.started(name) == []


@pytest.mark.slow
def test_subflow_polls_and_says_so_once(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A subflow keeps its process, and its log says why."""
    name = block("subflow", duration=3.0, wait_mode="auto", suspend_after=0)

    run = rig.run_here("in-subflow", {"block": name})

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert "Suspended" not in rig.states(run)
    assert len(oracle.started(name)) == 1
    assert rig.log_dir.joinpath("runner.log").read_text().count("keeps the process: it waits in a subflow") == 1
