"""`tl ledger`, `tl db` and `tl run --key`: what a person sees of a ledger, and may tell it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.builders import event
from tests.planted import FIRST_NAME, PARAMETERS
from tests.postgres import Postgres
from tests.remote import TOKEN, Remote
from tl_orchestration.cli.commands import tl
from tl_orchestration.cli.outcomes import SUCCESS, UNEXPECTED, USAGE, code_of_error
from tl_orchestration.database.tables import REVISIONS
from tl_orchestration.errors import LedgerError, RequestChanged, StartOutcomeUnknown
from tl_orchestration.ledger import SqlLedger, State

HOUR = 3600.0
REFUSED = code_of_error(LedgerError)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the environment's ledger, which does not exist yet."""
    for name in list(os.environ):
        if name.startswith("TRANSACTIONLINK_"):
            monkeypatch.delenv(name)
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("TRANSACTIONLINK_LEDGER_URL", f"sqlite:///{path}")
    return path


@pytest.fixture
def ledger(file: Path) -> SqlLedger:
    return SqlLedger(f"sqlite:///{file}", "here")


def call(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(tl, arguments, input=stdin, prog_name="tl")
    assert "Traceback" not in result.output
    return result


def answer(*arguments: str, stdin: str | None = None) -> dict[str, Any]:
    """The one JSON object on stdout, whatever the exit code."""
    document = json.loads(call(*arguments, "--json", stdin=stdin).stdout)
    assert isinstance(document, dict)
    return document


def wrote(ledger: SqlLedger, key: str, *states: State, age: float = HOUR, **fields: Any) -> None:
    """An entry that went through these states so many seconds ago."""
    ledger.claim(key, event(State.INTENT, at=time.time() - age), None)
    for state in states:
        ledger.append(key, event(state, at=time.time() - age, **fields))


class TestList:
    def test_lines_for_people(self, ledger: SqlLedger) -> None:
        """One line an entry: state, age, execution, key, namespace; the longest unchanged first."""
        wrote(ledger, "young", State.STARTED, execution_id="e-1", age=90)
        wrote(ledger, "old", State.UNKNOWN, age=3 * 86400)
        rows = [line.split() for line in call("ledger", "list").stdout.splitlines()]
        assert rows == [["UNKNOWN", "3d", "-", "old", "here"], ["STARTED", "90s", "e-1", "young", "here"]]

    def test_narrowed(self, ledger: SqlLedger) -> None:
        """State, age, namespace and number can be asked for; whether there is more is told."""
        for number in range(3):
            wrote(ledger, f"k-{number}", State.UNKNOWN, age=HOUR * (number + 1))
        wrote(ledger, "other", State.STARTED)

        def keys(*options: str) -> list[str]:
            return [entry["key"] for entry in answer("ledger", "list", *options)["entries"]]

        assert keys("--state", "unknown", "--older-than", "90m") == ["k-2", "k-1"]
        assert keys("--state", "UNKNOWN", "--state", "STARTED", "--limit", "3") == ["k-2", "k-1", "k-0"]
        assert keys("--namespace", "there") == []
        assert answer("ledger", "list", "--limit", "3")["more"] is True
        assert answer("ledger", "list", "--limit", "4")["more"] is False
        assert "more than 3" in call("ledger", "list", "--limit", "3").stderr

    def test_empty_ledger(self, ledger: SqlLedger) -> None:
        """No entries are no error."""
        assert ledger.read("k") is None
        assert (call("ledger", "list").exit_code, call("ledger", "list").stdout) == (SUCCESS, "")


class TestShow:
    def test_entry_and_trail(self, ledger: SqlLedger) -> None:
        """Everything known is shown, with each write and who made it, and no two services are mixed."""
        wrote(ledger, "k", State.STARTED, State.SETTLED, execution_id="e-1", status="FAILED", raw_status="BROKEN")
        wrote(SqlLedger(ledger.database, "there"), "k", State.UNKNOWN)
        document = answer("ledger", "show", "k", "--namespace", "here")
        assert (document["state"], document["execution_id"], document["status"]) == ("SETTLED", "e-1", "FAILED")
        assert [line["action"] for line in document["trail"]] == ["claim", "record", "record"]
        text = call("ledger", "show", "k", "--namespace", "here").stdout
        assert "execution   e-1" in text
        assert "FAILED (BROKEN)" in text
        assert text.count(f"by process {os.getpid()}") == 3

    def test_unknown_start_comes_with_the_way_out(self, ledger: SqlLedger) -> None:
        """Suspects are named, and both commands, ready to be copied."""
        wrote(ledger, "a step", State.UNKNOWN, execution_id="e-7")
        shown = call("ledger", "show", "a step")
        assert "execution   e-7" in shown.stdout
        assert "tl ledger adopt 'a step' EXECUTION_ID --reason" in shown.stderr
        assert "tl ledger not-started 'a step' --reason" in shown.stderr

    def test_prepared_start_shows_what_was_made(self, ledger: SqlLedger) -> None:
        """Of a start that was not sent yet the ids are shown that it has made, and no verdict is asked for."""
        ledger.claim("k", event(State.INTENT, at=time.time() - HOUR, preparing=True, progress={"case_id": "c-1"}), None)
        shown = call("ledger", "show", "k")
        assert ("case_id=c-1" in shown.stdout, shown.stderr) == (True, "")
        assert answer("ledger", "show", "k")["progress"] == {"case_id": "c-1"}

    def test_key_of_two_services_needs_a_namespace(self, ledger: SqlLedger) -> None:
        """Where a key is used at two services, the command asks which is meant."""
        for name in ("here", "there"):
            wrote(SqlLedger(ledger.database, name), "k", State.UNKNOWN)
        for command in (["show", "k"], ["not-started", "k", "--reason", "r"], ["adopt", "k", "e-1", "--reason", "r"]):
            refused = call("ledger", *command)
            assert refused.exit_code == USAGE
            assert "--namespace: here, there" in refused.stderr

    def test_key_that_nobody_used(self, ledger: SqlLedger) -> None:
        """A key without an entry is told from a ledger that is not there."""
        assert ledger.read("k") is None
        refused = call("ledger", "show", "k")
        assert (refused.exit_code, "holds nothing for k" in refused.stderr) == (REFUSED, True)


class TestVerdicts:
    def test_adopt(self, ledger: SqlLedger) -> None:
        """The person's word is recorded with reason and name."""
        wrote(ledger, "k", State.UNKNOWN)
        said = call("ledger", "adopt", "k", "e-9", "--reason", "seen in the dashboard", "--actor", "jo")
        assert said.exit_code == SUCCESS
        assert "goes on with execution e-9" in said.stderr
        line = answer("ledger", "show", "k")["trail"][-1]
        assert (line["action"], line["actor"], line["reason"]) == ("adopt", "jo", "seen in the dashboard")
        assert "e-9 (adopted, not gone on with yet)" in call("ledger", "show", "k").stdout

    def test_not_started(self, ledger: SqlLedger) -> None:
        """The actor is the operating system's user where none is named."""
        wrote(ledger, "k", State.UNKNOWN)
        assert answer("ledger", "not-started", "k", "--reason", "not there")["state"] == "REJECTED"
        assert answer("ledger", "show", "k")["trail"][-1]["actor"] not in {"", f"process {os.getpid()}"}

    @pytest.mark.parametrize("verdict", [["adopt", "k", "e-9"], ["not-started", "k"]])
    def test_refused(self, ledger: SqlLedger, verdict: list[str]) -> None:
        """A verdict on what is known, or just being started, or without a reason, changes nothing."""
        wrote(ledger, "k", State.STARTED, execution_id="e-1")
        before = ledger.read("k")
        refused = call("ledger", *verdict, "--reason", "r")
        assert (refused.exit_code, "nothing to decide about k" in refused.stderr) == (REFUSED, True)
        assert ledger.read("k") == before
        assert call("ledger", *verdict).exit_code == USAGE
        wrote(ledger, "fresh", age=5)
        fresh = [word.replace("k", "fresh") if word == "k" else word for word in verdict]
        assert "may be starting fresh just now" in call("ledger", *fresh, "--reason", "r").stderr


class TestPurge:
    def test_old_entries_are_forgotten(self, ledger: SqlLedger) -> None:
        """What is over and old enough is purged; its number is told, and its key stays used."""
        wrote(ledger, "old", State.REJECTED, age=100 * 86400)
        wrote(ledger, "young", State.REJECTED, age=10 * 86400)
        wrote(ledger, "open", State.STARTED, age=100 * 86400)
        assert answer("ledger", "purge", "--older-than", "90d", "--key", "young") == {"purged": 0}
        assert "1 entry was purged" in call("ledger", "purge", "--older-than", "90d", "--actor", "jo").stderr
        assert [entry["state"] for entry in answer("ledger", "list", "--state", "purged")["entries"]] == ["PURGED"]
        assert answer("ledger", "show", "old")["trail"][0]["actor"] == "jo"
        assert call("ledger", "purge").exit_code == USAGE


class TestChoosing:
    def test_no_ledger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without variable and option the command says how to name one."""
        monkeypatch.setenv("TRANSACTIONLINK_LEDGER_URL", " ")
        for command in (["ledger", "list"], ["db", "check"], ["run", "kyc-approve", "--key", "k"]):
            refused = call(*command)
            assert (refused.exit_code, "TRANSACTIONLINK_LEDGER_URL" in refused.stderr) == (USAGE, True)

    def test_mistyped_file_is_no_empty_ledger(self, file: Path) -> None:
        """A file that is not there is told, and not made."""
        refused = call("ledger", "list")
        assert (refused.exit_code, f"There is no file {file}" in refused.stderr) == (USAGE, True)
        assert not file.exists()

    def test_option_goes_before_the_variable(self, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
        """--url names another ledger than the environment does."""
        wrote(ledger, "k", State.UNKNOWN)
        monkeypatch.setenv("TRANSACTIONLINK_LEDGER_URL", "sqlite:////nowhere/ledger.db")
        assert answer("ledger", "show", "k", "--url", ledger.database.address)["state"] == "UNKNOWN"

    def test_password_is_nowhere(self) -> None:
        """No output shows the URL's password, whatever goes wrong."""
        for url in ("postgresql://jo:PLANTED-1b@127.0.0.1:1/db", "mysql://jo:PLANTED-1b@h/d", "jo:PLANTED-1b@h/d"):
            for command in (["ledger", "list"], ["db", "check"], ["db", "upgrade"]):
                refused = call("--verbose", *command, "--url", url)
                assert refused.exit_code in {USAGE, REFUSED}
                assert "PLANTED" not in refused.output


class TestDb:
    def test_sqlite(self, file: Path) -> None:
        """A file is checked without being made, upgraded, and found current."""
        assert (call("db", "check").exit_code, file.exists()) == (UNEXPECTED, False)
        assert answer("db", "upgrade")["revision"] == REVISIONS[-1]
        assert (call("db", "check").exit_code, answer("db", "check")["current"]) == (SUCCESS, True)
        assert "was already at revision" in call("db", "upgrade").stderr

    def test_postgresql(self, postgres: Postgres) -> None:
        """A database that is behind says which command to run, and that command does it."""
        url = postgres.url(postgres.empty_database(), password="PLANTED-1b")
        behind = call("db", "check", "--url", url)
        assert (behind.exit_code, "PLANTED" in behind.output) == (UNEXPECTED, False)
        assert behind.stderr.rstrip().partition(" run: ")[2].startswith("tl db upgrade --url postgresql+psycopg://")
        assert call("ledger", "list", "--url", url).exit_code == REFUSED
        assert call("db", "upgrade", "--url", url).exit_code == SUCCESS
        assert call("db", "check", "--url", url).exit_code == SUCCESS
        assert call("ledger", "list", "--url", url).exit_code == SUCCESS


class TestRun:
    @pytest.fixture(autouse=True)
    def _service(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRANSACTIONLINK_BASE_URL", remote.url)
        monkeypatch.setenv("TRANSACTIONLINK_TOKEN", TOKEN)

    def test_same_key_is_the_same_execution(self, remote: Remote) -> None:
        """A second call with the key goes on with the first one's execution, and says so."""
        first = answer("run", "kyc-approve", "--key", "customer-7")
        again = answer("run", "kyc-approve", "--key", "customer-7")
        assert (first["reattached"], again["reattached"], again["id"]) == (False, True, first["id"])
        assert "was used before" in call("run", "kyc-approve", "--key", "customer-7", "--wait").stderr
        assert len(remote.starts()) == 1
        answer("run", "kyc-approve", "--key", "customer-8")
        assert len(remote.starts()) == 2
        assert "reattached" not in answer("run", "kyc-approve")

    def test_other_parameters_are_refused(self, remote: Remote) -> None:
        """A key that has started something else starts nothing, and nothing of the parameters is told or kept."""
        call("run", "kyc-approve", "--key", "k", "--parameters", "-", stdin=json.dumps(PARAMETERS))
        changed = call("run", "kyc-approve", "--key", "k")
        assert changed.exit_code == code_of_error(RequestChanged)
        assert len(remote.starts()) == 1
        assert FIRST_NAME not in call("ledger", "show", "k").output + changed.output

    def test_unknown_start_is_settled_by_a_person(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lost answer stops every later call until a person says what came of it; then it goes on with that."""
        remote.order("start", "lose")
        assert call("run", "kyc-approve", "--key", "k").exit_code == code_of_error(StartOutcomeUnknown)
        assert call("run", "kyc-approve", "--key", "k").exit_code == code_of_error(StartOutcomeUnknown)
        (lost,) = remote.starts()
        assert call("ledger", "adopt", "k", lost["execution_id"], "--reason", "found it").exit_code == SUCCESS
        assert answer("run", "kyc-approve", "--key", "k")["id"] == lost["execution_id"]
        assert len(remote.starts()) == 1

    def test_lost_start_is_found_by_its_correlation_id(self, remote: Remote, ledger: SqlLedger) -> None:
        """The message and `tl ledger show` name what the service has; what it leads to is adopted and gone on with."""
        remote.order("start", "lose")
        arguments = ("run", "kyc-approve", "--key", "k", "--correlation-parameter", "caseRef")
        refused = call(*arguments)
        assert refused.exit_code == code_of_error(StartOutcomeUnknown)
        (lost,) = remote.starts()
        sought = f"caseRef = {lost['parameters']['caseRef']}"
        shown = call("ledger", "show", "k")
        assert f"Look for {sought} among" in refused.stderr
        assert f"Look for {sought} among" in shown.stderr
        assert f"correlation {sought}\n" in shown.stdout
        assert answer("ledger", "show", "k")["correlation_id"] == lost["parameters"]["caseRef"]
        assert call("ledger", "adopt", "k", lost["execution_id"], "--reason", "found it").exit_code == SUCCESS
        assert answer(*arguments)["id"] == lost["execution_id"]
        assert f"correlation {sought}\n" in call("ledger", "show", "k").stdout

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--correlation-parameter", "caseRef"], "needs --key"),
            (["--key", "k", "--correlation-parameter", ""], "printable text that is not empty"),
        ],
    )
    def test_correlation_parameter_of_no_use_is_refused(
        self, remote: Remote, arguments: list[str], sentence: str
    ) -> None:
        """Without a key nobody would keep the id; without a name there is no parameter."""
        refused = call("run", "kyc-approve", *arguments)
        assert (refused.exit_code, sentence in " ".join(refused.stderr.split())) == (USAGE, True)
        assert remote.starts() == []

    def test_suspects_of_a_restart_are_shown(self, ledger: SqlLedger) -> None:
        """What may run besides can be looked for by its correlation id."""
        wrote(ledger, "k", State.UNKNOWN)
        for number in (1, 2):
            intent = event(
                State.INTENT,
                at=time.time() - HOUR,
                correlation_parameter="caseRef",
                correlation_id=f"tl-{number}",
            )
            ledger.claim("k", intent, ledger.read("k"))
        assert "suspects    tl-1\n" in call("ledger", "show", "k").stdout
        assert answer("ledger", "show", "k")["suspect_correlation_ids"] == ["tl-1"]

    def test_purged_key_is_refused(self, remote: Remote) -> None:
        """A key that was purged starts nothing; the error says to use a new one."""
        call("run", "kyc-approve", "--key", "k")
        remote.advance(5)
        assert call("run", "kyc-approve", "--key", "k", "--wait").exit_code == SUCCESS
        time.sleep(0.01)
        assert answer("ledger", "purge", "--older-than", "0.005s") == {"purged": 1}
        refused = call("run", "kyc-approve", "--key", "k")
        assert (refused.exit_code, "Use a new key" in refused.stderr) == (REFUSED, True)
        assert len(remote.starts()) == 1
