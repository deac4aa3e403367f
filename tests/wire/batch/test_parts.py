"""
A part that was taken away from under its writer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.wire.batch.campaigns import Scene, records, write
from tl_orchestration.batch import RowState
from tl_orchestration.batch.parts import Outcome, Parts
from tl_orchestration.batch.places import place


class Swept(Parts):
    """
    A worker that is taken for dead once, between the write of its part and the record of it.
    """

    swept = False

    def _commit(
        self, outcomes: Sequence[Outcome], written: tuple[int, str, Mapping[str, Any]] | None
    ) -> frozenset[str] | None:
        if not self.swept:
            self.swept = True
            Parts(self._database, self._campaign, self._worker, self._folder, "jsonl").sweep(time.time(), 60.0)
        return super()._commit(outcomes, written)


def test_a_part_that_was_swept_is_written_again(either: Scene) -> None:
    """A worker and a later life of it have one name: what the later one removes is not recorded by the former."""
    batch = either.batch(either.book(write(either.folder / "in.jsonl", records(1))), worker="shard-0")
    batch.load()
    ledger = either.client().ledger
    folder = place(either.output) / "w47"
    outcome = Outcome(
        key="c00000", attempt=1, state=RowState.SUCCEEDED, values={"polls": 1}, line={"key": "c00000"}, result=b"{}"
    )
    assert Swept(ledger.database, 1, "shard-0", folder, "jsonl").keep([outcome], time.time()) == 1  # type: ignore[union-attr]
    (row,) = batch.export()
    (file,) = (either.output / "w47").glob("part-*")
    assert row["part"] == file.name
