"""
What happens to a campaign while a worker is at it: it is loaded again, stopped, left by others, its store goes away.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import create_engine, text

from tests.wire.batch.campaigns import Scene, awaited, records, told, write
from tl_orchestration import AsyncClient, OrganizationToken
from tl_orchestration.batch import Batch, BatchOutcome, BatchSummary, Limits, Policy, RowState, worker
from tl_orchestration.batch.rows import Rows
from tl_orchestration.errors import InvalidRequest, InvalidSettings, LedgerError
from tl_orchestration.ledger import Event, SqlLedger, State


def until(said: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not said():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_a_campaign_loaded_again_starts_nothing_that_was_taken_out(either: Scene, beside: ThreadPoolExecutor) -> None:
    """A worker has claimed rows of the former book; those that are left are started, with what the new book says."""
    file = write(either.folder / "in.jsonl", records(12))
    batch = either.batch(either.book(file), limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    either.remote.define("kyc-approve", duration=None)
    running = beside.submit(batch.run)
    until(lambda: len(either.remote.starts()) == 2)
    write(file, [*records(3), {"id": "c00003", "first": "Changed"}])
    assert either.batch(either.book(file), worker="shard-1").load().withdrawn == 8
    either.remote.define("kyc-approve", duration=0.1)
    either.end()
    summary = running.result(60)
    assert summary.counts == {RowState.SUCCEEDED: 4, RowState.INVALID: 8}
    assert either.started() == {"Ada 0": 1, "Ada 1": 1, "Ada 2": 1, "Changed": 1}
    assert len(either.lines()) == 4


def test_a_start_under_way_is_on_record_although_its_row_was_taken_out(
    either: Scene, beside: ThreadPoolExecutor, let_go: threading.Event
) -> None:
    """The execution runs, so it is counted, followed and kept."""
    either.remote.order("start", "hold", seconds=25, definition="kyc-approve")
    file = write(either.folder / "in.jsonl", records(1))
    batch = either.batch(either.book(file), worker="shard-0")
    batch.load()
    running = beside.submit(batch.run)
    until(lambda: either.remote.count("POST /workflows") == 1)
    write(file, [])
    assert either.batch(either.book(file), worker="shard-1").load(again=True).withdrawn == 1
    let_go.set()
    assert running.result(60).counts == {RowState.SUCCEEDED: 1}
    (line,) = either.lines()
    assert line["execution_id"] == either.remote.starts()[0]["execution_id"]


def test_a_load_that_fails_leaves_what_is_in_flight_to_its_worker(scene: Scene, beside: ThreadPoolExecutor) -> None:
    """Nothing more is started, and the worker says so once it has followed the others to their ends."""
    file = write(scene.folder / "in.jsonl", records(6))
    scene.remote.define("kyc-approve", duration=None)
    batch = scene.batch(scene.book(file), limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    running = beside.submit(batch.run)
    until(lambda: batch.summary().in_flight == 2)
    write(file, [*records(6), "rubbish"])
    strict = scene.batch(scene.book(file), policy=Policy(on_bad_rows="stop"), worker="shard-1")
    with pytest.raises(InvalidRequest):
        strict.load()
    scene.end()
    with pytest.raises(InvalidSettings, match="load it again"):
        running.result(60)
    assert batch.summary().counts == {RowState.SUCCEEDED: 2, RowState.PENDING: 4}


def test_starts_under_way_at_a_stop_can_be_cancelled(either: Scene) -> None:
    """They are on record when the worker has ended, so nothing runs that nobody knows of."""
    either.remote.define("kyc-approve", duration=None)
    either.remote.order("start", "hold", seconds=1, times=5, definition="kyc-approve")
    batch = either.batch(either.book(write(either.folder / "in.jsonl", records(5))))
    batch.load()

    def stop() -> bool:
        return either.remote.count("POST /workflows") >= 3

    assert batch.run(stop=stop).outcome is BatchOutcome.INTERRUPTED
    started = {start["execution_id"] for start in either.remote.starts()}
    assert len(started) >= 3
    assert batch.summary().in_flight == len(started)
    with pytest.raises(InvalidSettings, match="in flight"):
        batch.purge()
    assert either.cancel() == len(started)
    assert {cancel["execution_id"] for cancel in either.remote.cancels()} == started


def test_a_start_whose_worker_was_killed_can_be_cancelled(either: Scene) -> None:
    """Only the ledger knows it: a cancel takes it in, and a purge refuses to forget it."""
    either.remote.define("kyc-approve", duration=None)
    batch = either.batch(either.book(write(either.folder / "in.jsonl", records(2))), worker="shard-0")
    batch.load()
    batch.run(at_cap="return")
    engine = create_engine(either.store)
    with engine.begin() as connection:  # as it was before the start was on record in the campaign
        connection.execute(text("UPDATE tl_batch_rows SET state = 'PENDING', execution_id = NULL, owner = NULL"))
    engine.dispose()
    with pytest.raises(InvalidSettings, match=r"Of 2 rows .* cancel it"):
        batch.purge()
    assert either.cancel() == 2
    assert batch.run().counts == {RowState.CANCELLED: 2}


def lost(scene: Scene, batch: Batch, key: str, *, minutes: int = 60, preparing: bool = False) -> None:
    """
    A worker has announced a start so long ago, and was killed before it knew what came of it.
    """
    at = time.time() - 60 * minutes
    intent = Event(state=State.INTENT, at=at, generation="1", settles_at=at + 180, preparing=preparing)
    batch._ledger.claim(f"batch/w47/{key}", intent, None)


@pytest.mark.parametrize("cancels", [0, 1, 2])
def test_an_announced_start_of_a_killed_worker_is_unknown_also_where_nobody_tries_its_row(
    either: Scene, cancels: int
) -> None:
    """Cancelled campaigns start nothing, so no start finds it: whoever cancels looks, and whoever runs it on."""
    batch = either.batch(either.book(write(either.folder / "in.jsonl", records(3))))
    batch.load()
    if cancels < 2:
        assert either.cancel() == 0
    lost(either, batch, "c00000")
    lost(either, batch, "c00001", preparing=True)
    with pytest.raises(InvalidSettings, match=r"Of 1 rows .* cancel it"):
        batch.purge()
    if cancels:
        assert either.cancel() == 0
        assert batch.summary().unknown == 1
    summary = batch.run()
    assert (summary.outcome, summary.unknown, summary.pending) == (BatchOutcome.CANCELLED, 1, 2)
    assert either.remote.starts() == []


def test_a_start_that_may_be_under_way_is_left_to_whoever_is_at_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Its announcement is fresh; it is no reason to forget the campaign either, and whoever cancels is told."""
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(1))))
    batch.load()
    lost(scene, batch, "c00000", minutes=0)
    scene.cancel()
    assert batch.run().counts == {RowState.PENDING: 1}
    assert "Campaign w47: of 1 rows it is not known yet" in caplog.text
    assert "`tl batch cancel w47` in some minutes" in caplog.text
    with pytest.raises(InvalidSettings, match="some minutes later"):
        batch.purge()


