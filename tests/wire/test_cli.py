"""`tl` against a running sandbox: what it prints, what it keeps to itself, and the code it exits with."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tests.planted import DOCUMENT_NUMBER, FIRST_NAME, PARAMETERS, TOKEN, found_in
from tl_orchestration import errors
from tl_orchestration.cli.commands import Tl, tl
from tl_orchestration.cli.durations import duration
from tl_orchestration.cli.outcomes import OUTCOMES, code_of_error, code_of_status
from tl_orchestration.cli.output import json_text, printable
from tl_orchestration.sandbox import SandboxServer, SandboxSettings
from tl_orchestration.sandbox.faults import Fault
from tl_orchestration.sandbox.store import Store
from tl_orchestration.status import Status

ROOT = Path(__file__).parents[2]
NOBODY = "00000000-0000-4000-8000-000000000000"
EXECUTION = {
    "id",
    "status",
    "raw_status",
    "ended",
    "service",
    "workflow_definition_id",
    "name",
    "revision",
    "workspace_id",
    "record_id",
    "expires_at",
}
ERROR = {"type", "message", "execution_id", "status_code", "codes", "fingerprint"}
POLLS = "GET /workflows/{id}"
COMPLETED = {"status": "COMPLETED"}
QUICK = {"duration": 0}
SETTINGS = SandboxSettings(
    tokens=[
        {"value": TOKEN},
        {"value": "tot_sandbox_no_run", "can_run": False},
        {"value": "tot_sandbox_no_view", "can_view": False},
    ],
    definitions={
        "kyc-approve": QUICK,
        "kyc-fail": QUICK,
        "kyc-expire": QUICK,
        "kyc-odd": {**QUICK, "outcome": "IN_LIMBO", "revision": "\x1b[2J"},
    },
)


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(SETTINGS) as server:
        yield server


@pytest.fixture(autouse=True)
def store(server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A sandbox as on its first day, and an environment that names it."""
    for name in list(os.environ):
        if name.startswith("TRANSACTIONLINK_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TRANSACTIONLINK_BASE_URL", server.url)
    monkeypatch.setenv("TRANSACTIONLINK_TOKEN", TOKEN)
    server.store.reset()
    return server.store


