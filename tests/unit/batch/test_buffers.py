"""What waits to be put on record survives a store that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tl_orchestration.batch.buffers import Keeper, Recorder
from tl_orchestration.batch.parts import Outcome, Parts
from tl_orchestration.batch.rows import Rows, Update
from tl_orchestration.batch.states import RowState
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import rows
from tl_orchestration.errors import LedgerError, StorageFailed


def test_an_ending_that_comes_while_the_start_cannot_be_written_keeps_its_id(tmp_path: Path) -> None:
    """The next flush writes what both of them say."""
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    mine = Rows(database, 1, "shard-0", 60.0)
    mine.enter("service", "default", time.time())
    with database.writing() as connection:
        fresh: dict[str, Any] = {"campaign": 1, "key": "a", "slice": 1, "load": 1, "state": "PENDING", "attempt": 1}
        known = {"restart": False, "fingerprint": "f", "fingerprint_key_id": "k", "polls": 0}
        connection.execute(rows.insert().values(**fresh, **known))
        connection.exec_driver_sql("ALTER TABLE tl_batch_rows RENAME TO away")
    recorder = Recorder(mine)
    recorder.add(Update(key="a", attempt=1, state=RowState.STARTED, values={"execution_id": "E1"}))

    async def fail() -> None:
        flushing = asyncio.create_task(recorder.flush())
        await asyncio.sleep(0)
        recorder.add(Update(key="a", attempt=1, state=RowState.ENDED, values={"status": "SUCCEEDED"}))
        with pytest.raises(LedgerError):
            await flushing

    asyncio.run(fail())
    with database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO tl_batch_rows")
    asyncio.run(recorder.flush())
    (row,) = mine.adopt(time.time(), 1, [RowState.ENDED], own_after="")
    assert (row.execution_id, row.status) == ("E1", "SUCCEEDED")
    database.close()


class _Written(Parts):
    """
    Takes parts, or fails as a storage does.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.fails = False

    def keep(self, outcomes: Sequence[Outcome], now: float) -> int:
        if self.fails:
            raise StorageFailed("The folder could not be written.")
        self.lines += [(one.key, one.attempt) for one in outcomes]
        return len(outcomes)


@pytest.mark.parametrize("fails", [False, True])
def test_a_row_that_was_followed_twice_has_one_line(*, fails: bool) -> None:
    """So the parts have as many lines as rows, also where the first writing failed."""
    parts = _Written()
    parts.fails = fails
    keeper = Keeper(parts, 1000, 30.0)

    def add(key: str) -> None:
        line = {"key": key}
        keeper.add(
            Outcome(key=key, attempt=1, state=RowState.SUCCEEDED, values={}, line=line, result=b'{"decision": "ok"}')
        )

    add("a")
    add("a")
    if fails:
        with pytest.raises(StorageFailed):
            asyncio.run(keeper.flush())
        add("a")
    parts.fails = False
    add("b")
    asyncio.run(keeper.flush())
    assert (parts.lines, keeper.kept, len(keeper)) == ([("a", 1), ("b", 1)], 2, 0)
