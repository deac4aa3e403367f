"""A campaign starts every row once, keeps what it has come to, and can be gone on with by anybody."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.wire.batch.campaigns import COLUMNS, Scene, awaited, records, told, write
from tl_orchestration.batch import (
    Batch,
    BatchOutcome,
    BatchSummary,
    Book,
    Columns,
    Limits,
    Policy,
    Query,
    RowState,
)
from tl_orchestration.batch.rows import Rows
from tl_orchestration.errors import AuthenticationError, InvalidRequest, InvalidSettings, LedgerError
from tl_orchestration.ledger import SqlLedger
from tl_orchestration.ledger.verdicts import adopt


def test_every_row_is_started_once_and_kept(either: Scene) -> None:
    """Service, store and output agree row by row, and a second run has nothing to start."""
    book = either.book(write(either.folder / "in.jsonl", records(60)))
    batch = either.batch(book)
    report = batch.load()
    assert (report.read, report.accepted, report.is_clean) == (60, 60, True)
    summary = batch.run()
    assert summary.outcome is BatchOutcome.FINISHED
    assert summary.counts == {RowState.SUCCEEDED: 60}
    assert either.started() == {one["first"]: 1 for one in records(60)}
    lines = either.lines()
    assert {line["key"] for line in lines} == {one["id"] for one in records(60)}
    assert len(lines) == 60
    by_id = {start["execution_id"]: start["parameters"]["firstName"] for start in either.remote.starts()}
    assert {line["key"]: by_id[line["execution_id"]] for line in lines} == {
        one["id"]: one["first"] for one in records(60)
    }
    assert all(line["result"]["decision"] == "approve" for line in lines)
    again = either.batch(book)
    assert again.load().skipped
    assert again.run().outcome is BatchOutcome.NOTHING_TO_START
    assert len(either.remote.starts()) == 60


@pytest.mark.parametrize("keys", [("a", "b"), (7, 8)], ids=["text", "numbers"])
def test_rows_of_a_query_are_read_again_by_their_keys(scene: Scene, keys: tuple[object, object]) -> None:
    """Each row is started with what the database has of it, by a process that has not loaded them."""
    engine = create_engine(f"sqlite:///{scene.folder}/customers.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id, first TEXT)"))
        for key, first in zip(keys, ("Ada", "Bob"), strict=True):
            connection.execute(text("INSERT INTO customers VALUES (:key, :first)"), {"key": key, "first": first})

    def book() -> Book:
        rows = Query(engine, "SELECT id, first FROM customers;")
        return Book(workflow_definition_id="kyc-approve", source=rows, columns=COLUMNS)

    scene.batch(book()).load()
    assert scene.batch(book()).run().counts == {RowState.SUCCEEDED: 2}
    assert scene.started() == {"Ada": 1, "Bob": 1}
    engine.dispose()


def test_bad_rows_stop_nothing_and_show_no_value(scene: Scene) -> None:
    """Bad and conflicting rows go to the reject file, identical ones collapse, the others run."""
    lines: list[dict[str, str] | str] = [
        {"id": "a", "first": "Ada"},
        {"id": "a", "first": "Ada"},
        {"id": "b", "first": "Secret One"},
        {"id": "b", "first": "Secret Two"},
        {"id": "", "first": "Secret Three"},
        {"id": "c"},
        "not json",
        {"id": "d", "first": "Dan"},
    ]
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", lines)))
    report = batch.load()
    assert (report.read, report.accepted, report.collapsed, report.conflicting, report.rejected) == (8, 2, 1, 1, 3)
    rejects = (scene.output / "w47" / report.rejects[0]).read_text()
    assert "Secret" not in rejects
    assert [(line["row"], line["key"], line["column"]) for line in map(json.loads, rejects.splitlines())] == [
        (5, None, "id"),
        (6, "c", "first"),
        (7, None, None),
        (4, "b", "id"),
    ]
    summary = batch.run()
    assert summary.counts == {RowState.SUCCEEDED: 2, RowState.INVALID: 1}
    assert scene.started() == {"Ada": 1, "Dan": 1}


def test_what_the_service_cannot_run_is_told_with_its_reason(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Every row has it on record; the log says it once, and nothing was sent."""
    caplog.set_level(logging.WARNING, "tl_orchestration")
    policy = Policy(correlation_parameter="firstName")
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(3))), policy=policy)
    batch.load()
    assert batch.run().counts == {RowState.REJECTED: 3}
    reasons = {row["reason"] for row in batch.export()}
    assert len(reasons) == 1
    assert str(reasons.pop()).startswith("InvalidRequest: correlation_parameter names 'firstName', which is among")
    (message,) = caplog.messages
    assert "choose a name that the workflow definition does not use" in message
    assert scene.remote.starts() == []


