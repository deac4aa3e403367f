"""
Automations on a real server: created once, changed in place, never asleep for flow runs that wait already.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from prefect_blocks.__main__ import main
from prefect_blocks.automations import CLEANUP, TIMER, WAKE_UP, create_automations
from tests.e2e.prefect.conftest import WAKE_AFTER, cleanups_of

if TYPE_CHECKING:
    from dev.prefect_rig import PrefectRig
    from tests.e2e.prefect.conftest import Block
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)

CLEANUP_DEPLOYMENT = "transactionlink-cleanup/rig"


@pytest.fixture(autouse=True)
def _as_before(rig: PrefectRig) -> Iterator[None]:
    """Other tests rely on the automations as they were."""
    yield
    create_automations(wake_after=WAKE_AFTER, cleanup_deployment=CLEANUP_DEPLOYMENT)


def changes(wake_after: timedelta) -> dict[str, str]:
    found = create_automations(wake_after=wake_after, cleanup_deployment=CLEANUP_DEPLOYMENT)
    return {outcome.name: outcome.change for outcome in found}


def test_created_again(rig: PrefectRig) -> None:
    """The same settings change nothing; others change the one that differs, and it still resumes."""
    assert changes(WAKE_AFTER) == {TIMER: "unchanged", WAKE_UP: "unchanged", CLEANUP: "unchanged"}
    assert changes(timedelta(seconds=17)) == {TIMER: "updated", WAKE_UP: "unchanged", CLEANUP: "unchanged"}

    by_name = {automation["name"]: automation for automation in rig.automations()}
    assert by_name[TIMER]["trigger"]["within"] == 17
    for name in (TIMER, WAKE_UP):
        assert [action["type"] for action in by_name[name]["actions"]] == ["resume-flow-run"]
    assert len(by_name) == len(rig.automations()) == 3


def test_too_short(rig: PrefectRig) -> None:
    """Prefect cannot look for the absence of events in a shorter time: refused before anything is sent."""
    with pytest.raises(ValueError, match="at least 10 seconds"):
        create_automations(wake_after=timedelta(seconds=9))


@pytest.mark.slow
def test_flow_runs_that_wait_already(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """A timer that is deleted and made again wakes the flow runs that were suspended before."""
    name = block("rearmed", duration=5.0, wait_mode="auto", suspend_after=0)
    run = rig.run_here("in-body", {"block": name})
    rig.wait_for_state(run, {"Suspended"})

    assert main(["automations", "delete"]) == 0
    assert main(["automations", "create", "--wake-after", "10"]) == 0

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_woken_and_cancelled_by_hand(
    rig: PrefectRig, oracle: Oracle, block: Block, capsys: pytest.CaptureFixture[str]
) -> None:
    """`wake` resumes what waits, `cancel` ends what a flow run has started."""
    name = block("by-hand", duration=600, wait_mode="auto", suspend_after=0)
    create_automations(wake_after=timedelta(hours=1))
    run = rig.run_here("without-hook", {"block": name})
    rig.wait_for_state(run, {"Suspended"})

    assert main(["wake"]) == 0
    rig.wait_for(lambda: rig.states(run).count("Suspended") == 2 or None, "another suspension", 180)
    assert main(["cancel", run]) == 0

    assert oracle.cancelled(name) == oracle.started(name)
    assert f"{oracle.started(name)[0]} cancelled" in capsys.readouterr().out


@pytest.mark.slow
def test_cleanup_for_a_tag_only(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """On a server with other teams' flows, the cleanup flow runs only after flow runs with the tag."""
    create_automations(wake_after=WAKE_AFTER, cleanup_deployment=CLEANUP_DEPLOYMENT, cleanup_tag="kyc")
    name = block("tagged", duration=600, wait_mode="auto", suspend_after=0)
    other = rig.run_here("without-hook", {"block": name})
    tagged = rig.run_here("without-hook", {"block": name}, tags=["kyc"])
    for run in (other, tagged):
        rig.wait_for_state(run, {"Suspended"})

    for run in (other, tagged):
        rig.cancel(run)

    swept = rig.wait_for(lambda: cleanups_of(rig, tagged) or None, "the cleanup flow", 180)
    assert rig.wait_for_end(swept[0]) == "Completed"
    assert len(oracle.cancelled(name)) == 1
    assert cleanups_of(rig, other) == []
