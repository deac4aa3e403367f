"""
Campaigns at the services whose requests have options: by the core, and by ``tl batch``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from click.testing import CliRunner, Result

from tests.planted import FIRST_NAME, LAST_NAME, found_in
from tests.remote import Remote
from tests.wire.batch.campaigns import Scene, write
from tl_orchestration import AsyncClient, B3osKey, B3osOptions, B3osPublic, LegacyOptions, Settings, WorkspaceKey
from tl_orchestration.batch import Batch, BatchOutcome, Book, Columns, Limits, Policy, RowState, source
from tl_orchestration.cli.commands import tl
from tl_orchestration.credentials import Credentials
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.ledger import SqlLedger
from tl_orchestration.options import Options

B3OS, LEGACY = "b3os", "transactionlink-legacy"
ORIGIN = B3osOptions(source_system="crm", source_entity_type="customer")
REF = {"external_ref": "ref"}
CREDENTIALS: dict[str, Credentials] = {
    B3OS: B3osKey("b3sk_sandbox"),
    LEGACY: WorkspaceKey("sandbox-key", "sandbox-secret"),
}
ENVIRONMENT = {
    B3OS: {"SERVICE": B3OS, "TOKEN": "b3sk_sandbox"},
    LEGACY: {"SERVICE": LEGACY, "KEY": "sandbox-key", "SECRET": "sandbox-secret"},
}
ORIGIN_JSON = json.dumps({"source_system": "crm", "source_entity_type": "customer"})


@frozen
class At(Scene):
    """
    A scene at one of these services.
    """

    service: str

    def client(self, token: str = "", **settings: Any) -> AsyncClient:
        return AsyncClient(
            CREDENTIALS[self.service],
            self.remote.url,
            self.service,
            ledger=SqlLedger(self.store),
            settings=Settings(**settings),
        )

    def customers(self, count: int) -> Path:
        lines = [{"id": f"c{n}", "first": f"{FIRST_NAME} {n}", "last": LAST_NAME, "ref": f"r{n}"} for n in range(count)]
        return write(self.folder / "in.jsonl", lines)

    def over(self, file: Path, constant: Options | None = None, /, **columns: Any) -> Book:
        return Book(
            workflow_definition_id="kyc-approve",
            source=source(file),
            columns=Columns(key="id", **columns),
            options=constant,
        )

    def stored(self) -> str:
        return b"".join(path.read_bytes() for path in self.folder.glob("ledger.db*")).decode("latin-1")


@pytest.fixture
def b3os(remote: Remote, tmp_path: Path) -> At:
    """
    B3OS, and a SQLite file.
    """
    remote.define("kyc-approve", duration=0.3)
    return At(remote, f"sqlite:///{tmp_path}/ledger.db", tmp_path, B3OS)


@pytest.fixture
def legacy(remote: Remote, tmp_path: Path) -> At:
    """
    The legacy service, and a SQLite file.
    """
    remote.define("kyc-approve", duration=0.3)
    return At(remote, f"sqlite:///{tmp_path}/ledger.db", tmp_path, LEGACY)


def test_rows_at_b3os_say_where_they_come_from(b3os: At) -> None:
    """What holds for all is the book's, what is the row's is a column's; each has its result."""
    batch = b3os.batch(b3os.over(b3os.customers(3), ORIGIN, options=REF, parameters={"firstName": "first"}))
    assert batch.check().is_clean
    batch.load()
    assert batch.run().counts == {RowState.SUCCEEDED: 3}
    told = [start["details"] for start in b3os.remote.starts()]
    assert {one["externalRef"] for one in told} == {"r0", "r1", "r2"}
    assert {(one["sourceSystem"], one["sourceEntityType"]) for one in told} == {("crm", "customer")}
    assert {line["result"]["decision"] for line in b3os.lines()} == {"approve"}