def test_a_dry_run_and_a_strict_load_send_nothing(scene: Scene) -> None:
    """A check keeps nothing, and a load that is to stop at bad rows leaves nothing to start."""
    book = scene.book(write(scene.folder / "in.jsonl", [{"id": "a", "first": "Ada"}, {"id": "b"}]))
    batch = scene.batch(book, policy=Policy(on_bad_rows="stop"))
    loose = scene.batch(book)
    assert (loose.check().accepted, loose.check().rejected) == (1, 1)
    with pytest.raises(InvalidSettings, match="no campaign"):
        loose.summary()
    with pytest.raises(InvalidRequest, match="nothing is started"):
        batch.load()
    with pytest.raises(InvalidSettings, match="not loaded"):
        batch.run()
    assert scene.remote.starts() == []


def test_a_canary_stops_and_the_next_run_goes_on(either: Scene) -> None:
    """So many rows run to their end; the rest waits for another run; max_starts is for the whole campaign."""
    book = either.book(write(either.folder / "in.jsonl", records(12)))
    first = either.batch(book, policy=Policy(canary=3))
    first.load()
    summary = first.run()
    assert summary.outcome is BatchOutcome.STOPPED
    assert summary.counts == {RowState.SUCCEEDED: 3, RowState.PENDING: 9}
    assert either.batch(book, policy=Policy(max_starts=5)).run().outcome is BatchOutcome.STOPPED
    assert len(either.remote.starts()) == 5
    assert either.batch(book).run().counts == {RowState.SUCCEEDED: 12}
    assert either.started() == {one["first"]: 1 for one in records(12)}


def test_a_worker_that_does_not_wait_is_woken_to_go_on(either: Scene) -> None:
    """It starts up to the limit and returns; whoever watches starts nothing; in turns they finish the campaign."""
    book = either.book(write(either.folder / "in.jsonl", records(20)))
    limits = Limits(in_flight=6)
    batch = either.batch(book, limits=limits, worker="shard-0")
    batch.load()
    outcomes = []
    for _ in range(20):
        summary = either.batch(book, limits=limits, worker="shard-0").run(at_cap="return", wait_for_others=False)
        outcomes.append(summary.outcome)
        assert summary.in_flight <= 6
        if summary.outcome not in {BatchOutcome.AT_CAP, BatchOutcome.IN_FLIGHT}:
            break
        before = len(either.remote.starts())
        either.watch("shard-0")
        assert len(either.remote.starts()) == before
    assert outcomes[0] is BatchOutcome.AT_CAP
    assert outcomes[-1] is BatchOutcome.FINISHED
    assert either.started() == {one["first"]: 1 for one in records(20)}
    assert len(either.lines()) == 20