def call(*arguments: str, stdin: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(tl, arguments, input=stdin, prog_name="tl")
    assert "Traceback" not in result.output
    return result


def answer(*arguments: str, stdin: str | None = None) -> dict[str, Any]:
    """The one JSON object on stdout, whatever the exit code."""
    document = json.loads(call(*arguments, "--json", stdin=stdin).stdout)
    assert isinstance(document, dict)
    return document


def started(definition: str = "kyc-approve") -> str:
    return str(answer("run", definition)["id"])


@contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tl_orchestration.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(command, env=environment, text=True, **streams) as running:
        try:
            yield running
        finally:
            running.kill()


def eventually(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


@contextmanager
def later(condition: Callable[[], bool], action: Callable[[], object]) -> Iterator[None]:
    """Meanwhile, do something as soon as a condition holds."""

    def act() -> None:
        eventually(condition)
        action()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


class TestRun:
    def test_prints_id_and_status(self, store: Store) -> None:
        """A start prints the id and the status of exactly one new execution, and nothing on stderr."""
        result = call("run", "kyc-slow")
        (start,) = store.starts
        assert result.exit_code == 0
        assert re.search(rf"^execution +{start.execution_id}$", result.stdout, re.MULTILINE)
        assert re.search(r"^status +RUNNING$", result.stdout, re.MULTILINE)
        assert result.stderr == ""

    def test_sends_what_was_asked_for(self, store: Store, tmp_path: Path) -> None:
        """Parameters, locale, expiry and record reach the service."""
        file = tmp_path / "parameters.json"
        file.write_text(json.dumps({"firstName": "Зоя"}), encoding="utf-8")
        options = ("--locale", "uk", "--expires-in", "2h", "--record-id", NOBODY)
        assert call("run", "kyc-approve", "--parameters", str(file), *options).exit_code == 0
        (start,) = store.starts
        assert (start.parameters, start.locale, start.record_id) == ({"firstName": "Зоя"}, "uk", NOBODY)
        assert start.expires_at is not None
        assert abs(start.expires_at - start.time - 7200) < 5

    def test_reads_parameters_from_standard_input(self, store: Store) -> None:
        """A dash reads the parameters from standard input, as UTF-8, with a byte order mark or without."""
        assert call("run", "kyc-approve", "--parameters", "-", stdin='\ufeff{"firstName": "Зоя"}').exit_code == 0
        assert store.starts[0].parameters == {"firstName": "Зоя"}

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("{NAME", "line 1, column 2"),
            ('["NAME"]', "JSON object"),
            ('{"a": "NAME", "a": 1}', "duplicate keys"),
            ('{"a": "NAME", "b": NaN}', "NaN"),
            (b'{"a": "NAME\xff"}', "is not UTF-8"),
        ],
    )
    def test_refuses_parameters_that_are_no_object(self, store: Store, content: str | bytes, reason: str) -> None:
        """Parameters that are not one JSON object are refused with the place or reason, never with a value."""
        result = call("run", "kyc-approve", "--parameters", "-", stdin=content)
        assert (result.exit_code, store.starts) == (2, [])
        assert reason in result.stderr
        assert "NAME" not in result.stderr

    @pytest.mark.parametrize("source", [f'{{"firstName": "{FIRST_NAME}"}}', f"/nowhere/{FIRST_NAME}.json"])
    def test_does_not_repeat_a_wrong_source(self, store: Store, source: str) -> None:
        """What was given instead of a readable file may be a value, and is not repeated."""
        result = call("run", "kyc-approve", "--parameters", source)
        assert (result.exit_code, store.starts) == (2, [])
        assert ("arguments" if source.startswith("{") else "cannot be read") in result.stderr
        assert FIRST_NAME not in result.output

    def test_prints_the_link_of_an_interactive_execution(self, store: Store) -> None:
        """The link goes to stdout, because nobody else will ever get it."""
        result = call("run", "kyc-review")
        token = store.executions[0].token
        assert token is not None
        assert re.search(rf"^link +http://\S+{token}$", result.stdout, re.MULTILINE)
        assert "link" in result.stderr
        assert token not in result.stderr

    def test_prints_the_link_before_it_waits(self, store: Store) -> None:
        """A wait for a person begins after the link was printed."""
        with process("run", "kyc-review", "--wait") as running:
            assert running.stdout is not None
            lines = [running.stdout.readline() for _ in range(4)]
            token = store.executions[0].token
            assert token is not None
            assert lines[-1].startswith("link ")
            assert token in lines[-1]
            store.decide(token, "approve")
            rest, _ = running.communicate(timeout=60)
        assert rest == "status      SUCCEEDED (COMPLETED)\n"
        assert running.returncode == 0

    def test_json_shows_the_link_only_when_asked(self, store: Store) -> None:
        """With --json the link is left out, with a hint, unless --show-link is given."""
        hidden, shown = call("run", "kyc-review", "--json"), call("run", "kyc-review", "--json", "--show-link")
        tokens = [str(execution.token) for execution in store.executions]
        assert set(json.loads(hidden.stdout)) == EXECUTION | {"interactive"}
        assert tokens[0] not in hidden.output
        assert "--show-link" in hidden.stderr
        assert json.loads(shown.stdout)["link"].endswith(tokens[1])
        assert shown.stderr == ""

    def test_json_with_show_link_tells_the_link_before_it_waits(self, store: Store) -> None:
        """The object comes when the wait is over, so the link that it waits for goes to stderr before."""
        store.define("kyc-review", {"duration": None})
        result = call("run", "kyc-review", "--json", "--show-link", "--wait", "--timeout", "0.2")
        assert f"{store.executions[0].token}\n" in result.stderr
        assert set(json.loads(result.stdout)) == {"error"}

    def test_deadline_cancels_unless_told_otherwise(self, store: Store) -> None:
        """At the timeout of its wait, a run cancels what it started, or leaves it with --no-cancel-on-timeout."""
        assert call("run", "kyc-slow", "--wait", "--timeout", "0.2s").exit_code == 20
        assert call("run", "kyc-slow", "--wait", "--timeout", "0.2s", "--no-cancel-on-timeout").exit_code == 20
        assert [execution.ended for execution in store.executions] == ["CANCELLED", None]

    def test_timeout_without_wait_is_refused(self, store: Store) -> None:
        """A timeout that nobody would watch is not accepted in silence."""
        result = call("run", "kyc-slow", "--timeout", "10m")
        assert (result.exit_code, store.starts) == (2, [])
        assert "--wait" in result.stderr


