"""
Every example flow runs on a real server, and says what its docstring asks.
"""

from __future__ import annotations

import contextlib
import runpy
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from prefect_blocks.forwarding import Forwarder
from tests.e2e.canary import FIRST_NAME, TOKEN
from tests.e2e.prefect.conftest import EXAMPLES
from tl_orchestration import Client, OrganizationToken, RunRequest
from tl_orchestration.webhooks.inbox import Arrival, Inbox

if TYPE_CHECKING:
    from pathlib import Path

    from dev.prefect_rig import PrefectRig
    from tests.e2e.prefect.conftest import Block
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


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


@pytest.mark.slow
def test_weekly_rescreening_starts_every_customer_once(rig: PrefectRig, oracle: Oracle, tmp_path: Path) -> None:
    """The example runs its campaign by two shards, and hands on where the results are."""
    from pydantic import SecretStr

    from prefect_blocks import TransactionlinkCredentials

    name = oracle.define("example-rescreening", like="kyc-approve", duration=0.5)
    lines = [f"c{number},{FIRST_NAME} {number},1990-01-0{number + 1}" for number in range(5)]
    (tmp_path / "customers.csv").write_text("\n".join(["customer_id,first_name,born", *lines]) + "\n")
    ledger = SecretStr(f"sqlite:///{tmp_path}/ledger.db")
    credentials = TransactionlinkCredentials(token=SecretStr(TOKEN), base_url=oracle.url, ledger_url=ledger)
    credentials.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]  # tells the two kinds apart

    places = {"source": f"file://{tmp_path}/customers.csv", "output": f"file://{tmp_path}/out"}
    run = rig.run_here("weekly-rescreening", {**places, "credentials": name, "definition": name})

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    asked = [one["parameters"] for one in oracle.starts() if one["definition"] == name]
    assert sorted(one["dateOfBirth"] for one in asked) == [f"1990-01-0{day}" for day in range(1, 6)]
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name.partition("~")[2][:19] == str(rig.flow_run(run)["expected_start_time"])[:19]
    assert branches(rig, run) == ["transactionlink-run-batch", "report"]


@pytest.mark.slow
def test_kyc_batch_checks_each_applicant_once(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """The example is suspended once for all applicants, starts one execution for each, and records each decision."""
    name = block("example-batch", duration=6, wait_mode="auto", suspend_after=0)

    run = rig.run_here("kyc-batch-of-applicants", {"workflow": name})

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert "Suspended" in rig.states(run)
    ran(rig, run, ["new_applications", "new_applications", "record", "record", "record"])
    assert [str(task["state_name"]) for task in rig.task_runs(run)].count("Cached") == 1
    asked = [one["parameters"]["applicationId"] for one in oracle.starts() if one["definition"] == name]
    assert asked == ["application-1", "application-2", "application-3"]


@pytest.mark.slow
def test_kyc_batch_records_what_was_not_approved(rig: PrefectRig, oracle: Oracle, block: Block) -> None:
    """Executions that have failed are recorded as such, and do not fail the flow run."""
    name = block("example-batch-fails", like="kyc-fail")

    run = rig.run_here("kyc-batch-of-applicants", {"workflow": name})

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    ran(rig, run, ["new_applications", "record", "record", "record"])


@pytest.mark.slow
@pytest.mark.parametrize("ended", [True, False])
def test_kyc_completed_runs_by_an_announcement(
    rig: PrefectRig, oracle: Oracle, block: Block, tmp_path: Path, ended: bool
) -> None:
    """The forwarder's event runs the example, which records what has ended, and nothing else."""
    from prefect import get_client

    name = block(f"example-announced-{str(ended).lower()}", duration=600)
    with Client(OrganizationToken(TOKEN), oracle.url) as service:
        execution_id = service.run(RunRequest(name)).id
    if ended:
        oracle.end(execution_id)
    trigger: Any = runpy.run_path(str(EXAMPLES / "kyc_completed.py"))["announced"]

    with contextlib.closing(Inbox(f"sqlite:///{tmp_path}/inbox.db")) as inbox, get_client(sync_client=True) as client:
        trigger.set_deployment_id(client.read_deployment_by_name("kyc-completed/rig").id)
        trigger.parameters |= {"workflow": name}
        automation_id: UUID = client.create_automation(trigger.as_automation())
        try:
            inbox.put([Arrival("transactionlink", execution_id, "", uuid4().hex, time.time())])
            Forwarder(inbox).turn(client)
            (run,) = rig.wait_for(lambda: about(rig, execution_id), "the flow run of the example", 180)
        finally:
            client.delete_automation(automation_id)

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    ran(rig, run, ["record"] if ended else [])


def ran(rig: PrefectRig, run: str, tasks: list[str]) -> None:
    """Wait until the server, which hears of task runs later than of the flow run, tells of these and no others."""
    rig.wait_for(lambda: sorted(branches(rig, run)) == tasks or None, f"the runs of {tasks}", 180)


def about(rig: PrefectRig, execution_id: str) -> list[str] | None:
    """The runs of the example about an execution."""
    runs = rig.flow_runs_of("kyc-completed/rig")
    return [str(run["id"]) for run in runs if run["parameters"]["execution_id"] == execution_id] or None


def test_every_example_has_its_test() -> None:
    """Whoever adds an example adds its test."""
    assert [file.stem for file in sorted(EXAMPLES.glob("*.py"))] == [
        "kyc_batch_of_applicants",
        "kyc_completed",
        "kyc_onboarding",
        "weekly_rescreening",
    ]
