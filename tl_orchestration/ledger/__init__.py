"""
The ledger: what keeps a start from happening twice.

A store needs three operations only, so that SQL, Airflow's task state and Prefect's flow-run inputs can all be one.
:mod:`tl_orchestration.ledger.conformance` is the test suite that every store has to pass.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tl_orchestration.ledger.entry import Entry, Event, State
from tl_orchestration.ledger.memory import MemoryLedger

__all__ = ["Entry", "Event", "Ledger", "MemoryLedger", "State"]


@runtime_checkable
class Ledger(Protocol):
    """
    A store of entries by key.

    Every call returns only after the write is acknowledged. A store that cannot be reached raises LedgerError.
    """

    def read(self, key: str) -> Entry | None:
        """
        The entry as last written, or None.
        """

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        """
        Record an intent if the entry is still ``after`` (None: still absent).

        A store whose writes are fenced, so that a process that lost the step cannot write at all, may skip the
        comparison.

        Raises:
            LedgerError: Somebody else wrote in between.
        """

    def append(self, key: str, event: Event) -> Entry:
        """
        Fold one more event into the entry.

        Raises:
            LedgerError: The event cannot follow what the entry holds.
        """