def test_what_others_have_left_is_gone_on_with(scene: Scene) -> None:
    """A worker that stops leaves its executions to the next one, which starts none of them again."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(10)))
    first = scene.batch(book, policy=Policy(starts_at_once=1))
    first.load()
    stopped = first.run(stop=lambda: len(scene.remote.starts()) >= 5)
    assert stopped.outcome is BatchOutcome.INTERRUPTED
    assert stopped.in_flight
    scene.remote.define("kyc-approve", duration=0.1)
    scene.end()
    assert scene.batch(book).run().counts == {RowState.SUCCEEDED: 10}
    assert scene.started() == {one["first"]: 1 for one in records(10)}


def test_rows_that_failed_are_started_again_only_when_asked(scene: Scene) -> None:
    """A rerun leaves failed, refused and unknown rows alone; a retry takes those that it names."""
    book = scene.book(write(scene.folder / "in.jsonl", records(4)), "kyc-fail")
    scene.remote.define("kyc-fail", duration=0.1)
    scene.remote.order("start", "status", status=400, definition="kyc-fail")
    scene.remote.order("start", "lose", definition="kyc-fail")
    batch = scene.batch(book, policy=Policy(starts_at_once=1))
    batch.load()
    summary = batch.run()
    assert summary.counts == {RowState.FAILED: 2, RowState.REJECTED: 1, RowState.UNKNOWN: 1}
    assert (summary.failed, summary.unknown) == (3, 1)
    assert batch.run().outcome is BatchOutcome.NOTHING_TO_START
    assert len(scene.remote.starts()) == 3
    scene.remote.define("kyc-fail", outcome="COMPLETED", decision="approve")
    assert batch.retry([RowState.FAILED]) == 2
    assert batch.run().counts == {RowState.SUCCEEDED: 2, RowState.REJECTED: 1, RowState.UNKNOWN: 1}
    assert batch.retry([RowState.REJECTED, RowState.UNKNOWN]) == 1
    assert batch.run().counts == {RowState.SUCCEEDED: 3, RowState.UNKNOWN: 1}
    ledger = SqlLedger(scene.store, "transactionlink@" + scene.remote.url.removeprefix("http://"))
    lost = scene.remote.starts()[0]["execution_id"]
    adopt(ledger, "batch/w47/c00001", lost, reason="found", actor="jo", now=2e9)
    assert batch.retry() == 1
    assert batch.run().counts == {RowState.SUCCEEDED: 3, RowState.FAILED: 1}
    assert len(scene.remote.starts()) == 6


def test_an_unknown_start_is_repeated_only_on_somebodys_word(scene: Scene) -> None:
    """A restart accepts that a row may have been started twice, once."""
    book = scene.book(write(scene.folder / "in.jsonl", records(1)))
    scene.remote.order("start", "lose", definition="kyc-approve")
    batch = scene.batch(book)
    batch.load()
    assert batch.run().counts == {RowState.UNKNOWN: 1}
    assert batch.retry() == 0
    assert batch.retry(unknown="restart") == 1
    assert batch.run().counts == {RowState.SUCCEEDED: 1}
    assert len(scene.remote.starts()) == 2


def test_a_cancelled_campaign_starts_nothing_more(scene: Scene) -> None:
    """What is in flight is cancelled; a rerun only sees to its end; a person can take it back."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(6)))
    batch = scene.batch(book, limits=Limits(in_flight=4), worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").outcome is BatchOutcome.AT_CAP
    assert scene.cancel() == 4
    summary = batch.run()
    assert summary.outcome is BatchOutcome.CANCELLED
    assert summary.counts == {RowState.CANCELLED: 4, RowState.PENDING: 2}
    scene.remote.define("kyc-approve", duration=0.1)
    batch.resume()
    assert batch.run().counts == {RowState.CANCELLED: 4, RowState.SUCCEEDED: 2}


@pytest.mark.parametrize("most", [2, 500])
def test_a_cancel_that_could_not_see_the_last_starts_reaches_them(scene: Scene, most: int) -> None:
    """They were not on record when it looked; the worker that made them cancels them, also where it follows nothing."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(40)))
    batch = scene.batch(book, limits=Limits(in_flight=most), policy=Policy(starts_at_once=1), worker="shard-0")
    batch.load()

    def said() -> bool:
        if len(scene.remote.starts()) >= 2:
            batch._campaigns.stop("w47", "CANCEL")
        return False

    batch.run(at_cap="return", stop=said)
    started = {start["execution_id"] for start in scene.remote.starts()}
    assert {cancel["execution_id"] for cancel in scene.remote.cancels()} == started


def test_what_an_interrupted_worker_has_left_can_be_cancelled_as_its_own(scene: Scene) -> None:
    """Its rows keep its name until another worker takes them, and what others have is not touched."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(6)))
    others = scene.batch(book, limits=Limits(in_flight=2), worker="shard-1")
    others.load()
    others.run(at_cap="return")
    mine = scene.batch(book, limits=Limits(in_flight=5), worker="shard-0")
    assert mine.run(stop=lambda: len(scene.remote.starts()) == 5).outcome is BatchOutcome.INTERRUPTED
    taken = {start["execution_id"] for start in scene.remote.starts()[2:]}
    client = scene.client()
    assert awaited(client, Batch(client, "w47", worker="shard-0").cancel(only_mine=True)) == 3
    assert {cancel["execution_id"] for cancel in scene.remote.cancels()} == taken
    assert awaited(client, Batch(client, "w48", worker="shard-0").cancel(only_mine=True)) == 0  # no such campaign yet
    with pytest.raises(InvalidSettings, match="There is no campaign w48"):
        awaited(client, Batch(client, "w48").cancel())


def test_whether_anything_was_started_since(scene: Scene) -> None:
    """By any worker; a row that is only loaded is not."""
    began = time.time()
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(2))), worker="shard-0")
    batch.load()
    assert not batch.started_since(began)

    batch.run()

    assert batch.started_since(began)
    assert not batch.started_since(time.time())


