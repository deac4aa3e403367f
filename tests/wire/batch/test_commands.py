"""
``tl batch``: what each command prints, sends and keeps, and the code it exits with.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, text

from tests.remote import TOKEN
from tests.wire.batch.campaigns import Scene, records, write
from tl_orchestration.batch import Limits
from tl_orchestration.batch.jsonl import JsonLines
from tl_orchestration.batch.sources import Portion
from tl_orchestration.cli.commands import tl
from tl_orchestration.errors import LedgerError

ROOT = Path(__file__).parents[3]
MAPPING = ("--definition", "kyc-approve", "--key-column", "id", "--parameter", "firstName=first:text")
SUMMARY = {
    "campaign",
    "outcome",
    "rows",
    "counts",
    "in_flight",
    "unknown",
    "failed",
    "unkept",
    "unread",
    "started_here",
    "requests",
    "polls_p95",
    "load",
    "stop",
    "breaker_open",
    "output",
}


@pytest.fixture(autouse=True)
def environment(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The scene's service and store, and nothing else.
    """
    for name in list(os.environ):
        if name.startswith("TRANSACTIONLINK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TRANSACTIONLINK_BASE_URL", scene.remote.url)
    monkeypatch.setenv("TRANSACTIONLINK_TOKEN", TOKEN)
    monkeypatch.setenv("TRANSACTIONLINK_LEDGER_URL", scene.store)


def call(*arguments: str) -> Result:
    """
    What ``tl batch`` answers in this process.
    """
    result = CliRunner().invoke(tl, ["batch", *arguments], prog_name="tl")
    assert "Traceback" not in result.output
    assert TOKEN not in result.output
    return result


def answer(*arguments: str, code: int = 0) -> dict[str, Any]:
    """
    The one JSON object on stdout.
    """
    result = call(*arguments, "--json")
    assert result.exit_code == code, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def book(scene: Scene, count: int) -> str:
    """
    A file of so many customers.
    """
    return str(write(scene.folder / "in.jsonl", records(count)))


def run(scene: Scene, file: str, *more: str, definition: str = "kyc-approve") -> tuple[str, ...]:
    """
    The arguments that run a book.
    """
    mapping = ("--definition", definition, *MAPPING[2:])
    return ("run", "w47", file, *mapping, "--output", str(scene.output), *more)


def test_a_run_keeps_the_results_and_exits_with_0(scene: Scene) -> None:
    """As JSON the summary is the only thing on stdout; what was read is told on stderr, and no value of a customer."""
    result = call(*run(scene, book(scene, 3), "--json"))
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert set(summary) == SUMMARY
    assert (summary["outcome"], summary["counts"], summary["started_here"]) == ("FINISHED", {"SUCCEEDED": 3}, 3)
    assert summary["output"] == str(scene.output / "w47")
    assert result.stderr.startswith("3 rows read, 3 can be run.\n")
    assert "Ada" not in result.output
    assert {line["key"] for line in scene.lines()} == {one["id"] for one in records(3)}


def test_a_run_prints_how_the_campaign_stands(scene: Scene) -> None:
    """Without a terminal the progress is a line now and then on stderr; a second run starts nothing."""
    file = book(scene, 3)
    first = call(*run(scene, file))
    assert first.exit_code == 0
    rows = dict(line.split(None, 1) for line in first.stdout.splitlines())
    assert (rows["campaign"], rows["outcome"], rows["succeeded"]) == ("w47", "finished", "3")
    assert any(line.endswith("rows/s") and "PENDING" in line for line in first.stderr.splitlines())
    second = call(*run(scene, file))
    assert second.exit_code == 0
    assert "The source is loaded already, and has not changed." in second.stderr
    assert "nothing to start" in second.stdout
    assert len(scene.remote.starts()) == 3
    again = call(*run(scene, file, "--reload"))
    assert "3 rows read, 3 can be run." in again.stderr
    assert len(scene.remote.starts()) == 3


def test_a_terminal_shows_a_table_that_is_gone_at_the_end(scene: Scene) -> None:
    """States and rate are drawn on stderr while it runs; stdout has the summary alone."""
    scene.remote.define("kyc-approve", duration=None)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tl_orchestration.cli", "batch", *run(scene, book(scene, 2))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    shown = b""
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=theirs) as running:
        try:
            os.close(theirs)
            with suppress(OSError):  # how a terminal says that the other end is closed
                while chunk := os.read(ours, 4096):
                    shown += chunk
                    if b"rows/s" in shown and len(scene.remote.starts()) == 2:
                        scene.end()
            stdout, _ = running.communicate(timeout=30)
        finally:
            running.kill()
    os.close(ours)
    assert running.returncode == 0
    assert b"rate" in shown
    assert b"rows/s" in shown
    assert b"\x1b[2K" in shown
    assert "rows/s" not in stdout
    assert "succeeded   2\n" in stdout


