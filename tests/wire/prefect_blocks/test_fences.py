"""
Every Prefect fence of the documents runs as it stands, against a real Prefect server and the sandbox.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_client, runtime
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from prefect_blocks import waking
from prefect_blocks.__main__ import main
from prefect_blocks.automations import delete_automations
from tests.fences import Page, placed, running
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow
from tl_orchestration.errors import StartOutcomeUnknown
from tl_orchestration.webhooks.inbox import Arrival, Inbox

SUSPENDED = Page("how-to/wait-without-a-worker-in-prefect.md")
WOKEN = Page("how-to/wake-prefect-with-webhooks.md")
UNKNOWN = Page("how-to/unknown-start.md")
MODULE = ["python", "-m", "prefect_blocks"]


def names_of(text: str, tmp_path: Path) -> dict[str, Any]:
    """Run a fence as a module, and return its names. Prefect looks for the file of a flow."""
    file = tmp_path / "fence.py"
    file.write_text(text)
    names: dict[str, Any] = {"__name__": "fence", "__file__": str(file)}
    exec(compile(text, str(file), "exec"), names)  # noqa: S102 -- our own pages
    return names


def run_commands(text: str) -> None:
    """Each line is a command of this package, which ends well."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        assert words[:3] == MODULE
        assert main(words[3:]) == 0


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.1)


def test_flow_that_waits(remote: Remote, workflow: MakeWorkflow, tmp_path: Path) -> None:
    """The flow starts one execution and returns its ending."""
    workflow()
    onboarding = names_of(SUSPENDED.fence("python"), tmp_path)["kyc_onboarding"]
    assert onboarding("application-7") == "SUCCEEDED"
    (start,) = remote.starts()
    assert start["parameters"] == {"applicationId": "application-7"}


def test_what_each_server_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cleanup flow is served, and the automations name its deployment."""

    def served() -> bool:
        with get_client(sync_client=True) as client:
            try:
                client.read_deployment_by_name("transactionlink-cleanup/transactionlink")
            except ObjectNotFound:
                return False
        return True

    try:
        with running(SUSPENDED.fence("bash", 0), tmp_path, {"PREFECT_API_URL": PREFECT_API_URL.value()}):
            until(served)
            run_commands(SUSPENDED.fence("bash", 1))
        made = capsys.readouterr().out.splitlines()
        assert [line.split()[1] for line in made] == ["created"] * 3
    finally:
        delete_automations()


def test_forwarder(tmp_path: Path) -> None:
    """What arrives in the inbox becomes an event of the server that the commands name."""
    inbox, execution_id = f"sqlite:///{tmp_path}/inbox.db", str(uuid4())
    with contextlib.closing(Inbox(inbox)) as arriving:
        arriving.put([Arrival("transactionlink", execution_id, "WORKFLOW_COMPLETED", uuid4().hex, time.time())])
    wanted = {
        "event": {"name": [waking.ANNOUNCED]},
        "resource": {"id": [f"transactionlink.execution.{execution_id}"]},
    }
    places = {
        "postgresql+psycopg://runner@db.internal/kyc": inbox,
        "https://prefect.internal/api": PREFECT_API_URL.value(),
    }

    def announced() -> bool:
        with get_client(sync_client=True) as client:
            return bool(client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"])

    with running(placed(WOKEN.fence("bash"), places), tmp_path):
        until(announced)


def test_deployment_runs_when_an_execution_ends(tmp_path: Path) -> None:
    """The automation is made, and runs the deployment that the page speaks of."""

    @flow(name="after-check")
    def after_check() -> None:
        """Stands for any flow: it never runs."""

    with get_client(sync_client=True) as client:
        deployment_id = client.create_deployment(client.create_flow(after_check), "prod")
        names_of(WOKEN.fence("python"), tmp_path)
        (made,) = client.read_automations_by_name("a check has ended")
        client.delete_automation(made.id)
    (action,) = made.actions
    assert getattr(action, "deployment_id", None) == deployment_id


def test_verdict_about_a_step(remote: Remote, workflow: MakeWorkflow, capsys: pytest.CaptureFixture[str]) -> None:
    """A person looks at a flow run whose start was lost, and adopts the execution."""
    block = workflow()
    remote.order("start", "lose")
    here: list[str] = []

    @flow
    def onboarding() -> None:
        here.append(str(runtime.flow_run.id))
        block.trigger(step_key="kyc-check#1")

    with pytest.raises(StartOutcomeUnknown):
        onboarding()
    (start,) = remote.starts()
    places = {"5c9d0c6e-2f0e-4f0b-9d6b-3f5d3d1a2b10": here[0], "EXECUTION_ID": start["execution_id"]}
    run_commands(placed(UNKNOWN.fence("bash", 5), places))
    assert f"goes on with execution {start['execution_id']}" in capsys.readouterr().out
