"""
Sources that change, keys that are no keys, and campaigns that come again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from tests.postgres import Postgres
from tests.wire.batch.campaigns import COLUMNS, Scene, records, told, write
from tl_orchestration.batch import BatchOutcome, Book, Limits, Policy, Query, RowState
from tl_orchestration.batch.intake import Intake
from tl_orchestration.cli.batch_report import code_of
from tl_orchestration.cli.outcomes import ROWS_FAILED
from tl_orchestration.errors import InvalidRequest, InvalidSettings


def test_rows_that_the_source_no_longer_has_count_as_failed(scene: Scene) -> None:
    """Nobody screens them, so nothing may say that all is well; another load takes them in again."""
    file = write(scene.folder / "in.jsonl", records(3))
    batch = scene.batch(scene.book(file))
    batch.load()
    write(file, [{"id": f"c{number:05}", "first": "Bob"} for number in range(3)])
    summary = batch.run()
    assert summary.outcome is BatchOutcome.FINISHED
    assert (summary.counts, summary.unread, summary.failed) == ({RowState.INVALID: 3}, 3, 3)
    assert code_of(summary) == ROWS_FAILED
    batch.load()
    assert batch.run().failed == 0
    assert scene.started() == {"Bob": 3}


def test_every_row_that_changed_after_its_start_is_named(scene: Scene) -> None:
    """By its key: in the reject file all of them, in the report some behind what cannot be run; and no value."""
    file = write(scene.folder / "in.jsonl", records(30))
    batch = scene.batch(scene.book(file))
    batch.load()
    batch.run()
    write(file, [{"id": f"c{number:05}", "first": "Secret"} for number in range(30)] + [{"id": "d"}])
    report = batch.load()
    assert (report.changed, report.rejected, report.is_clean) == (30, 1, False)
    assert [one["key"] for one in report.samples] == ["d", *(f"c{number:05}" for number in range(5))]
    lines = (scene.output / "w47" / report.rejects[0]).read_text()
    assert "Secret" not in lines
    changed = [one["key"] for one in map(json.loads, lines.splitlines()) if one["reason"].startswith("changed after")]
    assert changed == [f"c{number:05}" for number in range(30)]


def test_rows_that_were_withdrawn_are_named_by_the_export(scene: Scene) -> None:
    """With the reason why they were not started."""
    file = write(scene.folder / "in.jsonl", records(3))
    batch = scene.batch(scene.book(file))
    batch.load()
    write(file, records(1))
    assert batch.load().withdrawn == 2
    withdrawn = [(row["key"], row["reason"]) for row in batch.export([RowState.INVALID])]
    assert withdrawn == [(key, "the source no longer has it") for key in ("c00001", "c00002")]


def test_keys_that_conflict_are_the_loads_to_tell(scene: Scene) -> None:
    """They were refused before anything was started, and have not failed."""
    file = write(scene.folder / "in.jsonl", [{"id": "a", "first": "Ada"}, {"id": "a", "first": "Eve"}])
    batch = scene.batch(scene.book(file))
    batch.load()
    summary = batch.run()
    assert (summary.count(RowState.INVALID), summary.failed) == (1, 0)


def test_a_key_that_is_null_keeps_no_other_from_being_started(scene: Scene, postgres: Postgres) -> None:
    """The others of its portion are whole numbers all the same, which PostgreSQL does not compare with text."""
    database = postgres.ready_database()
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id integer, first text)"))
        connection.execute(text("INSERT INTO customers VALUES (1, 'Ada'), (2, 'Bob'), (NULL, 'Cy')"))
    query = Query(engine, "SELECT id, first FROM customers")
    batch = scene.batch(Book(workflow_definition_id="kyc-approve", source=query, columns=COLUMNS))
    assert batch.load().rejected == 1
    assert batch.run().counts == {RowState.SUCCEEDED: 2}
    engine.dispose()


def test_keys_with_blanks_around_them_are_found_again(scene: Scene, tmp_path: Path) -> None:
    """The key is what is between; with others than SQL trims, which could not be found, the row is rejected."""
    engine = create_engine(f"sqlite:///{tmp_path}/customers.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id text, first text)"))
        connection.execute(text("INSERT INTO customers VALUES ('c1', 'Ada'), (' c2 ', 'Bob')"))
        for key in ("\tc3", "c4\xa0", " c5\n", "\t"):
            connection.execute(text("INSERT INTO customers VALUES (:key, 'Cy')"), {"key": key})
    query = Query(engine, "SELECT id, first FROM customers")
    batch = scene.batch(Book(workflow_definition_id="kyc-approve", source=query, columns=COLUMNS))
    report = batch.load()
    assert (report.accepted, report.rejected) == (2, 4)
    assert [sample["column"] for sample in report.samples] == ["id"] * 4
    assert [sample["reason"].partition(",")[0] for sample in report.samples] == [
        *["around the key are tabs"] * 3,
        "there is no key",
    ]
    assert batch.run().counts == {RowState.SUCCEEDED: 2}
    engine.dispose()


def test_a_purged_campaign_that_had_retries_starts_nothing_again(scene: Scene) -> None:
    """Its rows go on with the executions of their last attempts."""
    scene.remote.define("kyc-fail", duration=0.1)
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(2)), "kyc-fail"))
    batch.load()
    batch.run()
    batch.retry()
    batch.run()
    last = [start["execution_id"] for start in scene.remote.starts()[2:]]
    assert batch.purge() == 2
    batch.load()
    assert batch.run().counts == {RowState.FAILED: 2}
    assert len(scene.remote.starts()) == 4
    assert sorted(row["execution_id"] for row in batch.export()) == sorted(last)


@pytest.mark.parametrize("refused", [False, True])
def test_the_first_retry_after_a_purge_starts_again(either: Scene, refused: bool) -> None:
    """The ledger has attempts of the campaign's former life; what is retried is none of them."""
    either.remote.define("kyc-fail", duration=0.1)
    batch = either.batch(either.book(write(either.folder / "in.jsonl", records(2)), "kyc-fail"))
    batch.load()
    batch.run()
    batch.retry()
    if refused:
        either.remote.order("start", "status", status=422, times=2, definition="kyc-fail")
    batch.run()
    batch.purge()
    batch.load()
    batch.run()
    before = len(either.remote.starts())
    assert batch.retry() == 2
    assert batch.run().started_here == 2
    assert len(either.remote.starts()) == before + 2
    assert {row["attempt"] for row in batch.export()} == {3}


