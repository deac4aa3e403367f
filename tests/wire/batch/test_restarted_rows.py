"""
Rows that are started once more: under the brakes of a campaign, and after their executions are known to nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from tests.wire.batch.campaigns import Scene, records, told, write
from tl_orchestration.batch import BatchOutcome, Limits, Policy, RowState
from tl_orchestration.batch.breaker import Breaker
from tl_orchestration.batch.buffers import Recorder
from tl_orchestration.batch.feed import Due, Feed
from tl_orchestration.batch.rows import Rows
from tl_orchestration.batch.shares import Shares
from tl_orchestration.ledger import Event, State


@pytest.mark.parametrize("brake", [Policy(max_starts=3), Policy(canary=3)], ids=["max_starts", "canary"])
def test_a_retry_starts_no_further_row(either: Scene, brake: Policy) -> None:
    """Rows that were started before may be again under the brake, which is about how many rows there are."""
    either.remote.define("kyc-fail", duration=0.1)
    book = either.book(write(either.folder / "in.jsonl", records(6)), "kyc-fail")
    batch = either.batch(book, policy=brake)
    batch.load()
    assert batch.run().counts == {RowState.FAILED: 3, RowState.PENDING: 3}
    either.remote.define("kyc-fail", outcome="COMPLETED", decision="approve")
    assert batch.retry() == 3
    summary = batch.run()
    assert summary.outcome is BatchOutcome.STOPPED
    assert summary.counts == {RowState.SUCCEEDED: 3, RowState.PENDING: 3}
    assert (summary.started_here, len(either.started())) == (3, 3)


def test_a_retry_leaves_nothing_of_the_former_attempt(scene: Scene) -> None:
    """Whether the next one starts, and which revision it runs, is yet to be seen."""
    scene.remote.define("kyc-fail", duration=0.1)
    batch = scene.batch(scene.book(write(scene.folder / "in.jsonl", records(1)), "kyc-fail"), policy=Policy(timeout=60))
    batch.load()
    batch.run()
    (failed,) = batch.export()
    assert None not in {failed["execution_id"], failed["started_at"], failed["ended_at"], failed["status"]}

    batch.retry()

    known = {"key": "c00000", "state": "PENDING", "attempt": 2, "polls": 0}
    assert list(batch.export()) == [dict.fromkeys(failed) | known]
    told(scene, "UPDATE tl_batch_rows SET attempt = 1 WHERE deadline IS NULL AND expires_at IS NULL")
    assert next(batch.export())["attempt"] == 1


def test_rows_of_a_retry_are_found_behind_those_that_may_not_start(scene: Scene) -> None:
    """They are in a slice behind one with rows for which the brake leaves no room."""
    scene.remote.define("kyc-fail", duration=0.1)
    book = scene.book(write(scene.folder / "in.jsonl", records(202)), "kyc-fail")
    batch = scene.batch(book)
    batch.load()
    told(scene, "UPDATE tl_batch_rows SET state = 'FAILED' WHERE key = 'c00201'")
    assert batch.retry() == 1
    summary = scene.batch(book, policy=Policy(max_starts=1)).run()
    assert summary.counts == {RowState.FAILED: 1, RowState.PENDING: 201}
    assert scene.started() == {"Ada 201": 1}


def test_what_rows_of_a_retry_were_granted_is_not_for_others(scene: Scene) -> None:
    """Another pass takes them out before they are started: the brake still holds for the rows that are left."""
    file = write(scene.folder / "in.jsonl", records(12))
    policy = Policy(max_starts=10, starts_at_once=1)
    batch = scene.batch(scene.book(file), policy=policy)
    batch.load()
    told(scene, "UPDATE tl_batch_rows SET state = 'FAILED' WHERE key < 'c00010'")
    assert batch.retry() == 10
    book, database, namespace = batch._book, batch._database, batch._ledger.namespace
    assert book is not None
    rows, shares = Rows(database, 1, "shard-0", 60.0), Shares(database, namespace, "default", 60.0)
    rows.enter(namespace, "default", time.time())
    shares.agree(Limits(), None)
    feed = Feed(
        1,
        "shard-0",
        book,
        policy,
        rows=rows,
        shares=shares,
        breaker=Breaker(shares, 1, 3),
        recorder=Recorder(rows),
        fingerprint=batch._fingerprint,
    )

    async def take() -> Sequence[Due] | BatchOutcome:
        due = await feed.take(1)
        assert not isinstance(due, BatchOutcome)
        for one in due:
            await feed.came(one.part)
        write(file, list(records(12))[10:])
        batch.load()
        return await feed.take(2)

    assert asyncio.run(take()) is BatchOutcome.STOPPED


def test_a_row_whose_execution_nobody_knows_is_started_anew_on_somebodys_word(scene: Scene) -> None:
    """Without it, it is only looked for again."""
    scene.remote.define("kyc-approve", duration=None)
    book = scene.book(write(scene.folder / "in.jsonl", records(2)))
    batch = scene.batch(book, limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").in_flight == 2
    scene.remote.reset()
    scene.remote.define("kyc-approve", duration=0.1)
    told(scene, "UPDATE tl_batch_rows SET state = 'UNKNOWN', reason = 'NotFound', owner = NULL")
    assert batch.retry() == 2
    assert batch.run().counts == {RowState.UNKNOWN: 2}
    assert scene.remote.starts() == []
    assert batch.retry(unknown="restart") == 2
    assert batch.run().counts == {RowState.SUCCEEDED: 2}
    assert scene.started() == {"Ada 0": 1, "Ada 1": 1}


@pytest.mark.parametrize("runs", [False, True])
def test_a_verdict_is_heeded_although_the_source_no_longer_has_the_row(either: Scene, *, runs: bool) -> None:
    """What was started is followed; what was not is withdrawn. Neither stays of unknown fate for ever."""
    either.remote.order("start", "lose", definition="kyc-approve")
    file = write(either.folder / "in.jsonl", records(1))
    batch = either.batch(either.book(file))
    batch.load()
    assert batch.run().counts == {RowState.UNKNOWN: 1}
    write(file, [])
    batch.load()
    assert batch.retry([RowState.UNKNOWN]) == 0
    assert batch.retry([RowState.UNKNOWN], unknown="restart") == 0
    (start,) = either.remote.starts()
    state, execution_id = (State.STARTED, start["execution_id"]) if runs else (State.REJECTED, None)
    verdict = Event(state=state, at=time.time(), execution_id=execution_id, adopted=runs, reason="I looked", actor="me")
    batch._ledger.append("batch/w47/c00000", verdict)
    assert batch.retry([RowState.UNKNOWN]) == runs
    assert batch.run().counts == {RowState.SUCCEEDED if runs else RowState.INVALID: 1}
    assert batch.purge() == 1