def test_a_load_that_is_told_to_stop_begins_anew(scene: Scene) -> None:
    """It ends between two portions; nothing can be started before the next one has ended."""
    book = scene.book(write(scene.folder / "in.jsonl", records(500)))
    calls = iter(range(100))
    batch = scene.batch(book, worker="shard-0")
    with pytest.raises(LedgerError, match="Stopped as asked"):
        batch.load(stop=lambda: next(calls) > 0)
    with pytest.raises(InvalidSettings, match="was not loaded"):
        batch.run()
    assert batch.load().accepted == 500


def test_whoever_watches_is_not_woken_for_rows_of_another(scene: Scene) -> None:
    """There is room, and rows are left; but their slice is with a worker that lives."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(6)))
    mine = scene.batch(book, limits=Limits(in_flight=2), worker="shard-0")
    mine.load()
    assert mine.run(at_cap="return").outcome is BatchOutcome.AT_CAP
    client = scene.client()
    rows = Rows(client.ledger.database, 1, "shard-1", 60.0)  # type: ignore[union-attr]
    rows.enter(client.ledger.namespace, "default", time.time())  # type: ignore[union-attr]
    assert rows.claim(time.time()) is not None
    watched: list[BatchSummary] = []

    async def watch() -> None:
        watching = asyncio.ensure_future(Batch(client, "w47", limits=Limits(in_flight=100), worker="shard-0").watch())
        await asyncio.sleep(2.5)
        assert not watching.done()
        await asyncio.to_thread(rows.leave, time.time(), returns=False)
        watched.append(await watching)

    awaited(client, watch())
    assert watched[0].outcome is BatchOutcome.AT_CAP


def test_what_a_worker_had_is_its_own_again(scene: Scene) -> None:
    """Interrupted, it keeps its rows for a lease; and it takes them up before it looks for any of others."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(4)))
    mine = scene.batch(book, worker="shard-0")
    mine.load()
    assert mine.run(stop=lambda: len(scene.remote.starts()) == 4).outcome is BatchOutcome.INTERRUPTED
    database = scene.client().ledger.database  # type: ignore[union-attr]
    other = Rows(database, 1, "shard-1", 60.0)
    assert other.adopt(time.time(), 10, [RowState.STARTED]) == []
    same = Rows(database, 1, "shard-0", 60.0)
    own = [row.key for row in same.adopt(time.time(), 3, [RowState.STARTED], own_after="")]
    own += [row.key for row in same.adopt(time.time(), 3, [RowState.STARTED], own_after=own[-1])]
    assert own == [one["id"] for one in records(4)]
    client = scene.client()
    assert awaited(client, Batch(client, "w47", worker="shard-0").cancel(only_mine=True)) == 4
    assert len(other.adopt(time.time(), 10, [RowState.STARTED])) == 4


def test_rows_are_for_the_debug_log(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """A campaign says how it stands, not how each of its rows does."""
    caplog.set_level("INFO", "tl_orchestration")
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(9))))
    batch.load()
    batch.run()
    assert len([record for record in caplog.records if record.name.startswith("tl_orchestration")]) < 9


