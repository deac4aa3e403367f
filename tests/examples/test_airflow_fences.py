"""
Every Airflow fence of the documents runs as it stands on a real Airflow. All runs are under way together.
"""

from __future__ import annotations

import json
import socketserver
import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from tests.fences import Page, bash, placed
from tests.rig import connection

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)

TUTORIAL = Page("tutorial.md")
ONE_STEP = Page("how-to/run-a-step-in-airflow.md")
MANY_STEPS = Page("how-to/run-many-steps-in-airflow.md")
RESULTS = Page("how-to/keep-results-out-of-airflow.md")
LINKS = Page("how-to/interactive-executions.md")
UNKNOWN = Page("how-to/unknown-start.md")
AIRFLOW = Page("reference/airflow.md")

EMAIL = "ada@example.com"
ADOPTED = "e3c23802-537d-4aa4-89f1-397c120f5565"
LOST_RUN = "manual__2026-11-21T09:00:00+00:00"


@frozen
class Example:
    """
    Python fences of a page that make one DAG together.

    Args:
        fences: Their numbers.
        whole: Whether they are a whole DAG file, and not the body of a DAG.
        given: What the page takes for granted: the reader's own functions, a storage.
    """

    page: Page
    fences: tuple[int, ...]
    whole: bool = False
    given: str = ""

    def source(self, dag_id: str) -> str:
        """
        A DAG file, for a DAG of that id if the page does not say it.
        """
        text = "\n".join(self.page.fence("python", number) for number in self.fences)
        if self.whole:
            return f"{self.given}\n{text}"
        head = f"import airflow.sdk\n\nwith airflow.sdk.DAG({dag_id!r}, schedule=None):\n"
        return f"{self.given}\n{head}{textwrap.indent(text, '    ')}"


#: A folder stands for the bucket.
BUCKET = """
from airflow.sdk.io import attach
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

attach("s3", conn_id="aws_kyc", fs=DirFileSystem(path="FOLDER", fs=LocalFileSystem(auto_mkdir=True)))
"""
MAIL = """
from pathlib import Path

def applicant_of(run_id):
    return "applicant of a run"

def send_mail(to, text):
    Path("FOLDER", "mail").write_text(to + ": " + text)
"""
#: By the DAG's id.
EXAMPLES = {
    "my_first_check": Example(TUTORIAL, (0,), whole=True),
    "doc_decorated": Example(ONE_STEP, (0, 1)),
    "doc_judged": Example(ONE_STEP, (0, 2)),
    "doc_waits_elsewhere": Example(ONE_STEP, (0, 3)),
    "doc_per_element": Example(ONE_STEP, (0, 4)),
    "doc_other_services": Example(ONE_STEP, (0, 5)),
    "kyc_of_new_applications": Example(MANY_STEPS, (0,), whole=True),
    "doc_stored": Example(RESULTS, (0, 1), given=BUCKET),
    "doc_link": Example(LINKS, (0,), given=MAIL),
    "doc_notified": Example(LINKS, (1,)),
    "doc_keyed": Example(AIRFLOW, (0,)),
    "doc_by_policy": Example(AIRFLOW, (1,)),
    "doc_cancels": Example(AIRFLOW, (2,)),
}
FORBIDDEN = """
import airflow.sdk
from airflow_provider.operators import TransactionlinkRunWorkflowOperator

with airflow.sdk.DAG("doc_forbidden", schedule=None):
    TransactionlinkRunWorkflowOperator(
        task_id="check", workflow_definition_id="kyc-approve", transactionlink_conn_id="kyc", result="s3://elsewhere/"
    )
"""


#: The command `airflow` takes four seconds to start, so one process does what all pages ask of it.
COMMANDS_ARE_KEPT = "airflow() { local IFS=$'\\x1f'; echo \"$*\" >> commands; }"
KEPT_COMMANDS_RUN = """
from airflow.cli.cli_parser import get_parser
for line in open("commands"):
    options = get_parser().parse_args(line.rstrip("\\n").split("\\x1f"))
    options.func(options)
"""


class MailServer(socketserver.ThreadingTCPServer):
    """
    Takes mail, and keeps what was sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MailSession)
        self.received: list[str] = []


class MailSession(socketserver.StreamRequestHandler):
    """
    As much of SMTP as one message needs.
    """

    server: MailServer

    def handle(self) -> None:
        """One connection."""
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            match line[:4].upper():
                case b"QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                case b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    self.server.received.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            self.wfile.write(b"250 OK\r\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples write."""
    return tmp_path_factory.mktemp("fences")


@pytest.fixture(scope="module")
def mails() -> Iterator[MailServer]:
    """A mail server."""
    with MailServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def prepared(airflow: AirflowRig, oracle: Oracle, folder: Path, mails: MailServer) -> None:
    """The connections and the pool that the pages speak of, by their own commands where they have some."""
    kyc = json.loads(connection(oracle, extra=json.loads(RESULTS.fence("json", 1))))
    kyc["extra"] |= {"ledger_url": f"sqlite:///{folder}/ledger.db"}
    mail = {"conn_type": "smtp", "host": "127.0.0.1", "port": mails.server_address[1]}
    mail["extra"] = {"disable_ssl": True, "disable_tls": True, "from_email": "kyc@example.com"}
    for name, fields in {"kyc": kyc, "smtp_default": mail}.items():
        body = fields | {"connection_id": name, "extra": json.dumps(fields["extra"])}
        airflow.request("POST", "connections", json=body)
    oracle.define("wf_kyc", like="kyc-approve")
    pages = [TUTORIAL.fence("bash", 4), ONE_STEP.fence("bash"), MANY_STEPS.fence("bash")]
    env = airflow.environment() | {"YOUR_TOKEN": "tot_of-a-reader"}
    bash("\n".join([COMMANDS_ARE_KEPT, *pages, f"python -c '{KEPT_COMMANDS_RUN}'"]), folder, env)