class TestOtherCommands:
    def test_poll_asks_once(self, store: Store) -> None:
        """A poll of a running execution is one request, prints its status and exits 0."""
        execution_id = started("kyc-slow")
        result = call("poll", execution_id)
        assert result.exit_code == 0
        assert "RUNNING" in result.stdout
        assert store.requests[POLLS] == 1

    def test_poll_does_not_know_every_status(self) -> None:
        """An unknown status is said to be unknown, and cannot steer the terminal."""
        result = call("poll", started("kyc-odd"))
        assert result.exit_code == 0
        assert "UNKNOWN (IN_LIMBO)" in result.stdout
        assert "(revision ?[2J)" in result.stdout
        assert "cannot be told" in result.stderr
        assert "\x1b" not in result.output

    def test_poll_keeps_the_link_to_itself(self, store: Store) -> None:
        """A status answer may repeat the link; a poll does not."""
        execution_id = started("kyc-review")
        result = call("poll", execution_id)
        assert result.exit_code == 0
        assert str(store.executions[0].token) not in result.output + json.dumps(answer("poll", execution_id))

    def test_wait_reports_each_change_once(self, store: Store) -> None:
        """Off a terminal a wait writes one plain line per change to stderr, and only the answer to stdout."""
        execution_id = started("kyc-slow")
        with later(lambda: store.requests.get(POLLS, 0) > 0, lambda: store.force(execution_id, COMPLETED)):
            result = call("wait", execution_id)
        assert result.exit_code == 0
        assert result.stderr.splitlines() == [
            f"Execution {execution_id} is RUNNING.",
            f"Execution {execution_id} is SUCCEEDED (COMPLETED).",
        ]
        assert result.stdout.splitlines()[-1] == "status      SUCCEEDED (COMPLETED)"

    def test_wait_cancels_only_when_asked(self, store: Store) -> None:
        """The deadline of a wait leaves the execution running, unless --cancel-on-timeout is given."""
        execution_id = started("kyc-slow")
        assert call("wait", execution_id, "--timeout", "0.2").exit_code == 20
        assert store.cancels == []
        assert call("wait", execution_id, "--timeout", "0.2", "--cancel-on-timeout").exit_code == 20
        assert store.executions[0].ended == "CANCELLED"

    def test_result_prints_the_document(self) -> None:
        """A result is indented for people and one line with --json; both are the same object."""
        execution_id = str(
            answer("run", "kyc-reject", "--parameters", "-", "--wait", stdin='{"firstName": "Зоя"}')["id"]
        )
        plain, machine = call("result", execution_id), call("result", execution_id, "--json")
        assert json.loads(plain.stdout) == json.loads(machine.stdout)
        assert json.loads(plain.stdout)["customer"] == {"firstName": "Зоя"}
        assert "Зоя" in plain.stdout
        assert machine.stdout.count("\n") == 1

    def test_result_goes_to_a_private_file(self, tmp_path: Path) -> None:
        """With --output nothing of the result is printed, and a new file belongs to its owner alone."""
        execution_id, file = started(), tmp_path / "result.json"
        result = call("result", execution_id, "--output", str(file))
        assert (result.exit_code, result.stdout) == (0, "")
        assert json.loads(file.read_text())["decision"] == "approve"
        assert file.stat().st_mode & 0o777 == 0o600
        assert answer("result", execution_id, "--output", str(file))["size"] == file.stat().st_size

    def test_cancel_prints_how_it_stands(self, store: Store) -> None:
        """A cancel ends a running execution, and leaves an ended one as it is; both exit 0."""
        running, ended = started("kyc-slow"), started()
        first, second = call("cancel", running), call("cancel", ended)
        assert (first.exit_code, second.exit_code) == (0, 0)
        assert "CANCELLED" in first.stdout
        assert "SUCCEEDED" in second.stdout
        assert [execution.ended for execution in store.executions] == ["CANCELLED", None]

    @pytest.mark.parametrize("command", ["poll", "wait", "cancel"])
    def test_json_is_one_object(self, command: str) -> None:
        """With --json an execution is one object with the documented members."""
        document = answer(command, started())
        assert set(document) == EXECUTION
        assert (document["status"], document["raw_status"], document["ended"]) == ("SUCCEEDED", "COMPLETED", True)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", document["expires_at"])


REFUSED_NOW = {"kind": "status", "headers": {"Retry-After": "3600"}}


