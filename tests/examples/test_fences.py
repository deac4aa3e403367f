"""
Every fence of the documents runs as it stands; here those for a shell, for Python and for PostgreSQL. What a fence
cannot know, such as a port or a token, is all that is replaced.
"""

from __future__ import annotations

import asyncio
import re
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest

from dev.services import free_port
from tests.fences import PROJECT, Page, bash, counted, placed, running, until_it_answers
from tests.postgres import Postgres
from tests.remote import TOKEN, Remote
from tl_orchestration import Client, OrganizationToken, RunRequest
from tl_orchestration.errors import StartOutcomeUnknown
from tl_orchestration.ledger import SqlLedger
from tl_orchestration.services.transactionlink import Transactionlink

#: Whoever adds a fence adds its test: here, in ``test_airflow_fences.py`` or in ``test_webhooks_fences.py``;
#: for Prefect in ``tests/wire/prefect_blocks/test_fences.py``; or where the line says. Without a language: a drawing.
FENCES = {
    "how-to/interactive-executions.md": {"python": 4},
    "how-to/keep-results-out-of-airflow.md": {"python": 2, "json": 2},
    "how-to/keep-results-out-of-prefect.md": {"python": 3},
    "how-to/rescreen-your-customer-book.md": {"bash": 1},
    "how-to/run-a-step-in-airflow.md": {"python": 6, "bash": 1},
    "how-to/run-a-step-in-prefect.md": {"python": 4},
    "how-to/run-many-steps-in-airflow.md": {"python": 1, "bash": 1},
    "how-to/run-many-steps-in-prefect.md": {"python": 1},
    "how-to/test-your-own-dags.md": {"python": 5},  # test_how_to_test.py
    "how-to/unknown-start.md": {"bash": 6, "python": 1},
    "how-to/wait-for-thousands.md": {"python": 1},
    "how-to/wait-without-a-worker-in-prefect.md": {"python": 1, "bash": 2},
    "how-to/wake-prefect-with-webhooks.md": {"": 1, "bash": 1, "python": 1},
    # nginx does not run: no environment has it.
    "how-to/webhooks.md": {"": 1, "bash": 8, "sql": 1, "nginx": 1, "python": 2, "ini": 2, "toml": 1},
    "reference/airflow.md": {"python": 3, "json": 1},
    "reference/batch.md": {"bash": 2},
    "reference/cli.md": {"bash": 3, "text": 1},
    "reference/ledger.md": {"python": 1, "bash": 1, "sql": 3},  # of sql also tests/wire/batch/test_rights.py
    "reference/services.md": {"python": 1},
    "tutorial.md": {"bash": 9, "python": 3},
}

TUTORIAL = Page("tutorial.md")
LINKS = Page("how-to/interactive-executions.md")
UNKNOWN = Page("how-to/unknown-start.md")
CLI = Page("reference/cli.md")
LEDGER = Page("reference/ledger.md")

SANDBOX = "http://127.0.0.1:8321"
VENDOR = "https://api.transactionlink.io"
KEY = "onboarding-4711"
ADOPTED = "e3c23802-537d-4aa4-89f1-397c120f5565"


def test_no_fence_is_left_out() -> None:
    """The list above is complete."""
    assert counted() == FENCES


def test_extras_that_are_to_be_installed_exist() -> None:
    """Each ``pip install`` names extras of the distribution."""
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")]
    named = {extras for page in pages for extras in re.findall(r"tl-orchestration\[([\w,]+)\]", page.read_text())}
    assert {extra for extras in named for extra in extras.split(",")} <= set(
        metadata("tl-orchestration").get_all("Provides-Extra") or []
    )


def test_commands_of_make_exist() -> None:
    """What the tutorial runs first are targets, each with a test of its own."""
    targets = re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    said = [TUTORIAL.fence("bash", number) for number in (0, 1, 6)]
    assert said == ["make demo\n", "make up\n", "make demo-prefect\n"]
    assert {"demo", "up", "demo-prefect"} <= set(targets)


def test_lines_of_the_example_are_the_examples_own() -> None:
    """The step that the tutorial quotes is in the example DAG, which runs on a real Airflow."""
    example = (PROJECT / "example_dags/airflow/kyc_onboarding.py").read_text()
    assert TUTORIAL.fence("python", 1) in re.sub("^    ", "", example, flags=re.MULTILINE)


# --- Python