def test_a_worker_does_not_wait_for_a_load_that_has_failed(scene: Scene) -> None:
    """Rows are left, and nobody loads them any more: whoever works is told."""
    scene.remote.define("kyc-approve", duration=0.1)
    file = write(scene.folder / "in.jsonl", records(4))
    batch = scene.batch(scene.book(file), limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").outcome is BatchOutcome.AT_CAP
    write(file, [*records(4), "rubbish"])
    strict = scene.batch(scene.book(file), policy=Policy(on_bad_rows="stop"), worker="shard-1")
    calls = iter(range(100))

    def fail() -> bool:
        if next(calls) == 2:
            with pytest.raises(InvalidRequest):
                strict.load()
        return False

    with pytest.raises(InvalidSettings, match="load it again"):
        batch.run(stop=fail)


def test_a_row_that_starts_while_it_is_read_anew_can_be_read_again(
    scene: Scene, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker puts that on record between two statements of the loader: a retry finds it all the same."""
    scene = Scene(scene.remote, postgres.ready_database(), scene.folder)
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(2))))
    batch.load()
    known = Intake._known

    def started(self: Intake, connection: Connection, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = known(self, connection, keys)
        told(scene, "UPDATE tl_batch_rows SET state = 'STARTED' WHERE key = 'c00001'")
        return found

    monkeypatch.setattr(Intake, "_known", started)
    report = batch.load(again=True)
    assert (report.accepted, report.withdrawn) == (2, 0)
    told(scene, "UPDATE tl_batch_rows SET state = 'FAILED' WHERE key = 'c00001'")
    assert batch.retry() == 1
    assert batch.run().counts == {RowState.SUCCEEDED: 2}