class TestExitCodes:
    @pytest.mark.parametrize(("definition", "code"), [("kyc-approve", 0), ("kyc-fail", 10), ("kyc-expire", 12)])
    def test_endings(self, definition: str, code: int) -> None:
        """`run --wait`, `wait` and `poll` of an ended execution exit by its ending."""
        assert call("run", definition, "--wait").exit_code == code
        execution_id = started(definition)
        assert [call(command, execution_id).exit_code for command in ("wait", "poll")] == [code, code]

    def test_cancelled(self) -> None:
        """A cancelled execution has its own code, for whoever waits for it."""
        execution_id = started("kyc-slow")
        assert call("cancel", execution_id).exit_code == 0
        assert call("wait", execution_id).exit_code == 11

    @pytest.mark.parametrize(
        ("arguments", "fault", "code"),
        [
            (["run", "kyc-none"], None, 32),
            (["run", "no spaces"], None, 33),
            (["run", "kyc-approve", "--expires-in", "5m"], None, 33),
            (["run", "kyc-approve"], {"on": "start", "kind": "status", "status": 400}, 33),
            (["run", "kyc-approve"], {"on": "start", "kind": "lose"}, 21),
            (["run", "kyc-approve"], {"on": "start", "kind": "status", "status": 500}, 21),
            (["run", "kyc-approve"], {"on": "start", "status": 429, **REFUSED_NOW}, 34),
            (["poll", NOBODY], None, 32),
            (["poll", NOBODY], {"on": "status", "status": 503, **REFUSED_NOW}, 35),
            (["poll", NOBODY], {"on": "status", "kind": "status", "status": 200, "body": "<html>"}, 35),
            (["result", "SLOW"], None, 36),
            (["result", "FAILED"], None, 32),
            (["poll", NOBODY, "--token-file", "/nowhere"], None, 2),
            (["poll", NOBODY, "--base-url", "https://example.com"], None, 2),
            (["poll", NOBODY, "--service", "unheard-of"], None, 2),
            (["poll"], None, 2),
            (["poll", NOBODY, FIRST_NAME], None, 2),
            (["dance"], None, 2),
        ],
    )
    def test_errors(self, store: Store, arguments: list[str], fault: dict[str, Any] | None, code: int) -> None:
        """Each error has its code, is one sentence on stderr, and one object with --json."""
        ids = {"SLOW": started("kyc-slow"), "FAILED": started("kyc-fail")}
        arguments = [ids.get(argument, argument) for argument in arguments]
        store.faults.add(*[Fault(times=2, **fault)] if fault else [])
        plain, machine = call(*arguments), call(*arguments, "--json")
        assert (plain.exit_code, machine.exit_code) == (code, code)
        assert (plain.stdout, plain.stderr.count("\n")) == ("", 1)
        error = json.loads(machine.stdout)["error"]
        assert set(error) == ERROR
        assert f"Error: {error['message']}\n" in machine.stderr
        assert FIRST_NAME not in plain.output + machine.output

    @pytest.mark.parametrize(("token", "code"), [("tot_wrong", 30), ("tot_sandbox_no_run", 31)])
    def test_refused_tokens(self, monkeypatch: pytest.MonkeyPatch, token: str, code: int) -> None:
        """A token that is not accepted and one that may not start are told apart; neither is repeated."""
        monkeypatch.setenv("TRANSACTIONLINK_TOKEN", token)
        error = answer("run", "kyc-approve")["error"]
        assert call("run", "kyc-approve").exit_code == code
        assert (error["status_code"], error["fingerprint"]) == ({30: 401, 31: 403}[code], error["fingerprint"])
        assert error["codes"][0].startswith("SANDBOX_")
        assert token not in json.dumps(error)

    def test_errors_name_the_execution(self) -> None:
        """Also where nobody answers, the error says which execution it is about."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        error = answer("poll", NOBODY, "--base-url", f"http://127.0.0.1:{port}")["error"]
        assert (error["type"], error["execution_id"]) == ("NoAnswer", NOBODY)
        assert NOBODY in error["message"]

    def test_unexpected_errors_say_where_and_not_what(self) -> None:
        """An error of another kind exits 1, without a traceback and without its own text, which may quote anything."""

        @click.command()
        def broken() -> None:
            raise RuntimeError(FIRST_NAME)

        result = CliRunner().invoke(Tl(commands={"broken": broken}), ["broken", "--json"])
        assert result.exit_code == 2  # the option is not known
        result = CliRunner().invoke(Tl(commands={"broken": broken}), ["broken"])
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: Unexpected RuntimeError at ")
        assert FIRST_NAME not in result.stderr

    def test_every_error_and_ending_has_a_code(self) -> None:
        """The table covers the whole tree of errors and every status, each code once."""
        codes = [outcome.code for outcome in OUTCOMES]
        assert sorted(set(codes)) == codes
        assert {code_of_error(getattr(errors, name)) for name in errors.__all__} <= set(codes) - {0}
        assert code_of_error(errors.NoResult) == 32
        assert {status for status in Status if code_of_status(status)} == {
            Status.FAILED,
            Status.CANCELLED,
            Status.EXPIRED,
            Status.PARTIAL,
        }

    def test_reference_and_help_print_the_table(self) -> None:
        """The table in the reference and the one in the help are the one in the code."""
        reference = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| (\d+) \| (.+?) \|$", reference, re.MULTILINE)
        assert rows == [(str(outcome.code), outcome.meaning) for outcome in OUTCOMES]
        shown = call("--help").stdout
        assert [f"{outcome.code:>3}  {outcome.meaning}\n" in shown for outcome in OUTCOMES] == [True] * len(OUTCOMES)

    def test_help_and_version(self) -> None:
        """Without a command the help is shown; --version is one line."""
        assert call().stdout == call("--help").stdout
        assert [call(*arguments).exit_code for arguments in ((), ("-h",), ("run", "-h"), ("--version",))] == [0] * 4
        assert call("--version").stdout.count("\n") == 1

    def test_reference_names_every_option(self) -> None:
        """Every option of every command is in the reference."""
        reference = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
        options = {
            option
            for command in tl.commands.values()
            for parameter in command.params
            for option in [*parameter.opts, *parameter.secondary_opts]
            if option.startswith("--")
        }
        assert {option for option in options if f"`{option}" not in reference} == set()
        assert {name for name in tl.commands if f"tl {name}" not in reference} == set()


class TestSettings:
    def test_a_missing_token_names_both_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a token nothing is sent, and one sentence names the two variables; an empty one is none."""
        monkeypatch.setenv("TRANSACTIONLINK_TOKEN", "")
        result = call("run", "kyc-approve")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert {"TRANSACTIONLINK_TOKEN,", "TRANSACTIONLINK_TOKEN_FILE"} <= set(result.stderr.split())

    def test_a_token_from_a_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A file holds the token; the option wins over the environment; two variables at once are refused."""
        file = tmp_path / "token"
        file.write_text(f"{TOKEN}\n")
        monkeypatch.setenv("TRANSACTIONLINK_TOKEN_FILE", str(file))
        assert call("run", "kyc-approve").exit_code == 2
        monkeypatch.delenv("TRANSACTIONLINK_TOKEN")
        assert call("run", "kyc-approve").exit_code == 0
        monkeypatch.setenv("TRANSACTIONLINK_TOKEN", "tot_wrong")
        assert call("run", "kyc-approve", "--token-file", str(file)).exit_code == 0

    def test_no_option_takes_a_token(self) -> None:
        """A token has no option, and one that is given all the same is not repeated."""
        for arguments in (["--token", TOKEN], [f"--token={TOKEN}"], ["--token-file", TOKEN]):
            result = call("run", "kyc-approve", *arguments)
            assert result.exit_code == 2
            assert TOKEN not in result.output

    def test_the_base_url_option_wins(self, server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """An option wins over its variable."""
        monkeypatch.setenv("TRANSACTIONLINK_BASE_URL", "https://example.com")
        assert call("run", "kyc-approve").exit_code == 2
        assert call("run", "kyc-approve", "--base-url", server.url).exit_code == 0

    @pytest.mark.parametrize(
        "proxy", ["socks5://u:hunter2@proxy.example:1080", "ftp://u:hunter2@proxy.example", "http://u:hunter2@[::1"]
    )
    def test_a_wrong_proxy_is_a_setting(self, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
        """A proxy that is no URL is refused as a setting, without its password."""
        monkeypatch.setenv("TRANSACTIONLINK_PROXY", proxy)
        result = call("run", "kyc-approve")
        assert result.exit_code == 2
        assert "TRANSACTIONLINK_PROXY" in result.stderr
        assert "hunter2" not in result.output

    @pytest.mark.parametrize("name", ["CA_BUNDLE", "CLIENT_CERT"])
    def test_wrong_certificate_files_are_settings(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """A certificate file that cannot be loaded is refused before anything is sent."""
        monkeypatch.setenv(f"TRANSACTIONLINK_{name}", "/nowhere.pem")
        assert call("run", "kyc-approve").exit_code == 2

    @pytest.mark.parametrize(
        ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1.5", 1.5)]
    )
    def test_durations(self, text: str, seconds: float) -> None:
        """A duration has a unit, or is plain seconds."""
        assert duration(text) == seconds

    @pytest.mark.parametrize("text", ["", "0", "-1", "5w", "m", "1e9", "inf", "10 m", "٣"])
    def test_wrong_durations(self, text: str) -> None:
        """What is no duration above zero is wrong usage."""
        assert call("wait", NOBODY, "--timeout", text).exit_code == 2


class TestSecrecy:
    def test_nothing_that_is_secret_is_printed(self, store: Store) -> None:
        """Token, parameter values and link token stay out of every output, also with --verbose and in errors."""
        parameters = json.dumps(PARAMETERS)
        echo = {"errors": [{"code": "BAD", "message": f"{FIRST_NAME} {DOCUMENT_NUMBER} is wrong"}], "fingerprint": "f1"}
        told: dict[str, Any] = {"kind": "status", "body": json.dumps(echo), "content_type": "application/json"}
        store.faults.add(*(Fault(on="start", status=status, **told) for status in (400, 500, 403)))
        run = ("run", "kyc-review", "--parameters", "-", "--verbose", "--json")
        outputs = [call(*run, stdin=parameters).output for _ in range(4)]
        execution = store.executions[0]
        assert execution.parameters == PARAMETERS
        outputs.append(call(*run, "--wait", "--timeout", "0.2", stdin=parameters).output)
        for command in (["poll"], ["wait", "--timeout", "0.2"], ["result"], ["cancel"], ["wait"]):
            outputs += [call("--verbose", *command, execution.id).output, call(*command, "-v", execution.id).output]
        outputs.append(call("doctor", "--verbose").output)
        everything = "\n".join(outputs)
        assert "info: Execution" in everything
        assert found_in(everything) == []
        assert [one.id for one in store.executions if str(one.token) in everything] == []

    def test_verbose_adds_the_log_and_nothing_else(self) -> None:
        """--verbose changes stderr alone."""
        execution_id = started()
        quiet, verbose = call("wait", execution_id), call("wait", execution_id, "--verbose")
        assert quiet.stdout == verbose.stdout
        assert "info: " in verbose.stderr
        assert "info: " not in quiet.stderr

    def test_text_cannot_steer_a_terminal(self) -> None:
        """Control characters are replaced in text, and escaped in JSON, where ordinary letters stay readable."""
        assert printable("a\x1b[2J\u202eb\nЗ") == "a?[2J?b?З"
        text = json_text({"a": "\x9b\u202e\ud800З\U000e0001"})
        assert text == '{"a": "\\u009b\\u202e\\ud800З\\udb40\\udc01"}'
        assert json_text({"a": "З"}, encoding="latin-1") == '{"a": "\\u0417"}'


class TestProcess:
    def test_interrupting_a_wait_leaves_the_execution(self, store: Store) -> None:
        """Ctrl-C ends the wait with 130, names the execution and how to cancel it, and cancels nothing."""
        with process("run", "kyc-slow", "--wait") as running:
            assert running.stderr is not None
            assert "RUNNING" in running.stderr.readline()
            running.send_signal(signal.SIGINT)
            stdout, stderr = running.communicate(timeout=60)
        (execution,) = store.executions
        assert running.returncode == 130
        assert stdout.startswith(f"execution   {execution.id}\n")
        assert f"`tl cancel {execution.id}`" in stderr
        assert stderr.count("\n") == 1
        assert (store.cancels, execution.ended) == ([], None)

    def test_a_termination_signal_is_no_decision_to_cancel(self, store: Store) -> None:
        """SIGTERM ends a wait as Ctrl-C does, with one JSON object where that was asked for."""
        execution_id = started("kyc-slow")
        with process("wait", execution_id, "--json") as running:
            assert running.stderr is not None
            running.stderr.readline()
            running.terminate()
            stdout, _ = running.communicate(timeout=60)
        assert running.returncode == 130
        error = json.loads(stdout)["error"]
        assert (error["type"], error["execution_id"]) == ("WaitInterrupted", execution_id)
        assert store.cancels == []

    def test_interrupting_a_start_does_not_lose_its_id(self, store: Store, let_go: threading.Event) -> None:
        """Ctrl-C during a start waits for the answer, prints it, and exits 130."""
        store.faults.add(Fault(on="start", kind="hold", seconds=25))
        with process("run", "kyc-slow") as running:
            assert running.stderr is not None
            eventually(lambda: len(store.starts) == 1)
            running.send_signal(signal.SIGINT)
            assert "waiting for the answer" in running.stderr.readline()
            let_go.set()
            stdout, _ = running.communicate(timeout=60)
        assert running.returncode == 130
        assert stdout.startswith(f"execution   {store.executions[0].id}\n")

    def test_giving_up_a_start_says_that_its_fate_is_unknown(self, store: Store) -> None:
        """A second Ctrl-C during a start exits as a start of unknown fate."""
        store.faults.add(Fault(on="start", kind="hold", seconds=20))
        with process("run", "kyc-slow") as running:
            eventually(lambda: len(store.starts) == 1)
            running.send_signal(signal.SIGINT)
            assert running.stderr is not None
            running.stderr.readline()
            running.send_signal(signal.SIGINT)
            stdout, stderr = running.communicate(timeout=60)
        assert (running.returncode, stdout) == (21, "")
        assert "may or may not have started" in stderr

    def test_a_terminal_gets_a_live_line(self, store: Store) -> None:
        """On a terminal one line shows status, elapsed time and the next poll, and is gone at the end."""
        execution_id = started("kyc-slow")
        ours, theirs = pty.openpty()
        shown = b""
        with process("wait", execution_id, "--timeout", "90s", stderr=theirs) as running:
            os.close(theirs)
            with suppress(OSError):  # how a terminal says that the other end is closed
                while chunk := os.read(ours, 4096):
                    shown += chunk
                    if re.search(rb"RUNNING  \d:\d\d elapsed  next poll in \ds", shown):
                        store.force(execution_id, COMPLETED)
            stdout, _ = running.communicate(timeout=60)
        os.close(ours)
        assert running.returncode == 0
        assert shown.endswith(b"\x1b[2K")
        assert stdout.endswith("status      SUCCEEDED (COMPLETED)\n")

    @pytest.mark.parametrize(
        ("module", "extra", "arguments"),
        [("click", "cli", ["--help"]), ("rich", "cli", ["--help"]), ("starlette", "sandbox", ["sandbox"])],
    )
    def test_a_missing_extra_is_one_line(self, module: str, extra: str, arguments: list[str]) -> None:
        """Without an extra the package still imports, and the command says what to install and exits 2."""
        program = (
            f"import sys; sys.modules[{module!r}] = None; import tl_orchestration.cli as cli;"
            f" sys.argv = ['tl', *{arguments!r}]; cli.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
        )
        line = f"tl needs an extra: pip install 'tl-orchestration[{extra}]'\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", line)

    def test_the_sandbox_serves_until_it_is_stopped(self, tmp_path: Path) -> None:
        """`tl sandbox` takes a file of settings, says where it listens and what to set, and ends by Ctrl-C with 0."""
        config = tmp_path / "sandbox.toml"
        config.write_text('[definitions.kyc-mine]\nlike = "kyc-approve"\nduration = 0\n')
        with socket.socket() as holder, ExitStack() as stack:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))  # so that nobody else gets the port
            port = str(holder.getsockname()[1])
            running = stack.enter_context(process("sandbox", "--port", port, "--config", str(config)))
            assert running.stderr is not None
            hint, listening = running.stderr.readline(), running.stderr.readline()
            url = f"http://127.0.0.1:{port}"
            assert hint.endswith(f"export TRANSACTIONLINK_BASE_URL={url} TRANSACTIONLINK_TOKEN=tot_sandbox\n")
            assert url in listening
            token = tmp_path / "token"
            token.write_text("tot_sandbox")
            mine = ("run", "kyc-mine", "--wait", "--base-url", url, "--token-file", str(token))
            assert call(*mine).exit_code == 0
            assert call("sandbox", "--port", port).exit_code == 2
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0

    def test_a_wrong_sandbox_file_is_one_sentence(self, tmp_path: Path) -> None:
        """A file that is no setting of a sandbox is wrong usage."""
        config = tmp_path / "sandbox.toml"
        config.write_text("speed = 3\n")
        result = call("sandbox", "--config", str(config))
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert "speed" in result.stderr
