"""
Sources that are slow to give their rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attrs import define, field

from tests.wire.batch.campaigns import COLUMNS, Scene, records
from tl_orchestration.batch import Book, LoadReport, Policy
from tl_orchestration.batch.intake import Intake
from tl_orchestration.batch.sources import Portion, Record
from tl_orchestration.errors import LedgerError

LEASE = 1.0


@define(eq=False)
class Slow:
    """
    A query that sorts for longer than a lease before it gives its first row.
    """

    passes: list[str] = field(factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def identity(self) -> str | None:
        return "slow"

    def with_columns(self, key: str, columns: frozenset[str]) -> Slow:
        return self

    def portions(self, size: int) -> Iterator[Portion]:
        self.passes.append(threading.current_thread().name)
        time.sleep(2.5 * LEASE)
        self.meanwhile()
        yield Portion({}, list(records(3)))

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        return list(records(3))


def load(scene: Scene, source: Slow, worker: str) -> LoadReport:
    """
    One shard's load, with a short lease.
    """
    book = Book(workflow_definition_id="kyc-approve", source=source, columns=COLUMNS)
    return scene.batch(book, policy=Policy(lease=LEASE), worker=worker).load()


def test_a_slow_load_is_nobody_elses(either: Scene) -> None:
    """Another shard waits for longer than a lease, and takes it over from nobody: it lives."""
    source = Slow()
    with ThreadPoolExecutor(2) as shards:
        first = shards.submit(load, either, source, "shard-0")
        time.sleep(LEASE / 3)
        second = shards.submit(load, either, source, "shard-1")
        assert (first.result().accepted, second.result().skipped) == (3, True)
    assert len(source.passes) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "batch-loader"]


def test_a_load_that_cannot_say_that_it_lives_goes_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants it: a store that is locked for a moment ends nothing."""
    missed = threading.Event()

    def locked(*_: object) -> None:
        missed.set()
        raise LedgerError("The database is locked.")

    monkeypatch.setattr(Intake, "beat", locked)
    assert load(scene, Slow(), "shard-0").accepted == 3
    assert missed.is_set()


def test_a_loader_that_died_is_taken_over_after_a_lease(scene: Scene) -> None:
    """What says that it lives ends with the pass, so a load that has broken off is anybody's."""

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Intake, "give_up", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            load(scene, Slow(meanwhile=die), "shard-0")
    assert load(scene, Slow(), "shard-1").accepted == 3
