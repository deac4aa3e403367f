"""
``make demo-prefect``: an example KYC flow on a real Prefect server against the sandbox, told as it happens.

Exit code 0 means: two customers were checked by flow runs that had no process while they waited, one was approved and
one rejected; a third flow run was cancelled meanwhile, and its execution with it; each check was started once. The two
were woken by webhooks, or with ``--drop-webhooks``, where none arrives, by the timer.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from attrs import define, field

from dev.demonstration import DemoError, demonstrate
from dev.http_service import POLL
from dev.prefect_api import FINAL
from dev.prefect_rig import PrefectRig
from dev.stack import ROOT, TOKEN
from dev.webhook_rig import FORWARDER, WebhookRig

if TYPE_CHECKING:
    from pathlib import Path

    from dev.stack import Console

FLOW = "kyc-onboarding"
EXPECTED = {"kyc-approve": "Completed", "kyc-reject": "Completed", "kyc-slow": "Cancelled"}
"""
Workflow definition to the state in which its flow run ends.
"""

DURATION = 8.0
"""
Seconds that a check takes, so that a flow run is suspended and woken once.
"""

WAKE_AFTER = timedelta(seconds=30)

DEADLINE = 180
"""
Seconds for all runs together; forty is usual, and seventy without webhooks.
"""

COLOURS = {
    "Completed": "success",
    "Failed": "failed",
    "Crashed": "failed",
    "Running": "running",
    "Suspended": "deferred",
}


@define
class Run:
    """
    One flow run, as far as it was seen.

    Args:
        name: The workflow definition.
        states: Names of its states so far.
        ended: Whether nothing follows the last of them.
    """

    name: str
    id: str
    states: list[str] = field(factory=list)
    ended: bool = False


class Sandbox:
    """
    What the remote service itself says about starts and cancels.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/_sandbox", timeout=10, trust_env=False)

    def lengthen(self, definition: str, seconds: float) -> None:
        """
        Let a definition take so long.
        """
        self._http.patch(f"/definitions/{definition}", json={"duration": seconds}).raise_for_status()

    def drop_webhooks(self, definition: str) -> None:
        """
        Let no webhook of a definition arrive.
        """
        self._http.patch(f"/definitions/{definition}", json={"webhooks": {"drop": 1.0}}).raise_for_status()

    def ids(self, what: str, definition: str) -> list[str]:
        """
        Execution ids of the ``starts`` or ``cancels`` of a definition; repeated ones repeated.
        """
        found: list[dict[str, Any]] = self._http.get(f"/{what}").raise_for_status().json()
        return [str(each["execution_id"]) for each in found if each["definition"] == definition]


