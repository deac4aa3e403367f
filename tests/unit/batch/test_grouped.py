"""The ledger that shares transactions is a ledger like any other, and refuses one call without failing the next."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from tl_orchestration.batch.grouped import GroupedLedger
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import Event, Ledger, SqlLedger, State
from tl_orchestration.ledger.conformance import LedgerConformance


class TestGroupedConformance(LedgerConformance):
    """The laws of every ledger."""

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/ledger.db"

    def ledger(self) -> Ledger:
        return GroupedLedger(SqlLedger(self.url))


def test_calls_that_come_together_share_a_commit(tmp_path: Path) -> None:
    """Fewer commits than writes, and every write is there."""
    plain = SqlLedger(f"sqlite:///{tmp_path}/ledger.db", "here")
    ledger = GroupedLedger(plain)
    ledger.read("k")
    commits: list[object] = []

    def note(connection: object) -> None:
        commits.append(connection)

    event.listen(Engine, "commit", note)
    try:
        with ThreadPoolExecutor(32) as threads:
            intent = Event(state=State.INTENT, at=1.0)
            list(threads.map(lambda number: ledger.claim(f"k{number}", intent, None), range(200)))
    finally:
        event.remove(Engine, "commit", note)
    assert all(plain.read(f"k{number}") for number in range(200))
    assert len(commits) < 150


def test_a_refusal_is_nobody_elses(tmp_path: Path) -> None:
    """Of many that claim the same step one gets it; others in the same transaction are not disturbed."""
    ledger = GroupedLedger(SqlLedger(f"sqlite:///{tmp_path}/ledger.db", "here"))
    ledger.read("k")
    together = threading.Barrier(16)

    def claim(number: int) -> bool:
        together.wait()
        try:
            ledger.claim("same" if number % 2 else f"own{number}", Event(state=State.INTENT, at=1.0), None)
        except LedgerError:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(claim, range(16)))
    assert sum(won[1::2]) == 1
    assert all(won[::2])