@pytest.mark.parametrize(
    ("on", "code", "said"),
    [
        ("FAILED", 40, ""),
        ("UNKNOWN", 21, "1 rows may or may not have started"),
        ("RESULT_MISSING", 40, "--state RESULT_MISSING"),
    ],
)
def test_what_the_rows_have_come_to_is_the_exit_code(scene: Scene, on: str, code: int, said: str) -> None:
    """40: without success, or without a result; 21: of unknown fate. `tl batch status` says the same."""
    definition = "kyc-approve"
    if on == "FAILED":
        definition = "kyc-fail"
        scene.remote.define(definition, duration=0.1)
    elif on == "UNKNOWN":
        scene.remote.order("start", "lose")
    else:
        scene.remote.order("result", "status", status=404)
    ran = call(*run(scene, book(scene, 1), definition=definition))
    assert (ran.exit_code, said in ran.stderr) == (code, True)
    status = call("status", "w47", "--json")
    assert (status.exit_code, said in status.stderr) == (code, True)
    assert json.loads(status.stdout)["counts"] == {on: 1}


def test_a_campaign_that_does_not_exist_is_said_to_be_none(scene: Scene) -> None:
    """Nothing is sent, and the code is that of wrong usage."""
    for command in ("status", "cancel", "retry", "export", "purge"):
        result = call(command, "w47")
        assert result.exit_code != 0
        assert result.stdout == ""
    scene.batch(scene.book(Path(book(scene, 1)))).load()
    for command in ("status", "cancel", "retry", "export", "purge"):
        result = call(command, "w48")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "w48" in result.stderr


def test_a_dry_run_sends_and_keeps_nothing(scene: Scene) -> None:
    """It says what cannot be run, without a value, and needs no store that exists."""
    lines = [{"id": "a", "first": "Secret"}, {"id": "b"}]
    result = call(*run(scene, str(write(scene.folder / "in.jsonl", lines)), "--dry-run", "--json"))
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["read"], report["accepted"], report["rejected"]) == (2, 1, 1)
    assert "1 rows cannot be run." in result.stderr
    assert "  row 2, key b, column first: " in result.stderr
    assert "Secret" not in result.output
    assert scene.remote.starts() == []
    assert not scene.output.exists()
    assert call("status", "w47").exit_code == 2


def test_rows_that_changed_after_their_start_are_named(scene: Scene) -> None:
    """Some on stderr, all in the file that it names; without a value."""
    file = book(scene, 2)
    call(*run(scene, file))
    write(Path(file), [{"id": f"c{number:05}", "first": "Secret"} for number in range(2)])
    result = call(*run(scene, file))
    assert "2 rows changed after they had started.\n" in result.stderr
    assert "  row 1, key c00000: changed after it had started\n" in result.stderr
    assert "All of these are in rejects-002-000.jsonl, beside the results.\n" in result.stderr
    assert "Secret" not in result.output


@pytest.mark.parametrize("lines", [[{"id": "a"}], [{"id": "a", "first": "Ada"}, {"id": "a", "first": "Secret"}]])
def test_a_book_of_which_no_row_can_be_run_exits_with_42(scene: Scene, lines: list[dict[str, str]]) -> None:
    """Rejected or ambiguous: dry, first, repeated and looked at. An empty book ends well."""
    file = str(write(scene.folder / "in.jsonl", lines))
    status = ("status", "w47")
    for command in (run(scene, file, "--dry-run"), run(scene, file), run(scene, file), status):
        result = call(*command)
        assert (result.exit_code, f"none of the {len(lines)} rows" in result.stderr) == (42, True)
        assert "Secret" not in result.output
    assert "out/w47/rejects-001-000.jsonl" in result.stderr
    assert scene.remote.starts() == []
    assert answer(*run(scene, str(write(scene.folder / "in.jsonl", []))))["outcome"] == "NOTHING_TO_START"


def test_a_strict_run_starts_nothing_where_a_row_is_bad(scene: Scene) -> None:
    """One sentence says so; without the option the others run."""
    file = str(write(scene.folder / "in.jsonl", [{"id": "a", "first": "Ada"}, {"id": "b"}]))
    strict = call(*run(scene, file, "--strict"))
    assert (strict.exit_code, strict.stdout) == (33, "")
    assert "nothing is started" in strict.stderr
    assert scene.remote.starts() == []
    assert call(*run(scene, file)).exit_code == 0
    assert len(scene.remote.starts()) == 1


