"""
One real Prefect server with a runner, the timer and the cleanup rule, for all tests of this folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dev.prefect_rig import PrefectRig
from tests.e2e.canary import TOKEN
from tests.rig import Oracle

HERE = Path(__file__).parent
CHECKS = HERE / "served" / "checks.py"
EXAMPLES = HERE.parents[2] / "example_dags" / "prefect"
FLOWS = (
    "in_body",
    "in_async_body",
    "without_hook",
    "ended_by_a_crash",
    "flow_fails_once",
    "waits_for_its_retry",
    "paused_in_its_process",
    "task_fails_once",
    "fails_until_retried",
    "submitted",
    "several",
    "several_blocks",
    "killed_at_its_start",
    "beside_a_task",
    "approval",
    "in_subflow",
    "result_cannot_be_stored",
    "persisted",
    "slow_to_suspend",
    "continuation",
)
WAKE_AFTER = timedelta(seconds=10)

Block = Callable[..., str]


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectRig]:
    """
    Server and runner; the runner serves the cleanup flow, too.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    flows = [f"{CHECKS}:{name}" for name in FLOWS]
    flows += [f"{example}:{example.stem}" for example in sorted(EXAMPLES.glob("*.py"))]
    flows += ["prefect_blocks.cancelling:cleanup_flow", "prefect_blocks.flows:run_workflow_flow"]
    flows += ["prefect_blocks.batches:run_batch_flow"]
    home = tmp_path_factory.mktemp("prefect")
    with (
        PrefectRig(home, flows) as rig,
        temporary_settings({PREFECT_API_URL: rig.api_url, PREFECT_HOME: str(home)}),
    ):
        from prefect.events.worker import EventsWorker

        from prefect_blocks.automations import create_automations

        EventsWorker.drain_all()  # whatever a process tells goes to the server of its first event
        create_automations(wake_after=WAKE_AFTER, cleanup_deployment="transactionlink-cleanup/rig")
        yield rig


@pytest.fixture(scope="session")
def block(rig: PrefectRig, oracle: Oracle) -> Block:
    """
    Makes a definition of the test's own and a saved block that runs it. Returns the name of both.
    """
    from prefect.filesystems import LocalFileSystem
    from pydantic import SecretStr

    from prefect_blocks import TransactionlinkCredentials, TransactionlinkWorkflow

    LocalFileSystem(basepath="/dev/null/results").save("full-disk", _sync=True)  # type: ignore[call-arg]
    saved: dict[str, Any] = {}
    for name, ledger in {"sandbox": None, "keyed": SecretStr(f"sqlite:///{rig.home}/ledger.db")}.items():
        credentials = TransactionlinkCredentials(token=SecretStr(TOKEN), base_url=oracle.url, ledger_url=ledger)
        credentials.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]  # tells the two kinds apart
        saved[name] = TransactionlinkCredentials.load(name, _sync=True)  # type: ignore[call-arg]

    def make(
        name: str,
        *,
        duration: float | None = 1.0,
        like: str = "kyc-approve",
        credentials: str = "sandbox",
        **fields: Any,
    ) -> str:
        answer = {"result": fields.pop("answer")} if "answer" in fields else {}
        oracle.define(name, like=like, duration=duration, **answer)
        settings = {"poll_interval": 0.5, "wait_mode": "poll", "result_fields": {"decision": "decision"}, **fields}
        workflow = TransactionlinkWorkflow(credentials=saved[credentials], workflow_definition_id=name, **settings)
        workflow.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]
        return name

    return make


def pid_of(rig: PrefectRig, flow_run_id: str, attempt: int = 1) -> int:
    """
    The process in which the flow runs for the n-th time.
    """
    return int(rig.wait_for_log(flow_run_id, "pid ", count=attempt).split()[1])


def waits(rig: PrefectRig, flow_run_id: str, times: int = 1) -> int:
    """
    Wait until the flow waits for its execution. Returns the pid of its process.
    """
    rig.wait_for_log(flow_run_id, "waits for ", count=times)
    return pid_of(rig, flow_run_id, times)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and os.getpid() != pid


def cleanups_of(rig: PrefectRig, flow_run_id: str) -> list[str]:
    """
    Ids of the runs of the cleanup flow that are about a flow run.
    """
    runs = rig.flow_runs_of("transactionlink-cleanup/rig")
    return [run["id"] for run in runs if run["parameters"].get("flow_run_id") == flow_run_id]
