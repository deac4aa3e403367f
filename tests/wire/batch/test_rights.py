"""What a role of PostgreSQL needs for campaigns is what the documents grant it, and no less."""

from __future__ import annotations

import time

import pytest

from tests.fences import Page, placed
from tests.postgres import Postgres
from tests.wire.batch.campaigns import Scene, records, write
from tl_orchestration.batch import BatchOutcome, Policy, RowState
from tl_orchestration.batch.parts import Outcome, Parts
from tl_orchestration.batch.places import place
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import SqlLedger

#: The fences of the page: for single workflows, for campaigns besides, for the purge of one.
RUNNER, BATCHES, PURGER = (Page("reference/ledger.md").fence("sql", number) for number in range(3))


class Torn(Parts):
    """
    A worker that dies between the write of its part and the record of it.
    """

    def _commit(self, *_: object) -> frozenset[str] | None:
        raise KeyboardInterrupt


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The name of a new database with the newest tables."""
    return postgres.ready_database().partition("?")[0].rpartition("/")[2]


def test_campaign_needs_the_documented_rights(scene: Scene, postgres: Postgres, database: str) -> None:
    """With them a campaign is loaded, run, stopped, retried, exported and loaded again; it cannot be purged."""
    grants = placed(RUNNER + BATCHES, {"TO runner;": "TO campaigner;"})  # other tests have a runner
    here = Scene(scene.remote, postgres.role_url(database, "campaigner", grants), scene.folder)
    source = write(here.folder / "in.jsonl", records(4))
    batch = here.batch(here.book(source), policy=Policy(canary=1), worker="shard-0")
    batch.load()
    torn = Torn(batch._database, 1, "shard-0", place(here.output) / "w47", "jsonl")
    with pytest.raises(KeyboardInterrupt):
        torn.keep([outcome("c00000")], time.time())
    (left,) = (here.output / "w47").glob("part-*")

    assert batch.run().outcome is BatchOutcome.STOPPED
    assert not left.exists()
    here.remote.define("kyc-approve", duration=None)
    rest = here.batch(here.book(source), worker="shard-0")
    assert rest.run(at_cap="return").outcome is BatchOutcome.IN_FLIGHT
    assert here.cancel() == 3
    assert here.watch("shard-0").counts == {RowState.SUCCEEDED: 1, RowState.ENDED: 3}
    rest = here.batch(here.book(source), worker="shard-0")
    assert rest.run().counts == {RowState.SUCCEEDED: 1, RowState.CANCELLED: 3}

    here.remote.define("kyc-approve", duration=0.1)
    rest = here.batch(here.book(source), worker="shard-0")
    assert rest.retry() == 3
    rest.resume()
    assert not rest.load(again=True).skipped
    assert rest.run().counts == {RowState.SUCCEEDED: 4}
    assert len(here.remote.starts()) == 7
    assert [row["state"] for row in rest.export()] == [RowState.SUCCEEDED] * 4

    with pytest.raises(LedgerError, match="permission denied for table tl_batch_rows"):
        rest.purge()
    purger = Scene(here.remote, postgres.role_url(database, "purger", PURGER), here.folder)
    with pytest.raises(LedgerError, match="permission denied"):
        purger.batch(here.book(source)).load()
    assert purger.batch(None).purge() == 4
    assert SqlLedger(here.store, here.client().ledger.namespace).read("batch/w47/c00000") is not None  # type: ignore[union-attr]


def outcome(key: str) -> Outcome:
    """An ending that is about to be kept."""
    return Outcome(key=key, attempt=1, state=RowState.SUCCEEDED, values={"polls": 1}, line={"key": key}, result=b"{}")
