"""
``make demo``: an example KYC DAG on a real Airflow against the sandbox, told as it happens.

Exit code 0 means: both runs succeeded, one customer was approved and one rejected, and each check was started once.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from attrs import define, field

from dev.airflow_http import POLL, AirflowError
from dev.airflow_rig import COMMANDS, AirflowRig
from dev.stack import DAG_ID, DAGS, Console, connections, end_on_signals

EXPECTED = {"kyc-approve": "approve", "kyc-reject": "reject"}
"""
Workflow definition to the decision it leads to.
"""

DEADLINE = 180
"""
Seconds for both runs together; ten is usual.
"""


class DemoError(Exception):
    """
    Something did not come out as it has to.
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


def judge(rig: AirflowRig, run: Run, committed: list[str]) -> str:
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
    return f"{run.name}: execution {check['execution_id']}, decision {decision}, started {starts} time"


def play(console: Console, rig: AirflowRig, sandbox_url: str) -> None:
    """
    Start Airflow, run the DAG for both customers, print and judge what happens.
    """
    console.say("airflow", f"{rig.version} is starting: {', '.join(COMMANDS)}")
    rig.start()
    console.say("airflow", f"is ready at {rig.base_url}")
    rig.wait_for_dag(DAG_ID)
    console.say("airflow", f"has read the DAG {DAG_ID}")
    runs = [Run(name) for name in EXPECTED]
    for run in runs:
        rig.trigger(DAG_ID, {"workflow_definition_id": run.name}, run.id)
        console.say(run.name, "run triggered")
    follow(rig, console, runs)
    for run in runs:
        show(rig, console, run)
    committed = commits(sandbox_url)
    print(f"\n{console.paint('Outcome', 'title')}")
    for run in runs:
        print(f"  {judge(rig, run, committed)}")
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
        except AirflowError as error:
            said.append(f"{name}: {error}")
    return "\n".join([*said, rig.complaints()])


def main() -> int:
    """
    Run the demonstration.

    Returns:
        Exit code.
    """
    from tl_orchestration.sandbox import SandboxServer

    console = Console()
    end_on_signals()
    home = Path(tempfile.mkdtemp(prefix="kyc-demo-"))
    failure = details = ""
    try:
        with SandboxServer() as sandbox:
            console.say("sandbox", f"is ready at {sandbox.url}")
            rig = AirflowRig(home, DAGS, connections=connections(sandbox.url))
            try:
                play(console, rig, sandbox.url)
            except Exception as error:  # whatever it was, a person wants to read why and where to look
                failure, details = f"{type(error).__name__}: {error}", explain(rig)
            finally:
                console.say("everything", "is being stopped")
                rig.stop()
    except KeyboardInterrupt:
        shutil.rmtree(home, ignore_errors=True)
        console.say("everything", "is stopped: interrupted")
        return 130
    console.say("everything", "is stopped")
    if failure:
        print(f"{details}\n\nFAILED. {failure}\nAirflow's home, with all logs, is kept: {home}", file=sys.stderr)
        return 1
    shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