def test_rows_that_were_taken_out_after_their_worker_was_killed_have_started(either: Scene) -> None:
    """Only the ledger knows of their starts: one runs, and is followed and kept; one may run, and is unknown."""
    either.remote.define("kyc-approve", duration=None)
    file = write(either.folder / "in.jsonl", records(3))
    batch = either.batch(either.book(file), limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").in_flight == 2
    told(either, "UPDATE tl_batch_rows SET state = 'PENDING', execution_id = NULL, owner = NULL WHERE key = 'c00001'")
    lost(either, batch, "c00002")
    write(file, records(1))
    assert batch.load().withdrawn == 2
    summary = batch.run(at_cap="return")
    assert summary.counts == {RowState.STARTED: 2, RowState.UNKNOWN: 1}
    assert either.cancel() == 2
    assert batch.run().counts == {RowState.CANCELLED: 2, RowState.UNKNOWN: 1}
    assert len(either.lines()) == 2


def test_a_cancel_has_no_row_followed_twice(
    scene: Scene, beside: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cancels takes in starts that their worker has not put on record yet; it follows them all the same."""
    monkeypatch.setattr(worker, "_FLUSH", 3.0)
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(300)))
    batch = scene.batch(book, policy=Policy(starts_at_once=20), worker="shard-0")
    batch.load()
    running = beside.submit(batch.run)
    until(lambda: len(scene.remote.starts()) >= 60)
    assert scene.cancel()
    summary = running.result(60)
    assert len(scene.lines()) == summary.count(RowState.CANCELLED) == len(scene.remote.starts())


def test_a_cancel_keeps_to_the_quota_and_is_counted(scene: Scene) -> None:
    """Its requests leave one after the other, as all others do."""
    scene.remote.define("kyc-approve", duration=None)
    limits = Limits(requests_per_second=20)
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(15))), limits=limits)
    batch.load()
    batch.run(at_cap="return")
    before, began = sum(batch.summary().requests.values()), time.monotonic()
    assert scene.cancel() == 15
    assert time.monotonic() - began > 0.5
    assert sum(batch.summary().requests.values()) >= before + 15


def test_a_drained_campaign_keeps_no_grants(scene: Scene, beside: ThreadPoolExecutor) -> None:
    """Another campaign of the quota gets what the drained one does not start."""
    scene.remote.define("kyc-approve", duration=None)
    scene.remote.order("start", "hold", seconds=0.5, times=100, definition="kyc-approve")
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(60))), limits=Limits(in_flight=50))
    batch.load()
    running = beside.submit(batch.run)
    until(lambda: len(scene.remote.starts()) >= 5)
    scene.cancel(drain=True)

    def reserved() -> int:
        with closing(sqlite3.connect(scene.folder / "ledger.db")) as connection:
            return int(connection.execute("SELECT coalesce(sum(reserved), 0) FROM tl_batch_workers").fetchone()[0])

    try:
        until(lambda: reserved() == 0)
        assert batch.summary().in_flight
    finally:
        scene.cancel()
        assert running.result(60).outcome is BatchOutcome.CANCELLED


def test_two_workers_do_not_leave_a_campaign_to_one_another(either: Scene) -> None:
    """However closely they ask."""
    batch = either.batch(either.book(write(either.folder / "in.jsonl", records(2))))
    batch.load()
    database = either.client().ledger.database  # type: ignore[union-attr]
    both = [Rows(database, 1, f"shard-{number}", 60.0) for number in range(2)]
    for _ in range(20):
        for one in both:
            one.enter(batch._ledger.namespace, "default", time.time())
        together = threading.Barrier(2)

        def leave(rows: Rows, together: threading.Barrier = together) -> bool:
            together.wait()
            return rows.leave_to_others(time.time())

        with ThreadPoolExecutor(2) as threads:
            assert sorted(threads.map(leave, both)) == [False, True]


def test_a_deadline_wakes_once(scene: Scene) -> None:
    """Whoever is woken for it does something about it at once, and does not go to sleep again over it."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(3)))
    policy = Policy(timeout=2)
    scene.batch(book, policy=policy, worker="shard-0").load()
    wakes = 0
    while True:
        summary = scene.batch(book, policy=policy, worker="shard-0").run(at_cap="return", wait_for_others=False)
        if summary.outcome is BatchOutcome.FINISHED:
            break
        wakes += 1
        scene.watch("shard-0")
    assert summary.counts == {RowState.TIMED_OUT: 3}
    assert wakes <= 3
    assert len(scene.remote.cancels()) == 3


def test_refused_starts_are_no_lack_of_work(scene: Scene) -> None:
    """A run that has tried rows had something to start."""
    scene.remote.order("start", "status", status=400, times=3, definition="kyc-approve")
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(3))))
    batch.load()
    summary = batch.run()
    assert (summary.outcome, summary.counts) == (BatchOutcome.FINISHED, {RowState.REJECTED: 3})
    assert batch.run().outcome is BatchOutcome.NOTHING_TO_START