def test_a_canary_leaves_rows_and_exits_with_41(scene: Scene) -> None:
    """The next run goes on with the rest."""
    file = book(scene, 5)
    stopped = answer(*run(scene, file, "--canary", "2"), code=41)
    assert (stopped["outcome"], stopped["counts"]) == ("STOPPED", {"SUCCEEDED": 2, "PENDING": 3})
    assert answer("status", "w47", code=41)["outcome"] is None
    assert answer(*run(scene, file, "--max-starts", "3"), code=41)["counts"] == {"SUCCEEDED": 3, "PENDING": 2}
    assert answer(*run(scene, file))["counts"] == {"SUCCEEDED": 5}
    assert len(scene.remote.starts()) == 5


@pytest.fixture
def in_flight(scene: Scene) -> str:
    """
    The book of a campaign of three rows, two of them in flight, whose worker shard-0 has gone.
    """
    scene.remote.define("kyc-approve", duration=None)
    file = book(scene, 3)
    batch = scene.batch(scene.book(Path(file)), limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    batch.run(at_cap="return")
    return file


def test_a_cancel_ends_what_is_in_flight_until_it_is_taken_back(scene: Scene, in_flight: str) -> None:
    """A run sees to the ends and leaves the rest; only --resume starts it."""
    cancelled = call("cancel", "w47")
    assert (cancelled.exit_code, cancelled.stdout) == (0, "")
    assert "2 cancels were accepted" in cancelled.stderr
    assert len(scene.remote.cancels()) == 2
    assert answer("cancel", "w47") == {"campaign": "w47", "cancelled": 2, "drain": False}
    scene.remote.define("kyc-approve", duration=0.1)
    seen_to = answer(*run(scene, in_flight, "--worker", "shard-0"), code=40)
    assert (seen_to["outcome"], seen_to["counts"]) == ("CANCELLED", {"CANCELLED": 2, "PENDING": 1})
    resumed = answer(*run(scene, in_flight, "--worker", "shard-0", "--resume"), code=40)
    assert resumed["counts"] == {"CANCELLED": 2, "SUCCEEDED": 1}


def test_a_cancelled_campaign_is_seen_to_without_its_book(scene: Scene, in_flight: str) -> None:
    """The run warns that it is gone, and does not say that it has not changed."""
    Path(in_flight).unlink()
    assert "could not be read (FileNotFoundError)" in call(*run(scene, in_flight)).stderr
    call("cancel", "w47")
    seen_to = call(*run(scene, in_flight, "--worker", "shard-0", "--json"))
    assert (seen_to.exit_code, json.loads(seen_to.stdout)["counts"]) == (40, {"CANCELLED": 2, "PENDING": 1})
    assert "The source of campaign w47 is not there any more." in seen_to.stderr
    assert "has not changed" not in seen_to.stderr
    resumed = call(*run(scene, in_flight, "--worker", "shard-0", "--resume"))
    assert (resumed.exit_code, "leave --resume away" in resumed.stderr) == (2, True)
    assert answer(*run(scene, in_flight, "--worker", "shard-0"), code=40)["outcome"] == "CANCELLED"
    assert answer("purge", "w47") == {"campaign": "w47", "purged": 3}


def test_a_retry_of_a_cancelled_campaign_says_what_it_takes(scene: Scene, in_flight: str) -> None:
    """Without --resume a run would start nothing."""
    call("cancel", "w47")
    answer(*run(scene, in_flight, "--worker", "shard-0"), code=40)
    scene.remote.define("kyc-approve", duration=0.1)
    retried = call("retry", "w47")
    assert "2 rows of campaign w47 are taken up again by the next `tl batch run w47 … --resume`" in retried.stderr
    assert "without --resume, a run starts no row" in call("retry", "w47", "--json").stderr
    assert answer(*run(scene, in_flight, "--worker", "shard-0"), code=41)["counts"] == {"PENDING": 3}
    answer(*run(scene, in_flight, "--worker", "shard-0", "--resume"))
    assert "--resume" not in call("retry", "w47").stderr


def test_a_drain_cancels_nothing(scene: Scene, in_flight: str) -> None:
    """What is in flight comes to its end, and the rest is left."""
    assert answer("cancel", "w47", "--drain") == {"campaign": "w47", "cancelled": 0, "drain": True}
    for start in scene.remote.starts():
        scene.remote.force(start["execution_id"], status="COMPLETED")
    drained = answer(*run(scene, in_flight, "--worker", "shard-0"), code=41)
    assert (drained["outcome"], drained["stop"]) == ("CANCELLED", "DRAIN")
    assert drained["counts"] == {"SUCCEEDED": 2, "PENDING": 1}
    assert scene.remote.cancels() == []


def test_a_campaign_in_flight_is_not_purged(scene: Scene, in_flight: str) -> None:
    """It is refused, and everything is still there."""
    assert in_flight
    refused = call("purge", "w47")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert answer("status", "w47", code=41)["in_flight"] == 2


def test_a_purge_forgets_the_campaign_and_keeps_its_files(scene: Scene) -> None:
    """The same campaign starts none of its rows again."""
    file = book(scene, 2)
    answer(*run(scene, file))
    kept = sorted(path.name for path in (scene.output / "w47").iterdir())
    assert answer("purge", "w47") == {"campaign": "w47", "purged": 2}
    assert call("status", "w47").exit_code == 2
    assert sorted(path.name for path in (scene.output / "w47").iterdir()) == kept
    assert answer(*run(scene, file))["counts"] == {"SUCCEEDED": 2}
    assert len(scene.remote.starts()) == 2
    assert "2 rows" in call("purge", "w47").stderr


def test_a_retry_takes_the_states_that_it_names(scene: Scene) -> None:
    """Rows of unknown fate are started once more only with a word that says so."""
    scene.remote.define("kyc-fail", duration=0.1)
    scene.remote.order("start", "status", status=400)
    scene.remote.order("start", "lose")
    file = book(scene, 3)
    run_it = run(scene, file, definition="kyc-fail")
    assert answer(*run_it, code=21)["counts"] == {"FAILED": 1, "UNKNOWN": 1, "REJECTED": 1}
    scene.remote.define("kyc-fail", outcome="COMPLETED", decision="approve")
    assert answer("retry", "w47", "--state", "failed") == {"campaign": "w47", "retried": 1}
    assert answer(*run_it, code=21)["counts"] == {"SUCCEEDED": 1, "UNKNOWN": 1, "REJECTED": 1}
    assert "1 rows of campaign w47 are taken up again" in call("retry", "w47").stderr
    assert answer(*run_it, code=21)["counts"] == {"SUCCEEDED": 2, "UNKNOWN": 1}
    assert answer("retry", "w47", "--state", "UNKNOWN") == {"campaign": "w47", "retried": 0}
    assert answer("retry", "w47", "--state", "UNKNOWN", "--unknown-anyway") == {"campaign": "w47", "retried": 1}
    assert answer(*run_it)["counts"] == {"SUCCEEDED": 3}
    assert len(scene.remote.starts()) == 5
    assert call("retry", "w47", "--state", "SUCCEEDED").exit_code == 2


def test_results_that_were_not_kept_are_asked_for_later(scene: Scene) -> None:
    """A run that has a folder at last names the command; a campaign that never had one has nothing to say."""
    file = book(scene, 2)
    with_folder, without = run(scene, file), run(scene, file)[:-2]
    silent = call(*without, "--json")
    assert (silent.exit_code, json.loads(silent.stdout)["unkept"]) == (0, 0)
    assert "RESULT_MISSING" not in silent.stderr
    told = call(*with_folder, "--json")
    assert json.loads(told.stdout)["unkept"] == 2
    assert "the results of 2 rows were not kept" in told.stderr
    assert "`tl batch retry w47 --state RESULT_MISSING`" in told.stderr
    assert answer("status", "w47")["unkept"] == 2
    assert answer("retry", "w47", "--state", "RESULT_MISSING") == {"campaign": "w47", "retried": 2}
    kept = call(*with_folder, "--json")
    assert json.loads(kept.stdout)["unkept"] == 0
    assert "RESULT_MISSING" not in kept.stderr
    assert len(scene.lines()) == 2
    assert len(scene.remote.starts()) == 2


def test_an_export_names_every_row_and_no_result(scene: Scene) -> None:
    """As lines, as CSV and as one document: the same rows, by state where one is named."""
    answer(*run(scene, book(scene, 3), "--canary", "2"), code=41)
    lines = [json.loads(line) for line in call("export", "w47").stdout.splitlines()]
    assert [(row["key"], row["state"]) for row in lines] == [
        ("c00000", "SUCCEEDED"),
        ("c00001", "SUCCEEDED"),
        ("c00002", "PENDING"),
    ]
    assert answer("export", "w47") == {"campaign": "w47", "rows": lines}
    table = list(csv.DictReader(io.StringIO(call("export", "w47", "--format", "csv").stdout)))
    assert [(row["key"], row["execution_id"]) for row in table] == [
        (row["key"], row["execution_id"] or "") for row in lines
    ]
    assert [row["key"] for row in answer("export", "w47", "--state", "pending")["rows"]] == ["c00002"]
    assert call("export", "w47", "--state", "done").exit_code == 2
    assert "riskScore" not in call("export", "w47").output


@pytest.fixture
def customers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """
    A database with two customers, and a query for them.
    """
    url = f"sqlite:///{scene.folder}/customers.db"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id TEXT, first TEXT)"))
        connection.execute(text("INSERT INTO customers VALUES ('a', 'Ada'), ('b', 'Bob')"))
    monkeypatch.setenv("TRANSACTIONLINK_BATCH_SOURCE_URL", url)
    query = scene.folder / "customers.sql"
    query.write_text("SELECT id, first FROM customers")
    yield query
    engine.dispose()


