"""Large campaigns: every row is accounted for, and memory does not grow with their number."""

from __future__ import annotations

import os

import pytest

from benchmarks.batch import TARGET_MIB, measure
from tests.wire.batch.campaigns import Scene, records, write
from tl_orchestration.batch import Limits, Policy, RowState

SOAK = bool(os.environ.get("SOAK"))


@pytest.mark.timeout(1800 if SOAK else 300)
def test_ledger_service_and_output_agree_row_by_row(scene: Scene) -> None:
    """One process, one start for each row, one result for each start, and every poll thriftily sent."""
    count = 10_000 if SOAK else 400
    book = scene.book(write(scene.folder / "in.jsonl", records(count)))
    batch = scene.batch(book, limits=Limits(in_flight=500), policy=Policy(starts_at_once=10))
    batch.load()
    summary = batch.run()
    assert summary.counts == {RowState.SUCCEEDED: count}
    starts = {start["parameters"]["firstName"]: start["execution_id"] for start in scene.remote.starts()}
    expected = {one["id"]: starts[one["first"]] for one in records(count)}
    assert scene.started().total() == len(starts) == count
    assert {row["key"]: row["execution_id"] for row in batch.export()} == expected
    lines = scene.lines()
    assert len(lines) == count
    assert {line["key"]: line["execution_id"] for line in lines} == expected
    assert summary.polls_p95 is not None
    assert summary.polls_p95 <= 4


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_memory_stays_flat() -> None:
    """A process runs 100,000 rows in no more memory than the target, and polls each thriftily."""
    found = measure("batch", 100_000)
    assert found["rss_mib"] < TARGET_MIB
    assert found["polls_p95"] <= 4