def prepare(rig: PrefectRig, sandbox_url: str) -> None:
    """
    Save the blocks and create the automations, as a person does once for each server.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
    from pydantic import SecretStr

    from prefect_blocks import TransactionlinkCredentials, TransactionlinkWorkflow, create_automations
    from prefect_blocks.cancelling import CLEANUP_FLOW

    with temporary_settings({PREFECT_API_URL: rig.api_url, PREFECT_HOME: str(rig.home)}):
        TransactionlinkCredentials(token=SecretStr(TOKEN), base_url=sandbox_url).save("sandbox")
        credentials: Any = TransactionlinkCredentials.load("sandbox")
        for name in EXPECTED:
            workflow = TransactionlinkWorkflow(
                credentials=credentials,
                workflow_definition_id=name,
                suspend_after=1,
                result_fields={"decision": "decision"},
            )
            workflow.save(name)
        create_automations(wake_after=WAKE_AFTER, cleanup_deployment=f"{CLEANUP_FLOW}/rig")


def follow(rig: PrefectRig, console: Console, runs: list[Run]) -> None:
    """
    Print each change of state until all runs have ended; cancel the slow one as soon as it is suspended.
    """
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        for run in (r for r in runs if not r.ended):
            ended = rig.flow_run(run.id)["state"]["type"] in FINAL  # first: states may still change while a run goes on
            states = rig.states(run.id)
            for state in states[len(run.states) :]:
                console.say(run.name, console.paint(state, COLOURS.get(state, "")))
                if state == "Suspended" and run.name == "kyc-slow":
                    rig.cancel(run.id)
                    console.say(run.name, "somebody cancels the flow run, which has no process")
            run.states, run.ended = states, ended
        if all(run.ended for run in runs):
            return
        rig.check()
        time.sleep(POLL)
    raise DemoError(f"The flow runs did not end within {DEADLINE} s.")


def judge(rig: PrefectRig, sandbox: Sandbox, way: WebhookRig, run: Run, *, drop: bool) -> str:
    """
    What came out of a run, in a line; raises if it is not what has to come out.
    """
    last, started = run.states[-1], sandbox.ids("starts", run.name)
    if last != EXPECTED[run.name]:
        raise DemoError(f"The flow run of {run.name} ended as {last}, not {EXPECTED[run.name]}.")
    if "Suspended" not in run.states:
        raise DemoError(f"The flow run of {run.name} was never suspended.")
    if len(started) != 1:
        raise DemoError(f"{run.name} was started {len(started)} times, not once.")
    if last == "Cancelled":
        rig.wait_for(lambda: sandbox.ids("cancels", run.name) or None, "the cancel of the execution", 60)
        return f"{run.name}: execution {started[0]}, started once, cancelled with its flow run"
    if (run.id in way.log_of(FORWARDER)) is drop:
        raise DemoError(f"The flow run of {run.name} was {'' if drop else 'not '}woken by a webhook.")
    branch = next(task["name"] for task in rig.task_runs(run.id))
    by = "the timer" if drop else "a webhook"
    return f"{run.name}: execution {started[0]}, started once, woken by {by}, went on with {branch.rsplit('-', 1)[0]}"


def play(console: Console, rig: PrefectRig, sandbox_url: str, *, drop: bool) -> None:
    """
    Start Prefect and what takes webhooks, run the flow for three customers, print and judge what happens.
    """
    sandbox = Sandbox(sandbox_url)
    for name in ("kyc-approve", "kyc-reject"):
        sandbox.lengthen(name, DURATION)
    if drop:
        for name in EXPECTED:
            sandbox.drop_webhooks(name)
    console.say("prefect", "server and runner are starting")
    rig.start()
    console.say("prefect", f"is ready at {rig.api_url}")
    prepare(rig, sandbox_url)
    console.say("prefect", f"has the blocks, the wake-up rule, a timer of {WAKE_AFTER.seconds} s, and the cleanup rule")
    prefect = {name: value for name, value in rig.environment().items() if name.startswith("PREFECT_")}
    with WebhookRig(rig.home / "webhooks", sandbox_url, env=prefect) as way:
        way.start_forwarder()
        console.say("webhooks", f"{'would be' if drop else 'are'} taken at {way.base_url}, and forwarded to Prefect")
        runs = [
            Run(name, rig.run_here(FLOW, {"application_id": f"demo-{name}", "workflow": name})) for name in EXPECTED
        ]
        follow(rig, console, runs)
        outcomes = [judge(rig, sandbox, way, run, drop=drop) for run in runs]
    print(f"\n{console.paint('Outcome', 'title')}")
    for outcome in outcomes:
        print(f"  {outcome}")


def rig_of(home: Path, _sandbox_url: str) -> PrefectRig:
    """
    A Prefect that serves the example flow and the cleanup, not started.
    """
    flows = [f"{ROOT}/example_dags/prefect/kyc_onboarding.py:kyc_onboarding", "prefect_blocks.cancelling:cleanup_flow"]
    return PrefectRig(home, flows)


def main() -> int:
    """
    Run the demonstration.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m dev.demo_prefect")
    parser.add_argument("--drop-webhooks", action="store_true", help="let every webhook be lost on its way")
    return demonstrate(rig_of, partial(play, drop=parser.parse_args().drop_webhooks), PrefectRig.complaints)


if __name__ == "__main__":
    sys.exit(main())