@pytest.fixture
def program(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a program, with a token; the vendor's default address is the sandbox's."""
    (tmp_path / "token.txt").write_text(f"{TOKEN}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Transactionlink, "default_base_url", remote.url)
    return tmp_path


def run_python(text: str, **names: Any) -> dict[str, Any]:
    """Run a fence as a module that has the reader's own names already. Returns all names."""
    names |= {"__name__": "fence"}
    exec(compile(text, "fence", "exec"), names)  # noqa: S102 -- our own pages
    return names


def test_clients_of_each_service(program: Path) -> None:
    """Each client can be made; nothing is sent."""
    (program / "b3os-key.txt").write_text("b3sk_sandbox\n")
    run_python(Page("reference/services.md").fence("python"))


@pytest.mark.usefixtures("program")
def test_start_with_a_ledger(remote: Remote) -> None:
    """It starts once, however often it is run."""
    executions = [run_python(LEDGER.fence("python"))["execution"] for _ in range(2)]
    (start,) = remote.starts()
    assert [one.id for one in executions] == [start["execution_id"]] * 2


@pytest.mark.usefixtures("program")
def test_link_is_mailed(remote: Remote) -> None:
    """The reader's function gets the link of the hosted page."""
    mails: list[dict[str, str]] = []
    run_python(LINKS.fence("python", 2), send_mail=lambda **mail: mails.append(mail))
    (mail,) = mails
    assert len(remote.starts()) == 1
    assert mail["to"] == "applicant-4711"
    assert mail["text"].startswith(f"Please go on here: {remote.url}/")


@pytest.mark.usefixtures("program")
def test_correlated_start(remote: Remote) -> None:
    """The start has the random id among its parameters."""
    run_python(UNKNOWN.fence("python"))
    (start,) = remote.starts()
    assert start["parameters"]["caseRef"].startswith("tl-")


@pytest.mark.usefixtures("program")
def test_wait_for_all(remote: Remote) -> None:
    """All of them end."""
    names = run_python(Page("how-to/wait-for-thousands.md").fence("python"))
    with Client(OrganizationToken(TOKEN)) as client:
        ids = [client.run(RunRequest("kyc-approve")).id for _ in range(3)]
    found = asyncio.run(names["wait_for_all"](TOKEN, ids))
    assert [(one.id, one.status.value) for one in found] == [(one, "SUCCEEDED") for one in ids]


# --- shell


def variables(remote: Remote, ledger_url: str | None = None) -> dict[str, str]:
    """What a page takes for granted once it has said it."""
    ledger = {} if ledger_url is None else {"TRANSACTIONLINK_LEDGER_URL": ledger_url}
    return {"TRANSACTIONLINK_BASE_URL": remote.url, "TRANSACTIONLINK_TOKEN": TOKEN} | ledger


def test_person_decides(remote: Remote, tmp_path: Path) -> None:
    """The tutorial's command prints the link of the hosted page, and ends when a person has approved there."""
    (tmp_path / ".venvs").mkdir()
    (tmp_path / ".venvs/airflow").symlink_to(Path(sys.executable).parents[1])
    with running(placed(TUTORIAL.fence("bash", 2), {SANDBOX: remote.url}), tmp_path) as command:
        assert command.stdout is not None
        link = next(found[0] for line in command.stdout if (found := re.search(r"http://\S+", line)))
        token = parse_qs(urlsplit(link).query)["token"]
        answer = httpx.post(link, data={"token": token, "decision": "approve"}, trust_env=False)
        assert not answer.is_error
        assert "SUCCEEDED" in command.stdout.read()
        assert command.wait(60) == 0


def test_doctor_of_the_real_service(remote: Remote, tmp_path: Path) -> None:
    """The last command of the tutorial finds nothing wrong."""
    said = bash(placed(TUTORIAL.fence("bash", 5), {VENDOR: remote.url}), tmp_path, {"YOUR_TOKEN": TOKEN})
    assert "credential" in said


def test_first_look(tmp_path: Path) -> None:
    """Sandbox, doctor and a first run, and the answer looks as the page shows it."""
    port = free_port()
    there = f"http://127.0.0.1:{port}"
    with running(placed(CLI.fence("bash", 1), {"tl sandbox": f"exec tl sandbox --port {port}"}), tmp_path):
        until_it_answers(there)
        said = bash(placed(CLI.fence("bash", 2), {SANDBOX: there}), tmp_path)
    assert shape(said).endswith(shape(CLI.fence("text")))
    assert "fail" not in said


def shape(text: str) -> str:
    """The text with ids and moments made equal."""
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:+.]+|\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\br\d+\b", "…", text)


