"""
A person's cancel of a flow run ends its executions, wherever the flow run is caught.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from prefect_blocks.cancelling import cancel_executions_of
from tests.e2e.prefect.conftest import cleanups_of, pid_of, waits

if TYPE_CHECKING:
    from dev.prefect_rig import PrefectRig
    from tests.e2e.prefect.conftest import Block
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def cancelled(rig: PrefectRig, oracle: Oracle, run: str, name: str, count: int = 1) -> None:
    """The flow run is cancelled, and so is each execution that it has started."""
    assert rig.wait_for_end(run) == "Cancelled", rig.describe(run)
    rig.wait_for(
        lambda: len(set(oracle.cancelled(name))) == count or None,
        f"{count} cancels",
        180,
        lambda: "\n".join([str(oracle.cancelled(name)), rig.describe(run)]),
    )
    assert set(oracle.cancelled(name)) == set(oracle.started(name))


def test_while_suspended(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """Without a process there is no hook: the automation's cleanup flow cancels."""
    name = block("cancel-suspended", duration=600, wait_mode="auto", suspend_after=0)
    run = rig.run_here("without-hook", {"block": name})
    rig.wait_for_state(run, {"Suspended"})

    rig.cancel(run)

    cancelled(rig, oracle, run, name)


@pytest.mark.slow
def test_subflow_run(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """Who cancels the run of a subflow ends what that subflow has started."""
    name = block("cancel-a-subflow", duration=600)
    run = rig.run_here("in-subflow", {"block": name})
    rig.wait_for(lambda: oracle.started(name) or None, "the start", 180, lambda: rig.describe(run))
    (subflow,) = rig.subflow_runs(run)

    rig.cancel(subflow)

    rig.wait_for(lambda: oracle.cancelled(name) or None, "the cancel", 180, lambda: rig.describe(subflow))
    assert rig.wait_for_end(run) == "Failed"
    rig.wait_for_log(subflow, "ExecutionCancelled")


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["in-body", "without-hook", "in-async-body"])
def test_in_the_main_thread(rig: PrefectRig, oracle: Oracle, block: Block, flow: str) -> None:
    """The wait itself cancels, with or without the hook."""
    name = block(f"cancel-{flow}", duration=600)
    run = rig.run_here(flow, {"block": name})
    waits(rig, run)

    rig.cancel(run)

    cancelled(rig, oracle, run, name)


@pytest.mark.slow
def test_in_submitted_tasks(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """Submitted tasks see nothing of a cancel, and their process is killed: the hook cancels for all of them."""
    name = block("cancel-submitted", duration=600)
    run = rig.run_here("submitted", {"block": name, "count": 3})
    rig.wait_for(lambda: len(oracle.started(name)) == 3 or None, "three starts", 180, lambda: rig.describe(run))

    rig.cancel(run)

    cancelled(rig, oracle, run, name, count=3)


@pytest.mark.slow
@pytest.mark.parametrize("suspended", [False, True], ids=["in its process", "suspended"])
def test_while_waiting_for_several(rig: PrefectRig, oracle: Oracle, block: Block, *, suspended: bool) -> None:
    """A flow that waits for several executions together cancels all of them: by the wait, or by the cleanup flow."""
    mode = {"wait_mode": "auto", "suspend_after": 0} if suspended else {"wait_mode": "poll"}
    name = block(f"cancel-several-{mode['wait_mode']}", duration=600, **mode)
    run = rig.run_here("several", {"block": name, "count": 3})
    if suspended:
        rig.wait_for_state(run, {"Suspended"})
    else:
        waits(rig, run)

    rig.cancel(run)

    cancelled(rig, oracle, run, name, count=3)


@pytest.mark.slow
def test_killed_at_a_start_with_a_key(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """SIGKILL as soon as a start with a business key is on record: what cleans up knows whose execution it is."""
    name = block("killed-keyed", like="kyc-review", duration=600, credentials="keyed")
    run = rig.run_here("killed-at-its-start", {"block": name, "key": "customer-killed"})
    assert rig.wait_for_end(run) == "Crashed"
    (started,) = oracle.started(name)
    assert oracle.cancelled(name) == []

    outcomes = cancel_executions_of(UUID(run))

    assert [(outcome.step, outcome.execution_id, outcome.what) for outcome in outcomes] == [
        ("customer-killed", started, "cancelled")
    ]
    assert oracle.cancelled(name) == [started]


@pytest.mark.slow
def test_block_says_leave(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """on_cancel="leave": the cleanup flow runs and leaves the execution."""
    name = block("cancel-leaves", duration=600, wait_mode="auto", suspend_after=0, on_cancel="leave")
    run = rig.run_here("in-body", {"block": name})
    rig.wait_for_state(run, {"Suspended"})

    rig.cancel(run)

    swept = rig.wait_for(lambda: cleanups_of(rig, run) or None, "the cleanup flow", 180)
    assert rig.wait_for_end(swept[0]) == "Completed"
    assert oracle.cancelled(name) == []


@pytest.mark.slow
def test_crash_cancels_where_the_flow_says_so(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """The hook for on_crashed ends what a killed process leaves behind."""
    name = block("crash-cancels", duration=600)
    run = rig.run_here("ended-by-a-crash", {"block": name})
    rig.wait_for(lambda: oracle.polls(name) or None, "the first poll", 180)

    os.kill(pid_of(rig, run), signal.SIGKILL)

    assert rig.wait_for_end(run) == "Crashed"
    rig.wait_for(lambda: oracle.cancelled(name) or None, "the cancel", 180, lambda: rig.describe(run))


@pytest.mark.slow
def test_runner_is_dead(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """Where nobody is left to end a process, the flow run stays Cancelling; the cleanup flow cancels all the same."""
    name = block("cancel-dead-runner", duration=600)
    run = rig.run_here("without-hook", {"block": name})
    waits(rig, run)

    rig.stop_runner(signal.SIGKILL)
    rig.cancel(run)
    rig.start_runner()

    rig.wait_for(lambda: oracle.cancelled(name) or None, "the cancel", 180, lambda: rig.describe(run))
    assert oracle.started(name) == [*dict.fromkeys(oracle.cancelled(name))]
