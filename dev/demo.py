"""
``make demo``: an example KYC DAG on a real Airflow against the sandbox, told as it happens.

Exit code 0 means: both runs succeeded, one customer was approved and one rejected, and each check was started once. Its
end was told by a webhook, or with ``--drop-webhooks``, where none arrives, found by a poll.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from attrs import define, field

from dev.airflow_rig import COMMANDS, AirflowRig
from dev.demonstration import DemoError, demonstrate
from dev.http_service import POLL, ServiceError
from dev.stack import DAG_ID, DAGS, SAFETY_NET, connections, deliver_to, webhooks_into
from tl_orchestration.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from pathlib import Path

    from dev.stack import Console

EXPECTED = {"kyc-approve": "approve", "kyc-reject": "reject"}
"""
Workflow definition to the decision it leads to.
"""

DEADLINE = 180
"""
Seconds for both runs together; ten is usual, and forty without webhooks.
"""


@define
class Run:
    """
    One run of the DAG, as far as it was seen.

    Args:
        name: The workflow definition, and how the run is called.
        seen: Last state of each task.
    """

    name: str
    state: str = "queued"
    seen: dict[str, str] = field(factory=dict)

    @property
    def id(self) -> str:
        """
        Airflow's run id.
        """
        return f"demo-{self.name}"


def follow(rig: AirflowRig, console: Console, runs: list[Run]) -> None:
    """
    Print each change of state of each task until all runs have ended.
    """
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        for run in (r for r in runs if r.state not in {"success", "failed"}):
            state = rig.dag_run(DAG_ID, run.id)["state"]  # first: tasks may still change while a run is running
            for key, task in rig.task_instances(DAG_ID, run.id).items():
                if task.state not in {None, "scheduled", run.seen.get(key)}:
                    run.seen[key] = str(task.state)
                    console.say(run.name, f"{key:<16} {console.paint(str(task.state), str(task.state))}")
            if state != run.state and state in {"success", "failed"}:
                console.say(run.name, f"{'run ended:':<16} {console.paint(state, state)}")
            run.state = state
        if all(run.state in {"success", "failed"} for run in runs):
            return
        rig.check()
        time.sleep(POLL)
    raise DemoError(f"The runs did not end within {DEADLINE} s.")


def show(rig: AirflowRig, console: Console, run: Run) -> None:
    """
    Print a run as a table.
    """
    began = datetime.fromisoformat(rig.dag_run(DAG_ID, run.id)["start_date"])
    tasks = rig.task_instances(DAG_ID, run.id)
    width = max(map(len, tasks), default=4)
    print(f"\n{console.paint(f'Run {run.name}: {run.state}', 'title')}")
    print(f"  {'task':<{width}} | {'state':<15} | {'start':>8} | {'duration':>8}")
    for key, task in sorted(tasks.items(), key=lambda item: (item[1].start_date is None, item[1].start_date)):
        start = f"{(task.start_date - began).total_seconds():+.1f} s" if task.start_date and task.duration else ""
        duration = f"{task.duration:.1f} s" if task.duration else ""
        state = console.paint(f"{task.state or '-':<15}", task.state or "")
        print(f"  {key:<{width}} | {state} | {start:>8} | {duration:>8}".rstrip())


def commits(sandbox_url: str) -> list[str]:
    """
    Execution ids of all starts that the sandbox committed, repeated ones repeated.
    """
    answer = httpx.get(f"{sandbox_url}/_sandbox/starts", timeout=10, trust_env=False).raise_for_status().json()
    starts = answer["starts"] if isinstance(answer, dict) else answer
    return [str(start["execution_id"]) for start in starts]


def drop_webhooks(sandbox_url: str) -> None:
    """
    Let no webhook arrive.
    """
    for name in EXPECTED:
        lost = {"like": name, "webhooks": {"drop": 1.0}}
        httpx.put(f"{sandbox_url}/_sandbox/definitions/{name}", json=lost, trust_env=False).raise_for_status()


def judge(rig: AirflowRig, run: Run, committed: list[str], inbox: Inbox, *, drop: bool) -> str:
    """
    What came out of a run, in a line; raises if it is not what has to come out.
    """
    if run.state != "success":
        raise DemoError(f"Run {run.name} ended as {run.state}, not success.")
    check: dict[str, Any] = rig.xcom(DAG_ID, run.id, "check_customer")
    decision, starts = check["fields"]["decision"], committed.count(check["execution_id"])
    if decision != EXPECTED[run.name]:
        raise DemoError(f"Run {run.name} decided {decision!r}, not {EXPECTED[run.name]!r}.")
    if starts != 1:
        raise DemoError(f"The execution of run {run.name} was started {starts} times, not once.")
    if bool(inbox.for_ids([check["execution_id"]])) is drop:
        raise DemoError(f"The end of run {run.name} was {'' if drop else 'not '}told by a webhook.")
    told = "found by a poll" if drop else "told by a webhook"
    return f"{run.name}: execution {check['execution_id']}, started {starts} time, end {told}, decision {decision}"


def play(console: Console, rig: AirflowRig, sandbox_url: str, *, drop: bool) -> None:
    """
    Start Airflow, run the DAG for both customers, print and judge what happens.
    """
    console.say("airflow", f"{rig.version} is starting: {', '.join(COMMANDS)}")
    rig.start()
    console.say("airflow", f"is ready at {rig.base_url}")
    deliver_to(rig.base_url, sandbox_url)
    if drop:
        drop_webhooks(sandbox_url)
    console.say("webhooks", f"{'would be' if drop else 'are'} taken by the api-server; polls every {SAFETY_NET} s")
    rig.wait_for_dag(DAG_ID)
    console.say("airflow", f"has read the DAG {DAG_ID}")
    runs = [Run(name) for name in EXPECTED]
    for run in runs:
        rig.trigger(DAG_ID, {"workflow_definition_id": run.name}, run.id)
        console.say(run.name, "run triggered")
    follow(rig, console, runs)
    for run in runs:
        show(rig, console, run)
    committed, inbox = commits(sandbox_url), Inbox(f"sqlite:///{inbox_of(rig.home)}")
    print(f"\n{console.paint('Outcome', 'title')}")
    for run in runs:
        print(f"  {judge(rig, run, committed, inbox, drop=drop)}")
    print(f"  starts that the sandbox committed: {len(committed)}")
    if len(committed) != len(runs):
        raise DemoError(f"The sandbox committed {len(committed)} starts, not {len(runs)}.")


def explain(rig: AirflowRig) -> str:
    """
    What Airflow knows of a failure: logs of tasks that did not succeed, import errors, complaints of its processes.
    """
    said = []
    for name in EXPECTED:
        try:
            said.append(f"{name}\n{rig.describe_run(DAG_ID, Run(name).id)}")
        except ServiceError as error:
            said.append(f"{name}: {error}")
    return "\n".join([*said, rig.complaints()])


def rig_of(home: Path, sandbox_url: str) -> AirflowRig:
    """
    An Airflow that knows the sandbox, not started.
    """
    env = webhooks_into(inbox_of(home), sandbox_url)
    return AirflowRig(home, DAGS, connections=connections(sandbox_url), env=env)


def inbox_of(home: Path) -> Path:
    """
    Where its webhooks arrive.
    """
    return home / "inbox.db"


def main() -> int:
    """
    Run the demonstration.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m dev.demo")
    parser.add_argument("--drop-webhooks", action="store_true", help="let every webhook be lost on its way")
    return demonstrate(rig_of, partial(play, drop=parser.parse_args().drop_webhooks), explain)


if __name__ == "__main__":
    sys.exit(main())
