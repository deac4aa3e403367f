"""What campaigns share over one connection: limits hold for all of them together, and one breaker stops all."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from tests.postgres import Postgres
from tests.wire.batch.campaigns import Scene, awaited, records, write
from tl_orchestration.batch import Batch, BatchOutcome, Limits, Policy, RowState, shares, starting, throttle
from tl_orchestration.batch.rows import Rows, Update
from tl_orchestration.batch.throttle import ThrottledWire
from tl_orchestration.database.engine import Database
from tl_orchestration.ledger import Event, State
from tl_orchestration.ledger.records import Records
from tl_orchestration.retry import RetryPolicy

SOAK = bool(os.environ.get("SOAK"))


def noted(batch: Batch, times: list[float]) -> Batch:
    """
    Have the moments noted at which the batch's requests leave.
    """
    wire: Any = batch._client._wire
    send = wire.send

    async def noting(request: Any) -> Any:
        times.append(time.time())
        return await send(request)

    wire.send = noting
    return batch


def test_two_batches_stay_under_one_rate_together(either: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take turns at the distance that the quota's rate asks for, and no request leaves before its turn."""
    rate, times, turns, used = 40.0, list[float](), list[float](), list[float]()
    portion, take = shares.Shares.turns, throttle.Turns._take

    def noted_portion(quota: shares.Shares, count: int, now: float) -> tuple[float, float]:
        begin, spacing = portion(quota, count, now)
        turns.extend(begin + number * spacing for number in range(count))
        return begin, spacing

    async def noted_turn(own: throttle.Turns) -> float:
        used.append(await take(own))
        return used[-1]

    monkeypatch.setattr(shares.Shares, "turns", noted_portion)
    monkeypatch.setattr(throttle.Turns, "_take", noted_turn)
    book = either.book(write(either.folder / "in.jsonl", records(15)))
    limits = Limits(requests_per_second=rate)
    batches = [noted(either.batch(book, campaign, limits=limits), times) for campaign in ("one", "two")]
    for batch in batches:
        batch.load()
    with ThreadPoolExecutor(2) as threads:
        for summary in threads.map(Batch.run, batches):
            assert summary.counts == {RowState.SUCCEEDED: 15}
    assert 90 <= len(times) <= len(used)
    assert set(used) <= set(turns)
    assert min(later - first for first, later in pairwise(sorted(turns))) >= 0.99 / rate
    # However late timers are, so many have left as turns have come, and no more.
    assert [left for turn, left in zip(sorted(used), sorted(times), strict=False) if left < turn] == []


def test_two_batches_stay_under_one_limit_in_flight(either: Scene) -> None:
    """Together they start what may be in flight, whoever of them is faster."""
    either.remote.define("kyc-approve", duration=None)
    book = either.book(write(either.folder / "in.jsonl", records(30)))
    batches = [either.batch(book, campaign, limits=Limits(in_flight=7)) for campaign in ("one", "two")]
    for batch in batches:
        batch.load()
    with ThreadPoolExecutor(2) as threads:
        outcomes = {summary.outcome for summary in threads.map(lambda batch: batch.run(at_cap="return"), batches)}
    assert outcomes <= {BatchOutcome.AT_CAP}
    assert len(either.remote.starts()) == 7