def test_a_query_is_a_source(scene: Scene, customers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows run; beside a file, or without the URL of its database, nothing is sent."""
    source = ("--query", str(customers))
    both = call(*run(scene, book(scene, 1), *source))
    assert (both.exit_code, both.stdout) == (2, "")
    monkeypatch.delenv("TRANSACTIONLINK_BATCH_SOURCE_URL")
    assert "TRANSACTIONLINK_BATCH_SOURCE_URL" in call("run", "w47", *source, *MAPPING).stderr
    assert scene.remote.starts() == []
    monkeypatch.setenv("TRANSACTIONLINK_BATCH_SOURCE_URL", f"sqlite:///{scene.folder}/customers.db")
    assert answer("run", "w47", *source, *MAPPING)["counts"] == {"SUCCEEDED": 2}
    assert scene.started() == {"Ada": 1, "Bob": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--definition", "kyc-approve"),
        (*MAPPING, "--columns", '{"key": "id"}'),
        ("--definition", "kyc-approve", "--key-column", "id", "--parameter", "firstName"),
        ("--definition", "kyc-approve", "--key-column", "id", "--parameter", "firstName=first:colour"),
        ("--definition", "kyc-approve", "--columns", "[]"),
        (*MAPPING, "--format", "xml"),
        (*MAPPING, "--canary", "0"),
        (*MAPPING, "--requests-per-second", "inf"),
        (*MAPPING, "--requests-per-second", "nan"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(scene: Scene, arguments: tuple[str, ...]) -> None:
    """The code is 2, and nothing is sent."""
    result = call("run", "w47", book(scene, 1), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert scene.remote.starts() == []


def test_an_interrupt_while_it_loads_has_the_code_of_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, and the next run begins anew; a store that fails meanwhile has its own code."""
    portions = JsonLines.portions

    def interrupted(source: JsonLines, size: int) -> Iterator[Portion]:
        os.kill(os.getpid(), signal.SIGTERM)
        return portions(source, size)

    def broken(source: JsonLines, size: int) -> Iterator[Portion]:
        raise LedgerError("The database cannot be used.")

    monkeypatch.setattr(JsonLines, "portions", interrupted)
    result = call(*run(scene, book(scene, 3)))
    assert (result.exit_code, result.stdout) == (130, "")
    assert "Stopped as asked, while campaign w47 was loaded" in result.stderr
    monkeypatch.setattr(JsonLines, "portions", broken)
    assert call(*run(scene, book(scene, 3))).exit_code == 22
    assert scene.remote.starts() == []
    monkeypatch.setattr(JsonLines, "portions", portions)
    assert answer(*run(scene, book(scene, 3)))["counts"] == {"SUCCEEDED": 3}


def test_an_interrupt_ends_in_good_order(scene: Scene) -> None:
    """The code is 130, executions go on, and the next run takes them up."""
    scene.remote.define("kyc-approve", duration=None)
    command = [sys.executable, "-m", "tl_orchestration.cli", "batch", *run(scene, book(scene, 2), "--json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            ends = time.monotonic() + 60
            while len(scene.remote.starts()) < 2 and time.monotonic() < ends:
                time.sleep(0.05)
            running.terminate()
            stdout, stderr = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 130
    assert "ending in good order" in stderr
    assert json.loads(stdout)["outcome"] == "INTERRUPTED"
    assert scene.remote.cancels() == []
    for start in scene.remote.starts():
        scene.remote.force(start["execution_id"], status="COMPLETED")
    assert answer(*run(scene, book(scene, 2)))["counts"] == {"SUCCEEDED": 2}
    assert len(scene.remote.starts()) == 2