def test_draining_lets_what_is_in_flight_end(scene: Scene) -> None:
    """Nothing is cancelled, and nothing more is started."""
    book = scene.book(write(scene.folder / "in.jsonl", records(6)))
    batch = scene.batch(book, limits=Limits(in_flight=4), worker="shard-0")
    batch.load()
    batch.run(at_cap="return")
    assert scene.cancel(drain=True) == 0
    summary = batch.run()
    assert summary.outcome is BatchOutcome.CANCELLED
    assert summary.counts == {RowState.SUCCEEDED: 4, RowState.PENDING: 2}
    assert scene.remote.cancels() == []


def test_a_source_that_changes_is_read_again(scene: Scene) -> None:
    """Rows that have started keep what they were started with, and are told; others take the new record."""
    file = scene.folder / "in.jsonl"
    columns = Columns(key="id", parameters={"firstName": "first"})
    book = scene.book(write(file, [{"id": "a", "first": "Ada"}, {"id": "b", "first": "Bob"}]), columns=columns)
    batch = scene.batch(book, policy=Policy(canary=1))
    batch.load()
    batch.run()
    write(file, [{"id": "b", "first": "Robert"}, {"id": "a", "first": "Adele"}, {"id": "c", "first": "Cy"}])
    again = scene.batch(book)
    report = again.load()
    assert (report.accepted, report.changed, report.withdrawn) == (3, 1, 0)
    told = {"row": 2, "key": "a", "column": None, "reason": "changed after it had started"}
    assert (list(report.samples), report.is_clean) == ([told], True)
    assert [json.loads(line) for line in (scene.output / "w47" / report.rejects[0]).read_text().splitlines()] == [told]
    assert again.run().counts == {RowState.SUCCEEDED: 3}
    assert scene.started() == {"Ada": 1, "Robert": 1, "Cy": 1}
    write(file, [{"id": "a", "first": "Ada"}])
    assert again.load().changed == 0


def test_rows_that_changed_behind_the_load_are_not_started(scene: Scene) -> None:
    """What is read again must be what was loaded, else the row is left and told."""
    file = write(scene.folder / "in.jsonl", [{"id": "a", "first": "Ada"}, {"id": "b", "first": "Bob"}])
    batch = scene.batch(scene.book(file))
    batch.load()
    write(file, [{"id": "a", "first": "Eve"}, {"id": "b", "first": "Bob"}])
    assert batch.run().counts == {RowState.INVALID: 1, RowState.SUCCEEDED: 1}
    assert scene.started() == {"Bob": 1}


def test_a_refused_token_ends_the_run_and_no_row(scene: Scene) -> None:
    """Rows wait for another token instead of being refused one by one."""
    book = scene.book(write(scene.folder / "in.jsonl", records(30)))
    batch = scene.batch(book)
    batch.load()
    with pytest.raises(AuthenticationError):
        scene.batch(book, token="tot_wrong").run()
    assert batch.summary().pending == 30
    assert batch.run().counts == {RowState.SUCCEEDED: 30}


def test_a_deadline_cancels_the_execution_and_is_told(scene: Scene) -> None:
    """The row is TIMED_OUT, also where a watcher saw the deadline pass, who cancels nothing."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(1)))
    batch = scene.batch(book, worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").outcome is BatchOutcome.IN_FLIGHT
    told(scene, "UPDATE tl_batch_rows SET deadline = deadline - 86400 + 1")  # by default it is a day away
    assert scene.watch("shard-0").in_flight == 1
    assert scene.remote.cancels() == []
    assert batch.run().counts == {RowState.TIMED_OUT: 1}
    assert len(scene.remote.cancels()) == 1


def test_nothing_personal_is_in_the_store(scene: Scene, tmp_path: Path) -> None:
    """No parameter and no result is in any table."""
    lines = [{"id": f"c{number}", "first": f"MARKER{number}"} for number in range(5)]
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", lines)))
    batch.load()
    batch.run()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
    assert b"c1" in stored
    assert b"MARKER" not in stored
    assert b"riskScore" not in stored
