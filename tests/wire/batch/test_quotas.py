"""
Campaigns that share a quota, one of which nobody runs any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest

from tests.wire.batch.campaigns import Scene, awaited, records, write
from tl_orchestration.batch import Batch, BatchOutcome, Limits, Policy, RowState
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.ledger import SqlLedger


def left_alone(scene: Scene, count: int, most: int) -> Batch:
    """
    A campaign with so many executions in flight that nobody follows.
    """
    scene.remote.define("kyc-long", like="kyc-approve", duration=600)
    book = scene.book(write(scene.folder / "old.jsonl", records(count)), "kyc-long")
    batch = scene.batch(book, "old", limits=Limits(in_flight=most), worker="old-0")
    batch.load()
    assert batch.run(at_cap="return").in_flight == count
    return batch


def gone(scene: Scene) -> None:
    """
    The workers of every campaign have been silent for an hour.
    """
    ledger = SqlLedger(scene.store)
    with ledger.database.writing() as connection:
        connection.exec_driver_sql("UPDATE tl_batch_workers SET seen_at = seen_at - 3600")
    ledger.close()


def until(seconds: float) -> Callable[[], bool]:
    """
    A stop that keeps a failing test from lasting for ever.
    """
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() > ends


def test_a_campaign_that_nobody_runs_gives_its_share_back_when_it_has_ended(
    either: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Its executions are cancelled by a person; whoever needs the room sees that they have ended."""
    caplog.set_level(logging.WARNING, "tl_orchestration")
    old = left_alone(either, 4, 4)
    gone(either)
    book = either.book(write(either.folder / "new.jsonl", records(6)))
    new = either.batch(book, "new", worker="new-0")
    new.load()
    enough = until(60)
    blocked = new.run(stop=lambda: "in flight: 4 of old" in caplog.text or enough())
    assert (blocked.outcome, blocked.pending) == (BatchOutcome.INTERRUPTED, 6)
    assert "in flight: 4 of old" in caplog.text
    client = either.client()
    assert awaited(client, Batch(client, "old").cancel()) == 4
    assert new.run(stop=until(30)).counts == {RowState.SUCCEEDED: 6}
    assert old.summary().counts == {RowState.ENDED: 4}
    assert old.run().counts == {RowState.CANCELLED: 4}


def test_whoever_watches_makes_room_as_well(scene: Scene) -> None:
    """A deferred shard is woken once executions of a campaign that nobody runs have ended."""
    left_alone(scene, 2, 2)
    gone(scene)
    new = scene.batch(scene.book(write(scene.folder / "new.jsonl", records(3))), "new", worker="new-0")
    new.load()
    assert new.run(at_cap="return").outcome is BatchOutcome.AT_CAP
    client = scene.client()
    assert awaited(client, Batch(client, "old").cancel()) == 2
    client = scene.client()
    watched = awaited(client, Batch(client, "new", worker="new-0").watch(stop=until(30)))
    assert watched.outcome is BatchOutcome.AT_CAP


def test_executions_that_run_keep_their_share(scene: Scene) -> None:
    """That nobody follows them does not make them fewer: the limit holds in truth."""
    left_alone(scene, 2, 3)
    gone(scene)
    new = scene.batch(scene.book(write(scene.folder / "new.jsonl", records(3)), "kyc-long"), "new", worker="new-0")
    new.load()
    enough: list[Callable[[], bool]] = []

    def stop() -> bool:
        if len(scene.remote.starts()) >= 3 and not enough:
            enough.append(until(2))  # for what must not come
        return bool(enough) and enough[0]()

    assert new.run(stop=stop).in_flight == 1
    assert len(scene.remote.starts()) == 3


def test_whoever_watches_is_woken_for_room_that_others_leave(scene: Scene) -> None:
    """What other campaigns hold of the quota is no part of the low-water mark."""
    scene.remote.define("kyc-approve", duration=None)
    left_alone(scene, 3, 4)
    new = scene.batch(scene.book(write(scene.folder / "new.jsonl", records(6))), "new", worker="new-0")
    new.load()
    assert new.run(at_cap="return").outcome is BatchOutcome.AT_CAP
    scene.end(scene.remote.starts()[-1]["execution_id"])
    client = scene.client()
    watched = awaited(client, Batch(client, "new", worker="new-0").watch(stop=until(60)))
    assert watched.outcome in {BatchOutcome.AT_CAP, BatchOutcome.IN_FLIGHT}
    assert watched.count(RowState.ENDED) == 1
    again = new.run(at_cap="return")
    assert again.started_here == 1
    assert again.count(RowState.SUCCEEDED) == 1


def test_whoever_watches_is_woken_for_a_result_although_there_is_no_room(scene: Scene) -> None:
    """Nothing of its own runs any more: what has ended is kept, whoever has the quota."""
    scene.remote.define("kyc-approve", duration=None)
    left_alone(scene, 3, 4)
    new = scene.batch(scene.book(write(scene.folder / "new.jsonl", records(6))), "new", worker="new-0")
    new.load()
    new.run(at_cap="return")
    scene.end(scene.remote.starts()[-1]["execution_id"])
    client = scene.client()
    watching = Batch(client, "new", limits=Limits(in_flight=3), worker="new-0").watch(stop=until(60))
    assert awaited(client, watching).outcome is BatchOutcome.IN_FLIGHT
    assert new.run(at_cap="return").count(RowState.SUCCEEDED) == 1


def test_a_campaign_stays_in_its_quota_while_others_work_on_it(either: Scene) -> None:
    """Else their limit would not see what runs of it any more; once they are gone, it may have another one."""
    either.remote.define("kyc-approve", duration=None)
    book = either.book(write(either.folder / "in.jsonl", records(8)))
    first = either.batch(book, limits=Limits(quota="slow", in_flight=2), worker="shard-0")
    first.load()
    assert first.run(at_cap="return").in_flight == 2
    other = either.batch(book, worker="shard-1")
    with pytest.raises(InvalidSettings, match="under the quota slow: give that one"):
        other.load()
    assert first.run(at_cap="return").in_flight == 2
    gone(either)
    other.load()
    assert other._campaigns.named("w47").quota == "default"


@pytest.mark.parametrize("ends", [True, False])
def test_deadlines_that_pass_together_are_all_heeded(scene: Scene, *, ends: bool) -> None:
    """Nobody watched meanwhile. What has ended in time is a success, the others are cancelled; it takes its turns."""
    scene.remote.define("kyc-approve", duration=0.1 if ends else None)
    book = scene.book(write(scene.folder / "in.jsonl", records(12)))
    batch = scene.batch(book, policy=Policy(timeout=2), worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").in_flight == 12
    time.sleep(2)
    batch = scene.batch(book, limits=Limits(requests_per_second=2), worker="shard-0")
    assert batch.run().counts == {RowState.SUCCEEDED if ends else RowState.TIMED_OUT: 12}
    assert len(scene.remote.cancels()) == (0 if ends else 12)