def test_a_store_that_goes_away_for_seconds_is_waited_for(scene: Scene, beside: ThreadPoolExecutor) -> None:
    """Nobody can read or write it for three seconds; the worker, and whoever watches, go on after."""
    file = scene.folder / "ledger.db"
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 0.2})
    book = scene.book(write(scene.folder / "in.jsonl", records(60)))

    def batch(worker: str | None) -> Batch:
        client = AsyncClient(OrganizationToken("tot_sandbox"), scene.remote.url, ledger=SqlLedger(engine))
        return Batch(client, "w47", book, output=scene.output, limits=Limits(in_flight=8), worker=worker)

    one = batch("shard-0")
    one.load()
    with closing(sqlite3.connect(file, isolation_level=None)) as thief:
        running = beside.submit(one.run)
        until(lambda: len(scene.remote.starts()) >= 5)
        _hold(thief)
        assert running.result(60).counts == {RowState.SUCCEEDED: 60}
        assert set(scene.started().values()) == {1}

        scene.remote.define("kyc-approve", duration=4)
        other = Batch(one._client, "w48", book, worker="shard-0")
        other.load()
        other.run(at_cap="return")
        watching = beside.submit(lambda: awaited(one._client, other.watch()))
        time.sleep(0.5)
        _hold(thief)
        watched: BatchSummary = watching.result(60)
    assert watched.outcome in {BatchOutcome.AT_CAP, BatchOutcome.IN_FLIGHT}
    engine.dispose()


def _hold(thief: sqlite3.Connection) -> None:
    ends = time.monotonic() + 60
    while True:
        try:
            thief.execute("BEGIN EXCLUSIVE")
            break
        except sqlite3.OperationalError:
            assert time.monotonic() < ends
    time.sleep(3)
    thief.execute("ROLLBACK")


def test_a_store_that_never_worked_is_said_at_once(scene: Scene) -> None:
    """Patience is for what has worked before."""
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(1))))
    batch.load()
    batch._database.close()
    (scene.folder / "ledger.db").unlink()
    (scene.folder / "ledger.db").mkdir()
    with pytest.raises(LedgerError):
        batch.run()