def test_rows_at_the_legacy_service_are_about_cases(legacy: At) -> None:
    """Each makes its own from its columns; nothing of them is kept, and what ended is asked for in its version."""
    columns = {"first_name": "first", "last_name": "last"}
    batch = legacy.batch(legacy.over(legacy.customers(3), options=columns))
    batch.load()
    assert batch.run().counts == {RowState.SUCCEEDED: 3}
    assert about(legacy, "firstName") == {f"{FIRST_NAME} {n}" for n in range(3)}
    assert all(line["result"]["partyDetails"] for line in legacy.lines())
    assert found_in(legacy.stored()) == []


def identity(batch: Batch) -> str | None:
    """What tells one source from another."""
    assert batch._book is not None
    return batch._loader(batch._database, None)._identity(batch._book.source)


def about(at: At, member: str) -> set[str]:
    """What the service has in this member of its cases."""
    return {case["fields"][member] for case in at.remote.cases()}


@pytest.mark.parametrize(
    ("options", "columns", "says"),
    [
        (None, {}, "The service b3os needs options with source_system and source_entity_type"),
        (LegacyOptions(), {}, "takes B3osOptions"),
        (ORIGIN, {"options": {"external_reference": "ref"}}, "have no external_reference"),
    ],
)
def test_a_book_that_does_not_fit_is_refused_at_once(
    b3os: At, options: Options | None, columns: dict[str, Any], says: str
) -> None:
    """Nothing is on record, and nothing is sent."""
    with pytest.raises(InvalidSettings, match=says):
        b3os.batch(b3os.over(b3os.customers(1), options, **columns))
    assert b3os.remote.starts() == []


def test_a_value_that_does_not_fit_is_a_bad_row(legacy: At) -> None:
    """The reject file has column and reason, and no value; the others run."""
    lines: list[dict[str, Any]] = [
        {"id": "a", "first": "Ada"},
        {"id": "b", "first": [FIRST_NAME]},
        {"id": "c", "first": None},
        {"id": "d", "first": "Dee", "record": "0" * 32},
    ]
    file = write(legacy.folder / "in.jsonl", lines)
    batch = legacy.batch(legacy.over(file, options={"first_name": "first"}, record_id="record"))
    report = batch.load()
    assert (report.rejected, report.accepted) == (3, 1)
    (rejects,) = (legacy.output / "w47").glob("rejects-*.jsonl")
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(one["key"], one["column"]) for one in told] == [("b", "first"), ("c", "first"), ("d", "record")]
    assert "not a list" in told[0]["reason"]
    assert found_in(rejects.read_text()) == []
    assert batch.run().count(RowState.SUCCEEDED) == 1


def test_other_options_are_another_source(b3os: At) -> None:
    """They are loaded again; a row that has started with the former ones is told, and not started again."""
    file = b3os.customers(1)
    first = b3os.batch(b3os.over(file, ORIGIN))
    first.load()
    assert first.load().skipped
    first.run()
    later = b3os.batch(b3os.over(file, B3osOptions(source_system="erp", source_entity_type="customer")))
    report = later.load()
    assert (report.skipped, report.changed) == (False, 1)
    assert later.run().outcome is BatchOutcome.NOTHING_TO_START
    assert len(b3os.remote.starts()) == 1


def test_options_that_changed_behind_the_load_start_nothing(b3os: At) -> None:
    """As any other change."""
    file = b3os.customers(2)
    batch = b3os.batch(b3os.over(file, ORIGIN, options=REF))
    batch.load()
    write(file, [{"id": f"c{n}", "ref": "other"} for n in range(2)])
    assert batch.run().unread == 2
    assert b3os.remote.starts() == []


def test_options_that_are_personal_are_not_on_record(legacy: At) -> None:
    """Not as a digest either that anybody could compute who guesses them."""
    batch = legacy.batch(legacy.over(legacy.customers(1), LegacyOptions(company_name=LAST_NAME)))
    batch.load()
    batch.run()
    assert found_in(legacy.stored()) == []
    assert about(legacy, "companyName") == {LAST_NAME}
    client = AsyncClient(WorkspaceKey("k", "other"), legacy.remote.url, LEGACY, ledger=SqlLedger(legacy.store))
    assert identity(Batch(client, "w47", batch._book)) != identity(batch)


