"""
Sources that are slow to give their rows, or gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]  # it has no types
import pytest
from attrs import define, field
from pyarrow import parquet

from tests.wire.batch.campaigns import COLUMNS, Scene, records, told, write
from tl_orchestration.batch import Book, Limits, LoadReport, Policy, RowState
from tl_orchestration.batch.intake import Intake
from tl_orchestration.batch.sources import Portion, Record
from tl_orchestration.errors import LedgerError, StorageFailed

#: Nobody may be kept from saying that he lives for so long, also where much else goes on.
LEASE = 4.0


@define(eq=False)
class Slow:
    """
    A query that sorts for a while before it gives its first row.
    """

    passes: list[str] = field(factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def identity(self) -> str | None:
        return "slow"

    def with_columns(self, key: str, columns: frozenset[str]) -> Slow:
        return self

    def portions(self, size: int) -> Iterator[Portion]:
        self.passes.append(threading.current_thread().name)
        self.meanwhile()
        yield Portion({}, list(records(3)))

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        return list(records(3))


def load(scene: Scene, source: Slow, worker: str, lease: float = LEASE) -> LoadReport:
    """
    One shard's load, with a short lease.
    """
    book = Book(workflow_definition_id="kyc-approve", source=source, columns=COLUMNS)
    return scene.batch(book, policy=Policy(lease=lease), worker=worker).load()


def test_a_slow_load_is_nobody_elses(either: Scene) -> None:
    """Another shard waits for longer than a lease, and takes it over from nobody: it lives."""
    begun = threading.Event()

    def sorts() -> None:
        begun.set()
        time.sleep(2 * LEASE)

    source = Slow(meanwhile=sorts)
    with ThreadPoolExecutor(2) as shards:
        first = shards.submit(load, either, source, "shard-0")
        assert begun.wait(30)
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

    def sorts() -> None:
        missed.wait(30)

    assert load(scene, Slow(meanwhile=sorts), "shard-0").accepted == 3
    assert missed.is_set()


def test_a_former_life_that_is_left_over_takes_no_load_away(either: Scene) -> None:
    """It goes by the same name, so it is told from the one that has taken over by its pass."""
    batch = either.batch(either.book(write(either.folder / "in.jsonl", records(3))), worker="shard-0")
    lives = []
    for _ in range(2):
        opened, turn = batch._campaigns.open_for_loading(
            "w47",
            definition="kyc-approve",
            quota="default",
            output=None,
            source="s",
            loader="shard-0",
            again=False,
            lease=60.0,
            now=time.time(),
        )
        assert turn == "load"
        lives.append(Intake(batch._database, opened, "shard-0"))
    former, latter = lives
    with pytest.raises(LedgerError, match="taken over"):
        former.take({}, [], time.time())
    former.give_up()
    latter.take({}, [], time.time())
    latter.give_up()
    with pytest.raises(LedgerError, match="taken over"):
        latter.take({}, [], time.time())


def test_a_loader_that_died_is_taken_over_after_a_lease(scene: Scene) -> None:
    """What says that it lives ends with the pass, so a load that has broken off is anybody's."""

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Intake, "give_up", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            load(scene, Slow(meanwhile=die), "shard-0", lease=1.0)
    assert load(scene, Slow(), "shard-1", lease=1.0).accepted == 3


@pytest.fixture(params=["jsonl", "csv", "parquet"])
def file(request: pytest.FixtureRequest, scene: Scene) -> Path:
    """
    A book of four customers.
    """
    path = scene.folder / f"in.{request.param}"
    if request.param == "jsonl":
        return write(path, records(4))
    if request.param == "csv":
        path.write_text("id,first\n" + "".join(f"{one['id']},{one['first']}\n" for one in records(4)))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(list(records(4))), path)
    return path


def test_what_runs_is_seen_to_where_the_book_is_gone(
    scene: Scene, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All was started, and a customer book is deleted for good reasons: its results are kept all the same."""
    batch = scene.batch(scene.book(file), worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").in_flight == 4
    told(scene, "UPDATE tl_batch_slices SET open = 1")  # a worker was killed between the last start and this
    file.unlink()
    report = batch.load()
    assert (report.skipped, report.gone, report.accepted) == (True, True, 4)
    assert "The source of campaign w47 is not there any more" in caplog.text
    assert batch.run().counts == {RowState.SUCCEEDED: 4}
    assert len(scene.lines()) == 4
    with pytest.raises(StorageFailed, match="FileNotFoundError"):
        batch.load(again=True)


def test_a_cancelled_campaign_needs_no_book(scene: Scene, file: Path) -> None:
    """Its rows that were not started are not to be, so it can be seen to and purged; taken back, it needs the book."""
    scene.remote.define("kyc-approve", duration=None)
    batch = scene.batch(scene.book(file), limits=Limits(in_flight=2), worker="shard-0")
    batch.load()
    assert batch.run(at_cap="return").in_flight == 2
    file.unlink()
    with pytest.raises(StorageFailed, match="FileNotFoundError"):
        batch.load()
    assert scene.cancel() == 2
    assert batch.load().gone
    assert batch.run().counts == {RowState.CANCELLED: 2, RowState.PENDING: 2}
    batch.resume()
    with pytest.raises(StorageFailed, match="FileNotFoundError"):
        batch.load()
    assert batch.purge() == 4


@pytest.mark.parametrize("file", ["csv"], indirect=True)
def test_a_book_that_is_there_and_broken_is_an_error(scene: Scene, file: Path) -> None:
    """Also where nothing is left to start; as is one that is gone and was never loaded."""
    other = scene.batch(scene.book(scene.folder / "none.csv"))
    for load_it in (other.load, other.check):
        with pytest.raises(StorageFailed, match="FileNotFoundError"):
            load_it()
    batch = scene.batch(scene.book(file))
    batch.load()
    batch.run()
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageFailed, match="IsADirectoryError"):
        batch.load()