def test_a_start_that_is_recorded_while_others_count_is_counted_once(scene: Scene, postgres: Postgres) -> None:
    """No moment between a reservation and its row lets somebody else start one more than the limit."""
    here = Scene(scene.remote, postgres.ready_database(), scene.folder)
    batch = here.batch(here.book(write(here.folder / "in.jsonl", records(3))), limits=Limits(in_flight=1))
    batch.load()
    database = Database(here.store)
    quota = shares.Shares(database, here.client().ledger.namespace, "default", 60.0)  # type: ignore[union-attr]
    quota.agree(Limits(in_flight=1), None)
    rows, other = Rows(database, 1, "one", 60.0), Rows(database, 1, "other", 60.0)
    for worker in (rows, other):
        worker.enter(here.client().ledger.namespace, "default", time.time())  # type: ignore[union-attr]
    assert quota.grant(1, "one", 1, time.time(), most=1) == 1
    counted: list[str] = []

    def recorded(*arguments: Any) -> None:
        """After the first count of a grant, the start of the other worker goes on record."""
        if "count(" in arguments[2] and not counted:
            counted.append(arguments[2])
            started = Update(key="c00000", attempt=1, state=RowState.STARTED, values={"execution_id": "e1"})
            Rows(Database(here.store), 1, "one", 60.0).record([started], unreserved=1)

    event.listen(database._engine, "after_cursor_execute", recorded)
    assert quota.grant(1, "other", 1, time.time()) == 0
    assert counted


def test_two_workers_of_one_campaign_start_every_row_once(either: Scene) -> None:
    """Shards share the rows, and each row is in one of their parts."""
    book = either.book(write(either.folder / "in.jsonl", records(450)))
    batches = [either.batch(book, worker=f"shard-{number}") for number in range(2)]
    with ThreadPoolExecutor(2) as threads:
        assert sorted(report.skipped for report in threads.map(Batch.load, batches)) == [False, True]
        summaries = list(threads.map(Batch.run, batches))
    assert sum(summary.started_here for summary in summaries) == 450
    assert all(summary.counts == {RowState.SUCCEEDED: 450} for summary in summaries)
    assert either.started() == {one["first"]: 1 for one in records(450)}
    lines = either.lines()
    assert len(lines) == len({line["key"] for line in lines}) == 450


@pytest.mark.timeout(1200 if SOAK else 300)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_phase_of_502_leaves_a_handful_unknown(scene: Scene, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The breaker stops the starts, probes with one row now and then, and lets the campaign finish afterwards."""
    phase, rows = (300.0, 1000) if SOAK else (4.0, 120)
    if not SOAK:
        monkeypatch.setattr(shares, "FIRST_PROBE", 0.5)
        monkeypatch.setattr(shares, "LAST_PROBE", 4.0)
    book = scene.book(write(scene.folder / "in.jsonl", records(rows)))
    limits = Limits(requests_per_second=40 if SOAK else None)
    batches = [scene.batch(book, limits=limits, policy=Policy(), worker=f"shard-{one}") for one in range(workers)]
    batches[0].load()
    scene.remote.order("start", "status", status=502, times=1_000_000, definition="kyc-approve")

    def end() -> None:
        scene.remote.wait_for("POST /workflows", 3)  # so many open the breaker
        time.sleep(phase)
        httpx.delete(f"{scene.remote.url}/_sandbox/faults", trust_env=False).raise_for_status()

    ends = threading.Thread(target=end)
    ends.start()
    with ThreadPoolExecutor(workers) as threads:
        summaries = list(threads.map(Batch.run, batches))
    ends.join()
    unknown = summaries[0].unknown
    assert 3 <= unknown <= 5 * workers + 4
    assert summaries[0].counts == {RowState.SUCCEEDED: rows - unknown, RowState.UNKNOWN: unknown}
    assert len(scene.remote.starts()) == rows - unknown


def test_a_service_that_is_not_there_costs_no_row(scene: Scene) -> None:
    """Starts that were never sent are neither unknown nor refused: the rows wait."""
    book = scene.book(write(scene.folder / "in.jsonl", records(5)))
    scene.batch(book).load()
    down = Scene(scene.remote, scene.store, scene.folder)
    batch = down.batch(book, connect_timeout=0.2)
    batch._client._wire._base_url = "http://127.0.0.1:9"  # nobody listens there
    batch._client._retry = RetryPolicy(attempts=1)
    calls = iter(range(1000))
    summary = batch.run(stop=lambda: next(calls) > 40)
    assert summary.counts == {RowState.PENDING: 5}
    assert summary.breaker_open


def test_requests_that_wait_fail_no_start(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them wait for their turn: a start is announced when it has one, and then waits for none."""
    caplog.set_level(logging.WARNING, "tl_orchestration")
    waited: list[bool] = []
    mine = throttle.Turns.mine

    async def noting(turns: throttle.Turns, *, announced: bool = False) -> None:
        waited.append(announced)
        await mine(turns, announced=announced)

    monkeypatch.setattr(throttle.Turns, "mine", noting)
    monkeypatch.setattr(throttle, "_KEPT", 60.0)  # a busy machine may take more than a second over an announcement
    book, limits = scene.book(write(scene.folder / "in.jsonl", records(90))), Limits(in_flight=80)
    scene.batch(book).load()
    assert scene.batch(book, limits=limits, worker="shard-0").run(at_cap="return").in_flight == 80
    client = scene.client()
    watched = awaited(client, Batch(client, "w47", worker="shard-0").watch(low_water=0.001))
    assert watched.count(RowState.ENDED) == 80
    waited.clear()
    slow = Limits(in_flight=80, requests_per_second=40)
    batch = scene.batch(book, limits=slow, worker="shard-0", request_timeout=119)
    batch._client._retry = RetryPolicy(attempts=1)
    assert batch.run().counts == {RowState.SUCCEEDED: 90}
    assert len(waited) > 90
    assert not any(waited)
    assert not caplog.messages


def test_starts_that_were_late_open_no_breaker(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent, and that was this client's own doing."""
    late = {"left": 6}

    async def send(wire: Any, request: Any) -> Any:
        if request.operation == "run" and late["left"]:
            late["left"] -= 1
            raise wire._wire._overdue(request)
        return await passed(wire, request)

    passed = ThrottledWire.send
    monkeypatch.setattr(ThrottledWire, "send", send)
    monkeypatch.setattr(starting, "_AGAIN", 0.2)
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(5))))
    batch._client._retry = RetryPolicy(attempts=1)
    batch.load()
    ends = time.monotonic() + 120
    assert batch.run(stop=lambda: time.monotonic() > ends).counts == {RowState.SUCCEEDED: 5}
    assert not late["left"]


