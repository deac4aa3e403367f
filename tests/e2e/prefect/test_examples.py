"""
Every example flow runs on a real server, and says what its docstring asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.prefect.conftest import EXAMPLES

if TYPE_CHECKING:
    from dev.prefect_rig import PrefectRig
    from tests.e2e.prefect.conftest import Block
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(300)


def branches(rig: PrefectRig, run: str) -> list[str]:
    """The tasks that ran."""
    return [str(task["name"]).rpartition("-")[0] for task in rig.task_runs(run)]


@pytest.mark.slow
@pytest.mark.parametrize(("decision", "taken"), [("approve", "open_account"), ("reject", "inform_customer")])
def test_kyc_onboarding_branches_on_the_decision(
    rig: PrefectRig, oracle: Oracle, block: Block, decision: str, taken: str
) -> None:
    """The example is suspended while the check runs, goes on by its decision, and starts it once."""
    name = block(f"example-{decision}", like=f"kyc-{decision}", duration=6, wait_mode="auto", suspend_after=0)

    run = rig.run_here("kyc-onboarding", {"application_id": "a-1", "workflow": name})

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert "Suspended" in rig.states(run)
    assert branches(rig, run) == [taken]
    assert len(oracle.started(name)) == 1


@pytest.mark.slow
def test_kyc_onboarding_fails_on_a_decision_that_nobody_planned_for(
    rig: PrefectRig, oracle: Oracle, block: Block
) -> None:
    """An unplanned decision opens no account: the flow fails, and nothing after it runs."""
    name = block("example-escalate", answer={"decision": "escalate"})

    run = rig.run_here("kyc-onboarding", {"application_id": "a-2", "workflow": name})

    assert rig.wait_for_end(run) == "Failed", rig.describe(run)
    assert branches(rig, run) == []
    assert len(oracle.started(name)) == 1


def test_every_example_has_its_test() -> None:
    """Whoever adds an example serves it to this folder's runner, and adds its test."""
    assert [file.name for file in sorted(EXAMPLES.glob("*.py"))] == ["kyc_onboarding.py"]
