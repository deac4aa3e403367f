"""The memory ledger obeys the laws of every ledger, also among threads."""

from __future__ import annotations

from tl_orchestration.ledger import Ledger, MemoryLedger
from tl_orchestration.ledger.conformance import LedgerConformance


class TestMemoryLedger(LedgerConformance):
    """The suite that ships, with fifty threads in the race."""

    racers = 50

    def ledger(self) -> Ledger:
        return MemoryLedger()


def test_memory_ledger_is_a_ledger() -> None:
    """The memory ledger fulfils the protocol as written."""
    assert isinstance(MemoryLedger(), Ledger)
