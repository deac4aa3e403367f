"""
Every Prefect fence of the documents runs as it stands, against a real Prefect server and the sandbox.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest
from prefect import flow, get_client, runtime
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from dev.services import free_port
from prefect_blocks import TransactionlinkCredentials, load_result, waking
from prefect_blocks.__main__ import main
from prefect_blocks.automations import delete_automations
from prefect_blocks.results import written
from prefect_blocks.versions import load_block
from tests.fences import Page, bash, placed, running, until_it_answers
from tests.remote import NOBODY, TOKEN, Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow, credentials_for
from tl_orchestration.errors import InvalidRequest, StartOutcomeUnknown
from tl_orchestration.result_uri import ResultUri
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.webhooks.inbox import Arrival, Inbox

SUSPENDED = Page("how-to/wait-without-a-worker-in-prefect.md")
WOKEN = Page("how-to/wake-prefect-with-webhooks.md")
UNKNOWN = Page("how-to/unknown-start.md")
ONE_STEP = Page("how-to/run-a-step-in-prefect.md")
MANY_STEPS = Page("how-to/run-many-steps-in-prefect.md")
RESULTS = Page("how-to/keep-results-out-of-prefect.md")
LINKS = Page("how-to/interactive-executions.md")
TUTORIAL = Page("tutorial.md")
BUCKET = "s3://kyc-results/"
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
    ends = time.monotonic() + 150
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


@pytest.fixture
def token(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token in the environment; the vendor's default address is the sandbox's."""
    monkeypatch.setenv("TRANSACTIONLINK_TOKEN", TOKEN)
    monkeypatch.setattr(Transactionlink, "default_base_url", remote.url)


@pytest.fixture
def kyc(remote: Remote) -> None:
    """Credentials that are saved as ``kyc``."""
    credentials_for(remote).save("kyc", overwrite=True)


class TestOneStep:
    @pytest.mark.usefixtures("token")
    def test_as_a_task(self, remote: Remote, tmp_path: Path) -> None:
        """The blocks are saved, and a task runs the workflow to its decision."""
        names_of(ONE_STEP.fence("python", 0), tmp_path)
        onboarding = names_of(ONE_STEP.fence("python", 1), tmp_path)["onboarding"]
        assert onboarding("application-7") == "approve"
        (start,) = remote.starts()
        assert start["parameters"] == {"applicationId": "application-7"}

    def test_waited_for_elsewhere(self, remote: Remote, workflow: MakeWorkflow, tmp_path: Path) -> None:
        """One flow starts the execution, another one waits for it."""
        workflow(result_fields={"decision": "decision"})
        names = names_of(ONE_STEP.fence("python", 2), tmp_path)
        execution_id = names["begin"]("application-7")
        assert names["finish"](execution_id) == "approve"
        assert [start["execution_id"] for start in remote.starts()] == [execution_id]

    def test_credentials_of_other_services(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both are saved."""
        for name in ("LEGACY_KEY", "LEGACY_SECRET", "B3OS_KEY"):
            monkeypatch.setenv(name, "b3sk_sandbox")
        names_of(ONE_STEP.fence("python", 3), tmp_path)
        saved = [load_block(TransactionlinkCredentials, name).service for name in ("legacy", "b3os")]
        assert saved == ["transactionlink-legacy", "b3os"]


@pytest.mark.usefixtures("kyc")
def test_many_steps(remote: Remote, workflow: MakeWorkflow, tmp_path: Path) -> None:
    """Each element is started once, and all are waited for."""
    workflow()
    many = names_of(MANY_STEPS.fence("python"), tmp_path)["kyc_of_new_applications"]
    assert many() == {"SUCCEEDED": 3}
    asked = sorted(start["parameters"]["applicationId"] for start in remote.starts())
    assert asked == ["application-1", "application-2", "application-3"]


@pytest.mark.usefixtures("kyc", "remote")
def test_result_in_a_storage(tmp_path: Path) -> None:
    """The step writes the result, a later task reads it, and the outcome says where it is."""
    names_of(placed(RESULTS.fence("python", 0), {BUCKET: f"file://{tmp_path}/results/"}), tmp_path)
    onboarding = names_of(RESULTS.fence("python", 1), tmp_path)["onboarding"]
    assert onboarding("application-7") is True
    assert len(list((tmp_path / "results").iterdir())) == 1


@pytest.mark.usefixtures("token")
def test_results_go_where_the_credentials_allow(tmp_path: Path) -> None:
    """A workflow with another storage URI is refused when its block is made, and a file elsewhere is not read."""
    names_of(RESULTS.fence("python", 2), tmp_path)
    with pytest.raises(InvalidRequest, match="result_uri_prefixes"):
        names_of(placed(RESULTS.fence("python", 0), {BUCKET: f"file://{tmp_path}/results/"}), tmp_path)
    elsewhere = written(ResultUri.parse(f"file://{tmp_path}/"), NOBODY, {"riskScore": 1})
    with pytest.raises(InvalidRequest, match="the result_uri of this reference"):
        load_result({"execution_id": NOBODY, **elsewhere}, "kyc")


def test_link_is_mailed(remote: Remote, workflow: MakeWorkflow, tmp_path: Path) -> None:
    """The reader's function gets the link of the hosted page; the person approves there, and the flow ends."""
    workflow("kyc-review", timeout=3600)
    links: list[str] = []

    def send_mail(to: str, text: str) -> None:
        link = text.removeprefix("Please go on here: ")
        (token,) = parse_qs(urlsplit(link).query)["token"]
        links.append(link)
        httpx.post(link, data={"token": token, "decision": "approve"}, trust_env=False).raise_for_status()

    names = names_of(LINKS.fence("python", 3), tmp_path)
    names["send_mail"] = send_mail
    assert names["review"]() == "SUCCEEDED"
    assert len(links) == len(remote.starts()) == 1


def test_first_flow(sandbox: TransactionlinkCredentials, tmp_path: Path) -> None:
    """The reader's own flow, on a sandbox of his own, opens the account."""
    (tmp_path / ".venvs").mkdir()
    (tmp_path / ".venvs/prefect").symlink_to(Path(sys.executable).parents[1])
    there = {"8322": str(free_port())}
    (tmp_path / "my_first_flow.py").write_text(placed(TUTORIAL.fence("python", 2), there))
    try:
        with running(placed(TUTORIAL.fence("bash", 7), there), tmp_path):
            until_it_answers(f"http://127.0.0.1:{there['8322']}")
            said = bash(TUTORIAL.fence("bash", 8), tmp_path, {"PREFECT_API_URL": PREFECT_API_URL.value()})
    finally:
        sandbox.save("sandbox", overwrite=True)  # the reader's has the name of ours
    assert "account opened: approve in " in said


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
        (made,) = client.read_automations_by_name("a check was announced")
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