@pytest.fixture
def lost(remote: Remote, postgres: Postgres) -> str:
    """URL of a ledger in which the fate of one start is unknown."""
    url = postgres.ready_database()
    remote.order("start", "lose")
    client = Client(OrganizationToken(TOKEN), base_url=remote.url, ledger=SqlLedger(url))
    with client, pytest.raises(StartOutcomeUnknown):
        client.run(RunRequest("kyc-approve"), key=KEY)
    return url


class TestUnknownStart:
    def test_look(self, lost: str, tmp_path: Path) -> None:
        """The ledger tells what it knows of the key."""
        said = bash(
            placed(UNKNOWN.fence("bash", 0), {"postgresql+psycopg://user@host/database": f"'{lost}'"}), tmp_path
        )
        assert "UNKNOWN" in said

    @pytest.mark.parametrize(("number", "state"), [(1, "STARTED"), (2, "REJECTED")])
    def test_verdict(self, remote: Remote, lost: str, tmp_path: Path, number: int, state: str) -> None:
        """Each verdict is taken."""
        bash(UNKNOWN.fence("bash", number), tmp_path, variables(remote, lost))
        assert state in bash(f"tl ledger show {KEY}", tmp_path, variables(remote, lost))

    def test_correlated(self, remote: Remote, tmp_path: Path) -> None:
        """The start has the random id among its parameters."""
        bash(UNKNOWN.fence("bash", 4), tmp_path, variables(remote, f"sqlite:///{tmp_path}/ledger.db"))
        (start,) = remote.starts()
        assert start["parameters"]["caseRef"].startswith("tl-")


def test_campaign_from_a_shell(remote: Remote, tmp_path: Path) -> None:
    """A dry run, a canary and the rest: each customer once, and the results beside a manifest."""
    said = bash(placed(Page("how-to/rescreen-your-customer-book.md").fence("bash"), {SANDBOX: remote.url}), tmp_path)
    assert "succeeded   2" in said
    assert sorted(start["parameters"]["firstName"] for start in remote.starts()) == ["Ada", "Bea"]
    assert (tmp_path / "screening/2026-W47/manifest.json").exists()


def test_campaigns_with_options(remote: Remote, tmp_path: Path) -> None:
    """At B3OS with where a row comes from, at the legacy service about a case of its own."""
    (tmp_path / "book.csv").write_text("customer_id,first_name,last_name\nc1,Ada,Byron\nc2,Bea,Cole\n")
    remote.define("kyc-approve", duration=0.1)
    common = {"TRANSACTIONLINK_BASE_URL": remote.url, "TRANSACTIONLINK_LEDGER_URL": "sqlite:///ledger.db"}
    key = {"TRANSACTIONLINK_TOKEN": "b3sk_sandbox"}
    pair = {"TRANSACTIONLINK_KEY": "sandbox-key", "TRANSACTIONLINK_SECRET": "sandbox-secret"}
    for number, credential in enumerate((key, pair)):
        assert "succeeded   2" in bash(Page("reference/batch.md").fence("bash", number), tmp_path, common | credential)
    assert {start["details"].get("externalRef") for start in remote.starts()} == {"c1", "c2", None}
    assert {case["fields"]["lastName"] for case in remote.cases()} == {"Byron", "Cole"}


def test_tables_and_rights(remote: Remote, postgres: Postgres, tmp_path: Path) -> None:
    """The owner makes the tables; the role of the page runs a workflow, and cannot change the trail."""
    database = postgres.empty_database()
    owner = postgres.url(database)
    bash(placed(LEDGER.fence("bash"), {"postgresql+psycopg://owner@host/database": f"'{owner}'"}), tmp_path)
    runner = postgres.role_url(database, "runner", LEDGER.fence("sql"))
    with Client(OrganizationToken(TOKEN), base_url=remote.url, ledger=SqlLedger(runner)) as client:
        execution = client.run(RunRequest("kyc-approve"), key=KEY)
        assert client.wait(execution).status.value == "SUCCEEDED"
    with psycopg.connect(runner.replace("+psycopg", "")) as trail, pytest.raises(psycopg.errors.InsufficientPrivilege):
        trail.execute("UPDATE tl_ledger_trail SET actor = 'nobody'")
