"""`tl ledger` over the REST API of an Airflow: what it asks, what it writes, and when it refuses to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from tests.builders import entry, event
from tests.wire.fault_server import Conversation, FaultServer, closed_port, http
from tests.wire.ledger.test_cli import REFUSED, answer, call
from tl_orchestration.cli.outcomes import SUCCESS, USAGE, code_of_error
from tl_orchestration.errors import AuthenticationError, InvalidRequest, PermissionDenied
from tl_orchestration.ledger import Entry, State
from tl_orchestration.ledger.airflow_step import state_key
from tl_orchestration.ledger.entry import fold

TOKEN = "eyJ-PLANTED-7c"
KEY = "d/manual__2026-11-21T09:00:00+00:00/group.check"
TASK = "/api/v2/dags/d/dagRuns/manual__2026-11-21T09%3A00%3A00%2B00%3A00/taskInstances/group.check"
ADOPT = ("ledger", "adopt", KEY, "e-9", "--reason", " seen in\nthe dashboard ")


@define
class Airflow:
    """
    One task instance and its state, as Airflow's API serves them.

    Args:
        looks: State and try of the task, one for each look at it; the last one stays.
        lost: Whether the answer to a write is lost.
        crossing: What a try writes right after the verdict.
        refusal: What everything is answered with, instead.
        later: The same, once something was written.
    """

    document: Any = None
    looks: list[tuple[str | None, str]] = field(factory=lambda: [("failed", "try-1")])
    lost: bool = False
    crossing: Any = None
    refusal: bytes | None = None
    later: bytes | None = None
    requests: list[tuple[str, str, bytes]] = field(factory=list)

    def __call__(self, conversation: Conversation) -> None:
        while request := conversation.read_request():
            head, _, body = request.partition(b"\r\n\r\n")
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            self.requests.append((method, path, head))
            if method == "PATCH" and self.lost:
                break
            conversation.send(self.refusal or self._answered(method, path, body))
            if b"connection: close" in head.lower():
                break
        conversation.close()

    def _answered(self, method: str, path: str, body: bytes) -> bytes:
        if "/state-store/" not in path:
            state, number = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
            return _json({"state": state, "id": number})
        if self.document is None:
            return http("404 Not Found", b'{"detail": "not found"}')
        if method == "GET":
            return _json({"key": "k", "value": self.document, "expires_at": None})
        self.document = self.crossing or json.loads(body)["value"]
        self.refusal = self.later
        return http("200 OK", b"null")

    @property
    def methods(self) -> list[str]:
        return [method for method, _, _ in self.requests]


def _json(document: dict[str, Any]) -> bytes:
    return http("200 OK", json.dumps(document).encode())


def undecided(state: State = State.UNKNOWN, age: float = 0.0) -> Entry:
    return entry(state, generation="2", changed_at=time.time() - age)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    """An Airflow behind a prefix, which the environment names, with a task whose start has an unknown fate."""
    for name in list(os.environ):
        if name.startswith(("TRANSACTIONLINK_", "AIRFLOW_API")):
            monkeypatch.delenv(name)
    airflow = Airflow(undecided().to_dict())
    with FaultServer(airflow) as server:
        monkeypatch.setenv("TRANSACTIONLINK_LEDGER_URL", f"airflow+{server.url}/prefix/")
        monkeypatch.setenv("AIRFLOW_API_TOKEN", TOKEN)
        yield airflow


class TestShow:
    def test_entry_and_way_out(self, airflow: Airflow) -> None:
        """The entry is shown as any other, with both commands; the token goes out once, and is shown nowhere."""
        shown = call("--verbose", "ledger", "show", KEY)
        assert (shown.exit_code, "UNKNOWN" in shown.stdout) == (SUCCESS, True)
        assert f"tl ledger adopt {KEY} EXECUTION_ID" in shown.stderr
        ((method, path, head),) = airflow.requests
        assert (method, path) == ("GET", f"/prefix{TASK}/state-store/{state_key(KEY)}?map_index=-1")
        assert f"Bearer {TOKEN}".encode() in head
        assert "PLANTED" not in shown.output
        assert answer("ledger", "show", KEY)["trail"] == []

    def test_task_that_has_started_nothing(self, airflow: Airflow) -> None:
        """A task without an entry is told from one that this Airflow does not have."""
        airflow.document = None
        assert "holds nothing for" in call("ledger", "show", KEY).stderr
        airflow.refusal = http("404 Not Found", b"{}")
        missing = call("ledger", "show", KEY)
        assert (missing.exit_code, "has no task" in missing.stderr) == (REFUSED, True)

    @pytest.mark.parametrize("value", [["x"], {"format": 99}, "x"])
    def test_foreign_value(self, airflow: Airflow, value: Any) -> None:
        """Something else under the key is an error of its own, not an entry."""
        airflow.document = value
        assert call("ledger", "show", KEY).exit_code == REFUSED

    @pytest.mark.parametrize("key", ["onboarding-4711", "d/r", "d/r/t[x]", "../r/t", "d/r/..", "//"])
    def test_key_of_another_kind(self, airflow: Airflow, key: str) -> None:
        """A key that names no task is refused before anything is sent."""
        refused = call("ledger", "show", key)
        assert (refused.exit_code, airflow.requests) == (code_of_error(InvalidRequest), [])
        assert "DAG_ID/RUN_ID/TASK_ID" in refused.stderr


class TestVerdicts:
    def test_adopt(self, airflow: Airflow) -> None:
        """The verdict is written with reason and time, between two looks at the task."""
        said = call(*ADOPT)
        assert (said.exit_code, "goes on with execution e-9. Clear the failed task" in said.stderr) == (SUCCESS, True)
        written = Entry.from_dict(airflow.document)
        assert (written.state, written.execution_id, written.adopted) == (State.STARTED, "e-9", True)
        assert (written.reason, written.generation, written.version) == ("seen in the dashboard", "2", 4)
        asked = [path.rpartition("/")[2].partition("?")[0] for _, path, _ in airflow.requests]
        assert asked[-5:] == ["-1", state_key(KEY), state_key(KEY), state_key(KEY), "-1"]
        assert airflow.methods.count("PATCH") == 1

    def test_not_started_for_an_element_of_a_mapped_task(self, airflow: Airflow) -> None:
        """Task instance and state are those of the element."""
        said = answer("ledger", "not-started", f"{KEY}[3]", "--reason", "not there")
        assert (said["state"], Entry.from_dict(airflow.document).state) == ("REJECTED", State.REJECTED)
        paths = {path.removeprefix(f"/prefix{TASK}") for _, path, _ in airflow.requests}
        assert paths == {"/3", f"/state-store/{state_key(f'{KEY}[3]')}?map_index=3"}

    @pytest.mark.parametrize(
        "state", ["running", "queued", "scheduled", "deferred", "up_for_retry", "restarting", "unheard_of", None]
    )
    def test_task_that_may_act(self, airflow: Airflow, state: str | None) -> None:
        """While a try is at it, or may begin any moment, nothing is written, and the state is named."""
        airflow.looks = [(state, "try-1")]
        refused = call(*ADOPT)
        assert (refused.exit_code, "PATCH" in airflow.methods) == (REFUSED, False)
        assert f"is {state or 'about to be scheduled'}, so a try may be at it. Nothing was recorded" in refused.stderr

    @pytest.mark.parametrize("after", [("queued", "try-1"), ("failed", "try-2")])
    def test_try_that_begins_meanwhile(self, airflow: Airflow, after: tuple[str, str]) -> None:
        """A task that was cleared while the verdict was written is told, for its try may have acted before."""
        airflow.looks.append(after)
        refused = call(*ADOPT)
        assert (refused.exit_code, "has changed while this was recorded" in refused.stderr) == (REFUSED, True)

    def test_try_that_writes_over_the_verdict(self, airflow: Airflow) -> None:
        """A verdict that is not there any more is never reported as recorded."""
        airflow.crossing = fold(undecided(), event(State.INTENT, generation="3")).to_dict()
        refused = call(*ADOPT)
        assert (refused.exit_code, "has changed while this was recorded" in refused.stderr) == (REFUSED, True)

    def test_intent_of_a_moment_ago(self, airflow: Airflow) -> None:
        """A task that was only marked failed may still be sending: as long as that takes, no verdict is taken."""
        airflow.document = undecided(State.INTENT, age=60).to_dict()
        refused = call(*ADOPT)
        assert (refused.exit_code, "may be starting" in refused.stderr) == (REFUSED, True)
        airflow.document = undecided(State.INTENT, age=300).to_dict()
        assert call(*ADOPT).exit_code == SUCCESS

    def test_intent_of_a_slow_task(self, airflow: Airflow) -> None:
        """A task whose settings let its start take longer has said so; that counts for verdicts, and is shown."""
        now = time.time()
        slow = evolve(undecided(State.INTENT, age=300), intended_at=now - 300, settles_at=now + 450)
        airflow.document = slow.to_dict()
        refused = call(*ADOPT)
        assert (refused.exit_code, "may be starting" in refused.stderr) == (REFUSED, True)
        until = datetime.fromtimestamp(now + 450, UTC).isoformat(timespec="seconds")
        assert f"settles     {until}" in call("ledger", "show", KEY).stdout
        assert answer("ledger", "show", KEY)["settles_at"] == until

    def test_known_fate(self, airflow: Airflow) -> None:
        """What the step has started is not for anybody to say."""
        airflow.document = entry(State.STARTED, execution_id="e-1").to_dict()
        refused = call(*ADOPT)
        assert (refused.exit_code, "nothing to decide" in refused.stderr, "PATCH" in airflow.methods) == (
            REFUSED,
            True,
            False,
        )

    def test_airflow_that_goes_away_after_the_write(self, airflow: Airflow) -> None:
        """A verdict that could not be looked at again is not reported as recorded, nor as refused."""
        airflow.later = http("503 Service Unavailable", b"")
        refused = call(*ADOPT)
        assert (refused.exit_code, f"recorded, `tl ledger show {KEY}` tells" in refused.stderr) == (REFUSED, True)
        assert Entry.from_dict(airflow.document).adopted

    def test_answer_that_is_lost(self, airflow: Airflow) -> None:
        """Whether the verdict was recorded is then left open, with the command that tells."""
        airflow.lost = True
        refused = call(*ADOPT)
        assert (refused.exit_code, f"recorded, `tl ledger show {KEY}` tells" in refused.stderr) == (REFUSED, True)
        assert airflow.methods.count("PATCH") == 1


class TestConnecting:
    @pytest.mark.parametrize(
        ("status", "error", "sentence"),
        [
            ("401 Unauthorized", AuthenticationError, "does not accept the token (401). Set AIRFLOW_API_TOKEN"),
            ("403 Forbidden", PermissionDenied, "edit"),
            ("302 Found", None, "redirect, which is not followed"),
            ("500 Internal Server Error", None, "fails (500)"),
            ("422 Unprocessable Content", None, "refuses (422)"),
        ],
    )
    def test_refusals(self, airflow: Airflow, status: str, error: Any, sentence: str) -> None:
        """Each says what Airflow answered and what to do; nothing is asked twice, and no redirect is followed."""
        airflow.refusal = http(status, b'{"detail": "said"}', "Location: /elsewhere")
        refused = call("ledger", "show", KEY)
        assert refused.exit_code == (code_of_error(error) if error else REFUSED)
        assert sentence in refused.stderr
        assert len(airflow.requests) == 1

    def test_no_token(self, airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a token none is sent, and Airflow's refusal comes with the way to one."""
        monkeypatch.setenv("AIRFLOW_API_TOKEN", "")
        assert call("ledger", "show", KEY).exit_code == SUCCESS
        assert b"authorization" not in airflow.requests[0][2].lower()
        airflow.refusal = http("401 Unauthorized", b"{}")
        refused = call("ledger", "show", KEY)
        assert "wants a token (401)" in refused.stderr
        assert "/prefix/auth/token" in refused.stderr

    def test_token_from_a_file(self, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A file may hold the token, but not beside the variable."""
        (tmp_path / "token").write_text("eyJ-other\n")
        monkeypatch.setenv("AIRFLOW_API_TOKEN_FILE", str(tmp_path / "token"))
        assert "unset one of them" in call("ledger", "show", KEY).stderr
        monkeypatch.delenv("AIRFLOW_API_TOKEN")
        assert call("ledger", "show", KEY).exit_code == SUCCESS
        assert b"Bearer eyJ-other" in airflow.requests[0][2]

    def test_something_else_answers(self, airflow: Airflow) -> None:
        """A page is no answer of Airflow's."""
        airflow.refusal = http("200 OK", b"<html>", content_type="text/html")
        refused = call("ledger", "show", KEY)
        assert (refused.exit_code, "something else than Airflow answers" in refused.stderr) == (REFUSED, True)

    def test_nobody_there(self, airflow: Airflow) -> None:
        """An Airflow that is away is a ledger that cannot be reached."""
        with closed_port() as url:
            refused = call("ledger", "show", KEY, "--url", f"airflow+{url}")
        assert (refused.exit_code, "task state cannot be reached" in refused.stderr) == (REFUSED, True)

    @pytest.mark.parametrize(
        "url",
        [
            "airflow+http://airflow.example.com",
            "airflow+https://jo:PLANTED@airflow.example.com",
            "airflow+https://airflow.example.com/?token=PLANTED",
            "airflow+ftp://airflow.example.com",
            "airflow+https://",
            "airflow+https://[",
        ],
    )
    def test_address_that_is_not_called(self, airflow: Airflow, url: str) -> None:
        """Plain http beyond loopback, and what does not belong into a URL, is refused."""
        refused = call("ledger", "show", KEY, "--url", url)
        assert (refused.exit_code, "PLANTED" in refused.output) == (USAGE, False)

    @pytest.mark.parametrize(
        "command",
        [
            ("ledger", "list"),
            ("ledger", "purge", "--older-than", "90d"),
            ("db", "check"),
            ("run", "kyc-approve", "--key", "k"),
        ],
    )
    def test_what_needs_sql_says_so(self, airflow: Airflow, command: tuple[str, ...]) -> None:
        """Nothing lists or purges task states, and no table is looked for there."""
        refused = call(*command)
        assert (refused.exit_code, "needs a SQL ledger" in refused.stderr, airflow.requests) == (USAGE, True, [])

    @pytest.mark.parametrize("option", ["--namespace", "--actor"])
    def test_what_task_state_cannot_keep(self, airflow: Airflow, option: str) -> None:
        """A name that would not be kept is refused, not dropped."""
        refused = call(*ADOPT, option, "x")
        assert (refused.exit_code, "neither namespaces nor names" in refused.stderr) == (USAGE, True)
        assert airflow.requests == []