@pytest.fixture(scope="module")
def runs(
    airflow: AirflowRig, oracle: Oracle, folder: Path, mails: MailServer, prepared: None
) -> Iterator[dict[str, str]]:
    """A run of each DAG, and those who act while they wait: a person, and the end of what is slow."""
    for dag_id, example in EXAMPLES.items():
        airflow.write_dag(f"fence_{dag_id}", example.source(dag_id).replace("FOLDER", str(folder)))
    airflow.write_dag("fence_doc_forbidden", FORBIDDEN)
    before = set(oracle.started("kyc-review"))
    conf = {"application": "application-7", "email": EMAIL}
    body = {"logical_date": datetime.now(UTC).isoformat(), "conf": conf}  # as the page of Airflow triggers
    runs = {}
    for dag_id in [*EXAMPLES, "doc_forbidden"]:
        airflow.wait_for_dag(dag_id)
        runs[dag_id] = airflow.request("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"]

    airflow.wait_for_task("doc_waits_elsewhere", runs["doc_waits_elsewhere"], "start", {"success"}, 120)
    oracle.end(airflow.xcom("doc_waits_elsewhere", runs["doc_waits_elsewhere"], "start")["execution_id"])
    airflow.wait_for(lambda: ((folder / "mail").exists() and mails.received) or None, "both mails", 120)
    for execution_id in set(oracle.started("kyc-review")) - before:
        oracle.end(execution_id)
    yield runs
    for file in airflow.dags_folder.glob("fence_*.py"):  # nobody needs them parsed again and again
        file.unlink()


@pytest.mark.parametrize("dag_id", EXAMPLES)
def test_example_runs(airflow: AirflowRig, runs: dict[str, str], dag_id: str) -> None:
    """Each DAG that the pages show ends well."""
    state = airflow.wait_for_run(dag_id, runs[dag_id])
    assert state == "success", airflow.describe_run(dag_id, runs[dag_id])


def test_returned_value_is_as_shown(airflow: AirflowRig, runs: dict[str, str]) -> None:
    """XCom has the members that the pages show, of the same kinds."""

    def kinds(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: kinds(one) for name, one in value.items()}
        return type(value)

    assert airflow.wait_for_run("my_first_check", runs["my_first_check"]) == "success"
    assert airflow.wait_for_run("doc_stored", runs["doc_stored"]) == "success"
    plain = airflow.xcom("my_first_check", runs["my_first_check"], "check_customer")
    stored = airflow.xcom("doc_stored", runs["doc_stored"], "check")
    assert kinds(plain) == kinds(json.loads(AIRFLOW.fence("json")))
    assert kinds(stored) == kinds(json.loads(RESULTS.fence("json", 0)))
    assert airflow.xcom("my_first_check", runs["my_first_check"], "open_account").startswith(
        "account opened: approve in "
    )


def test_links_are_mailed(
    airflow: AirflowRig, oracle: Oracle, runs: dict[str, str], folder: Path, mails: MailServer
) -> None:
    """The callable and Airflow's own notifier have sent the link of the hosted page."""
    assert (folder / "mail").read_text().startswith(f"applicant of a run: Please go on here: {oracle.url}/")
    (mail,) = mails.received
    assert f"To: {EMAIL}" in mail


def test_other_connections_are_added(airflow: AirflowRig, prepared: None) -> None:
    """The commands have made connections of the type, and the pool that counts what is deferred."""
    found = {
        name: airflow.request("GET", f"connections/{name}") for name in ("transactionlink_default", "legacy", "b3os")
    }
    assert {one["conn_type"] for one in found.values()} == {"transactionlink"}
    services = [json.loads(found[name]["extra"])["service"] for name in ("legacy", "b3os")]
    assert services == ["transactionlink-legacy", "b3os"]
    assert airflow.request("GET", "pools/kyc")["include_deferred"] is True


def test_connection_forbids(airflow: AirflowRig, runs: dict[str, str]) -> None:
    """The connection with the extra that the page shows refuses another storage."""
    assert airflow.wait_for_run("doc_forbidden", runs["doc_forbidden"]) == "failed"
    allowed = json.loads(RESULTS.fence("json", 1))["result_uri_prefixes"]
    assert f"allows results only below {allowed}" in airflow.task_log("doc_forbidden", runs["doc_forbidden"], "check")


def test_verdict_about_a_step(airflow: AirflowRig, oracle: Oracle, folder: Path) -> None:
    """A person looks at a step whose start was lost, and adopts an execution."""
    definition = oracle.define("fence-lost", like="kyc-approve")
    oracle.fault(on="start", definition=definition, kind="lose")
    airflow.wait_for_dag("kyc_onboarding")
    airflow.trigger("kyc_onboarding", {"workflow_definition_id": definition}, LOST_RUN)
    assert airflow.wait_for_run("kyc_onboarding", LOST_RUN) == "failed"

    token = airflow.request("GET", "token", root="/auth")["access_token"]
    places = {
        "airflow+https://airflow.example.com": f"airflow+{airflow.base_url}",
        "AIRFLOW_API_TOKEN=…": f"AIRFLOW_API_TOKEN={token}",
    }
    script = placed(UNKNOWN.fence("bash", 3), places)
    look = next(line for line in script.splitlines() if line.startswith("tl ledger show"))

    said = bash(f"{script}\n{look}", folder)

    assert said.index("UNKNOWN") < said.index(ADOPTED)
