"""
Webhooks wake flow runs that have no process: sandbox, receiver, inbox, forwarder and Prefect server, all of them real.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from dev.webhook_rig import FORWARDER, WebhookRig
from prefect_blocks.automations import WAKE_UP, create_automations
from tests.e2e.canary import TOKEN
from tests.e2e.prefect.conftest import WAKE_AFTER
from tests.rig import PROJECT
from tl_orchestration import Client, OrganizationToken, RunRequest
from tl_orchestration.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from dev.prefect_rig import PrefectRig
    from tests.e2e.prefect.conftest import Block
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)

CLEANUP_DEPLOYMENT = "transactionlink-cleanup/rig"
HOW_TO = PROJECT / "docs/how-to/wake-prefect-with-webhooks.md"
ALONE = "without the automation"


@pytest.fixture(scope="module")
def way(rig: PrefectRig, oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookRig]:
    """From the sandbox to Prefect. The timer is far away, so that what is woken was woken by a webhook."""
    home = tmp_path_factory.mktemp("webhooks")
    with WebhookRig(home, oracle.url, env={"PREFECT_HOME": str(home), "PREFECT_API_URL": rig.api_url}) as way:
        way.start_forwarder()
        create_automations(wake_after=timedelta(hours=1), cleanup_deployment=CLEANUP_DEPLOYMENT)
        yield way
        create_automations(wake_after=WAKE_AFTER, cleanup_deployment=CLEANUP_DEPLOYMENT)


@pytest.fixture
def inbox(way: WebhookRig) -> Iterator[Inbox]:
    """As the receiver writes it."""
    one = Inbox(way.inbox_url)
    yield one
    one.close()


def arrived(rig: PrefectRig, inbox: Inbox, execution_id: str) -> None:
    """Wait until a webhook about an execution is in the inbox."""
    rig.wait_for(lambda: inbox.for_ids([execution_id]) or None, "the webhook", 180)


def continuations(rig: PrefectRig, execution_id: str) -> list[str]:
    """The flow runs that the announcement of an execution has started."""
    runs = rig.flow_runs_of("continuation/rig")
    return [str(run["id"]) for run in runs if run["parameters"] == {"execution_id": execution_id}]


def test_woken_by_a_webhook(rig: PrefectRig, oracle: Oracle, block: Block, way: WebhookRig) -> None:
    """A suspended flow run is resumed by the automation when its webhook comes, once, however often it is delivered."""
    name = block("woken-by-webhook", duration=600, wait_mode="auto", suspend_after=0)
    oracle.define(name, like="kyc-approve", duration=600, webhooks={"copies": 3, "spread": 1.0})
    run = rig.run_here("in-body", {"block": name})
    rig.wait_for_state(run, {"Suspended"})

    oracle.end(oracle.started(name)[0])

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert rig.states(run).count("Suspended") == rig.states(run).count("Resuming") == 1
    assert len(oracle.started(name)) == 1
    assert ALONE not in way.log_of(FORWARDER)


def test_webhook_before_the_suspension(
    rig: PrefectRig, oracle: Oracle, block: Block, way: WebhookRig, inbox: Inbox, tmp_path: Path
) -> None:
    """A webhook that comes when the flow has looked and is not suspended yet wakes it afterwards."""
    name = block("early-webhook", duration=600, wait_mode="auto", suspend_after=0)

    goes_on = tmp_path / "goes-on"
    run = rig.run_here("slow-to-suspend", {"block": name, "goes_on": str(goes_on)})
    rig.wait_for_log(run, "is about to be suspended")
    oracle.end(oracle.started(name)[0])
    arrived(rig, inbox, oracle.started(name)[0])

    time.sleep(3)  # the forwarder looks who is suspended
    assert rig.state(run) == "Running"
    goes_on.touch()
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert rig.states(run).count("Suspended") == rig.states(run).count("Resuming") == 1
    assert len(oracle.started(name)) == 1


def test_forwarder_is_killed(rig: PrefectRig, oracle: Oracle, block: Block, way: WebhookRig, inbox: Inbox) -> None:
    """What arrives while no forwarder runs is forwarded by the next one."""
    name = block("forwarder-killed", duration=600, wait_mode="auto", suspend_after=0)
    run = rig.run_here("in-body", {"block": name})
    rig.wait_for_state(run, {"Suspended"})

    way.stop_forwarder(signal.SIGKILL)
    oracle.end(oracle.started(name)[0])
    arrived(rig, inbox, oracle.started(name)[0])
    time.sleep(3)
    assert rig.state(run) == "Suspended"
    way.start_forwarder()

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert len(oracle.started(name)) == 1


def test_completion_starts_a_deployment_once(
    rig: PrefectRig, oracle: Oracle, block: Block, way: WebhookRig, inbox: Inbox
) -> None:
    """An execution that no flow run waits for starts a deployment by its event, once, as the how-to says, also with two
    forwarders of which one is killed."""
    from prefect.automations import Automation

    oracle.define("elsewhere", like="kyc-approve", duration=600)
    with Client(OrganizationToken(TOKEN), oracle.url) as client:
        execution_id = client.run(RunRequest("elsewhere")).id
    (example,) = re.findall(r"^```python\n(.*?)^```$", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)
    exec(example.replace("after-check/prod", "continuation/rig"), {})  # noqa: S102 -- our own text
    way.start_forwarder("second forwarder")
    try:
        oracle.end(execution_id)
        found = rig.wait_for(lambda: continuations(rig, execution_id) or None, "the flow run", 180)
        assert rig.wait_for_end(found[0]) == "Completed"
        way.stop_forwarder(signal.SIGKILL)
        way.start_forwarder()  # it tells the last two minutes again
        time.sleep(4)
        assert continuations(rig, execution_id) == found
    finally:
        automation: Any = Automation.read(name="a check was announced")
        automation.delete()
        way.stop_forwarder(name="second forwarder")


@pytest.mark.slow
def test_without_the_automation(rig: PrefectRig, oracle: Oracle, block: Block, way: WebhookRig) -> None:
    """Where nobody made the automation, the forwarder says so and resumes the flow run itself."""
    from prefect import get_client

    name = block("no-automation", duration=600, wait_mode="auto", suspend_after=0)
    with get_client(sync_client=True) as client:
        for automation in client.read_automations_by_name(WAKE_UP):
            client.delete_automation(automation.id)
    way.stop_forwarder()
    way.start_forwarder()  # it asks once a minute
    try:
        run = rig.run_here("in-body", {"block": name})
        rig.wait_for_state(run, {"Suspended"})
        oracle.end(oracle.started(name)[0])
        assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    finally:
        create_automations(wake_after=timedelta(hours=1), cleanup_deployment=CLEANUP_DEPLOYMENT)
    assert f"Flow run {run} was resumed {ALONE}" in " ".join(way.log_of(FORWARDER).split())
    way.stop_forwarder()
    way.start_forwarder()


@pytest.mark.slow
def test_several_are_woken_once(rig: PrefectRig, oracle: Oracle, block: Block, way: WebhookRig) -> None:
    """A flow run that waits for three executions is woken when all three were announced."""
    name = block("several-webhooks", duration=600, wait_mode="auto", suspend_after=0)
    run = rig.run_here("several", {"block": name, "count": 3})
    rig.wait_for_state(run, {"Suspended"})

    for execution_id in oracle.started(name):
        oracle.end(execution_id)
        time.sleep(2)

    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    assert rig.states(run).count("Suspended") == 1
    assert len(oracle.started(name)) == 3


@pytest.mark.slow
def test_approval_is_left_to_a_person(rig: PrefectRig, oracle: Oracle, block: Block, way: WebhookRig) -> None:
    """A flow run that is suspended for a person, after its execution, is not resumed by a webhook that comes again."""
    name = block("approval-webhook", duration=600, wait_mode="auto", suspend_after=0)
    run = rig.run_here("approval", {"block": name})
    rig.wait_for_state(run, {"Suspended"})
    oracle.end(oracle.started(name)[0])
    rig.wait_for(lambda: rig.states(run).count("Suspended") == 2 or None, "the second suspension", 180)

    httpx.post(f"{oracle.url}/_sandbox/webhooks/replay", json={}, trust_env=False).raise_for_status()
    time.sleep(15)

    assert rig.state(run) == "Suspended"
    rig.resume(run)
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)


@pytest.mark.slow
def test_dropped_webhook(rig: PrefectRig, oracle: Oracle, block: Block, way: WebhookRig, inbox: Inbox) -> None:
    """Where the webhook is lost, the timer wakes the flow run."""
    create_automations(wake_after=WAKE_AFTER, cleanup_deployment=CLEANUP_DEPLOYMENT)
    try:
        name = block("dropped-webhook", duration=600, wait_mode="auto", suspend_after=0)
        oracle.define(name, like="kyc-approve", duration=600, webhooks={"drop": 1.0})
        run = rig.run_here("in-body", {"block": name})
        rig.wait_for_state(run, {"Suspended"})

        oracle.end(oracle.started(name)[0])

        assert rig.wait_for_end(run) == "Completed", rig.describe(run)
        assert "Suspended" in rig.states(run)
        assert inbox.for_ids(oracle.started(name)) == []
    finally:
        create_automations(wake_after=timedelta(hours=1), cleanup_deployment=CLEANUP_DEPLOYMENT)