def test_a_probe_that_is_told_to_wait_is_followed_by_another(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 429 says that the service answers: it is asked again when it says, and not minutes later."""
    monkeypatch.setattr(shares, "FIRST_PROBE", 0.3)
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(6))), policy=Policy(starts_at_once=1))
    batch._client._retry = RetryPolicy(attempts=1)
    batch.load()
    scene.remote.order("start", "status", status=502, times=3)
    scene.remote.order("start", "status", status=429, headers={"Retry-After": "1"})
    ends = time.monotonic() + 120
    summary = batch.run(stop=lambda: time.monotonic() > ends)
    assert summary.counts == {RowState.UNKNOWN: 3, RowState.SUCCEEDED: 3}


def test_a_probe_that_meets_what_others_have_left_is_followed_by_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the ledger was told to forget says nothing about the service."""
    monkeypatch.setattr(shares, "FIRST_PROBE", 0.3)
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(6))), policy=Policy(starts_at_once=1))
    batch._client._retry = RetryPolicy(attempts=1)
    batch.load()
    ledger = batch._ledger
    for key in ("c00003", "c00004"):
        name = starting.ledger_key("w47", key)
        entry = ledger.claim(name, Event(state=State.INTENT, at=1.0, generation="1"), None)
        ledger.append(name, Event(state=State.REJECTED, at=2.0, version=entry.version))
    assert Records(ledger.database).purge(unchanged_since=3.0, actor="operator", now=4.0) == 2
    scene.remote.order("start", "status", status=502, times=3)
    ends = time.monotonic() + 120
    summary = batch.run(stop=lambda: time.monotonic() > ends)
    assert summary.counts == {RowState.UNKNOWN: 3, RowState.REJECTED: 2, RowState.SUCCEEDED: 1}