def test_cancel_at_b3os(b3os: At) -> None:
    """Through the runs; what comes next sees to the ends."""
    b3os.remote.define("kyc-approve", duration=None)
    book = b3os.over(b3os.customers(3), ORIGIN)
    batch = b3os.batch(book, limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").outcome is BatchOutcome.AT_CAP
    assert b3os.cancel() == 2
    assert batch.run().counts == {RowState.CANCELLED: 2, RowState.PENDING: 1}


def test_deadline_at_b3os(b3os: At) -> None:
    """The execution is cancelled."""
    b3os.remote.define("kyc-approve", duration=None)
    batch = b3os.batch(b3os.over(b3os.customers(1), ORIGIN), policy=Policy(timeout=1.0))
    batch.load()
    assert batch.run().counts == {RowState.TIMED_OUT: 1}
    assert len(b3os.remote.cancels()) == 1


def test_cancel_before_there_is_a_run(b3os: At, caplog: pytest.LogCaptureFixture) -> None:
    """It is not accepted, and the log says so; a later one is."""
    b3os.remote.define("kyc-approve", duration=None, before_run={"workflow_queued": 60})
    batch = b3os.batch(b3os.over(b3os.customers(2), ORIGIN), worker="shard-0")
    batch.load()
    batch.run(at_cap="return")
    assert b3os.cancel() == 0
    assert caplog.text.count("has no run yet") == 2
    b3os.remote.advance(61)
    assert b3os.cancel() == 2
    assert batch.run().counts == {RowState.CANCELLED: 2}


def test_cancel_at_the_legacy_service(legacy: At, caplog: pytest.LogCaptureFixture) -> None:
    """There is none: nothing more is started, and what is in flight comes to its own end."""
    legacy.remote.define("kyc-approve", duration=None)
    batch = legacy.batch(legacy.over(legacy.customers(3)), limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    batch.run(at_cap="return")
    assert legacy.cancel() == 0
    assert caplog.text.count("The legacy API cannot cancel") == 2
    legacy.end()
    assert batch.run().counts == {RowState.SUCCEEDED: 2, RowState.PENDING: 1}


def test_without_a_key_nobody_could_follow(b3os: At) -> None:
    """So nothing is started."""
    client = AsyncClient(B3osPublic(), b3os.remote.url, B3OS, ledger=SqlLedger(b3os.store))
    with pytest.raises(InvalidSettings, match="needs a key of B3OS"):
        Batch(client, "w47", b3os.over(b3os.customers(1), ORIGIN))


class TestCommands:
    """``tl batch`` with options."""

    @pytest.fixture(autouse=True)
    def environment(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """The service and store of the test, and nothing else."""
        at: At = request.getfixturevalue("b3os" if "b3os" in request.fixturenames else "legacy")
        for name in list(os.environ):
            if name.startswith("TRANSACTIONLINK_"):
                monkeypatch.delenv(name)
        given = {"BASE_URL": at.remote.url, "LEDGER_URL": at.store, **ENVIRONMENT[at.service]}
        for name, value in given.items():
            monkeypatch.setenv(f"TRANSACTIONLINK_{name}", value)

    def said(self, *arguments: str, code: int = 0, stdin: str | None = None) -> Result:
        """What it answers, and with which code."""
        result = CliRunner().invoke(tl, ["batch", *arguments], input=stdin, prog_name="tl")
        assert result.exit_code == code, result.output
        assert found_in(result.output) == []
        return result

    def call(self, *arguments: str, code: int = 0, stdin: str | None = None) -> dict[str, Any]:
        """The one JSON object on stdout."""
        document: dict[str, Any] = json.loads(self.said(*arguments, "--json", code=code, stdin=stdin).stdout)
        return document

    def test_a_campaign_at_b3os(self, b3os: At) -> None:
        """Run, results, retry: what is started again says the same of where it comes from."""
        book = str(b3os.customers(2))
        b3os.remote.define("kyc-fail", duration=0.1)
        run = ("run", "w47", book, "--definition", "kyc-fail", "--key-column", "id", "--output", str(b3os.output))
        options = ("--options", ORIGIN_JSON, "--option-column", "external_ref=ref:text")
        assert self.call(*run, *options, "--dry-run")["accepted"] == 2
        assert self.call(*run, *options, code=40)["counts"] == {"FAILED": 2}
        b3os.remote.define("kyc-fail", outcome="COMPLETED", decision="approve")
        assert self.call("retry", "w47")["retried"] == 2
        assert self.call(*run, *options)["counts"] == {"SUCCEEDED": 2}
        assert {line["key"] for line in b3os.lines() if line["result"]} == {"c0", "c1"}
        told = sorted(start["details"]["externalRef"] for start in b3os.remote.starts())
        assert told == ["r0", "r0", "r1", "r1"]

    def test_a_campaign_at_the_legacy_service(self, legacy: At) -> None:
        """Run, results, retry: each start is about a case of its row."""
        book = str(legacy.customers(2))
        legacy.remote.define("kyc-fail", duration=0.1)
        run = ("run", "w47", book, "--definition", "kyc-fail", "--key-column", "id", "--output", str(legacy.output))
        columns = ("--option-column", "first_name=first", "--option-column", "last_name=last:text?")
        assert self.call(*run, *columns, code=40)["counts"] == {"FAILED": 2}
        legacy.remote.define("kyc-fail", outcome="COMPLETED", decision="approve")
        assert self.call("retry", "w47")["retried"] == 2
        assert self.call(*run, *columns)["counts"] == {"SUCCEEDED": 2}
        assert {line["key"] for line in legacy.lines() if line["result"]} == {"c0", "c1"}
        assert about(legacy, "firstName") == {f"{FIRST_NAME} 0", f"{FIRST_NAME} 1"}
        assert [len(case["execution_ids"]) for case in legacy.remote.cases()] == [1, 1, 1, 1]

    def test_the_whole_mapping_has_the_columns_of_options(self, b3os: At) -> None:
        """Beside it stand the options that hold for all rows, and no other column."""
        mapping = write(b3os.folder / "map.json", [{"key": "id", "options": REF}])
        run = ("run", "w47", str(b3os.customers(1)), "--definition", "kyc-approve", "--columns", str(mapping))
        assert self.call(*run, "--options", "-", stdin=ORIGIN_JSON)["counts"] == {"SUCCEEDED": 1}
        refused = self.said(*run, "--option-column", "external_ref=ref", code=2)
        assert "no other option for columns" in refused.stderr
        assert "both be read from standard input" in self.said(*run[:-1], "-", "--options", "-", code=2).stderr

    @pytest.mark.parametrize(
        ("options", "code", "says"),
        [
            ((), 33, "The service b3os needs --options with source_system and source_entity_type"),
            (("--options", '{"system": "crm"}'), 33, "have no system"),
            (("--options", ORIGIN_JSON, "--option-column", "ref"), 2, "--option-column must be NAME=COLUMN"),
            (("--options", ORIGIN_JSON, "--option-column", "external_ref=ref:colour"), 2, "TYPE of --option-column"),
            (("--options", ORIGIN_JSON, "--option-column", "external_reference=ref"), 2, "have no external_reference"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, b3os: At, options: tuple[str, ...], code: int, says: str) -> None:
        """Before anything is sent, with the code that tl run has for it."""
        run = ("run", "w47", str(b3os.customers(1)), "--definition", "kyc-approve", "--key-column", "id", *options)
        assert says in self.said(*run, code=code).stderr
        assert b3os.remote.starts() == []

    def test_what_is_personal_does_not_belong_in_arguments(self, legacy: At) -> None:
        """As with tl run."""
        run = ("run", "w47", str(legacy.customers(1)), "--definition", "kyc-approve", "--key-column", "id")
        person = json.dumps({"first_name": FIRST_NAME})
        assert "do not belong in arguments" in self.said(*run, "--options", person, code=2).stderr
