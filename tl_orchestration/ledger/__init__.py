"""
The ledger: what keeps a start from happening twice.

A store needs three operations only, so that SQL, Airflow's task state and Prefect's flow-run inputs can all be one.
:mod:`tl_orchestration.ledger.conformance` is the test suite that every store has to pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tl_orchestration.ledger.entry import Entry, Event, State
from tl_orchestration.ledger.memory import MemoryLedger

if TYPE_CHECKING:
    from tl_orchestration.ledger.sql import SqlLedger

__all__ = ["Entry", "Event", "Ledger", "MemoryLedger", "SqlLedger", "State"]


def __getattr__(name: str) -> Any:
    if name != "SqlLedger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from tl_orchestration.ledger.sql import SqlLedger
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sqlalchemy":
            raise
        raise ImportError("SqlLedger needs an extra: pip install 'tl-orchestration[sql]'") from None
    return SqlLedger


@runtime_checkable
class Ledger(Protocol):
    """
    A store of entries by key.

    Every call returns only after the write is acknowledged. A store that cannot be reached raises LedgerError.

    A store that serves several services also has ``for_namespace``; see :mod:`tl_orchestration.ledger.namespace`.
    """

    @property
    def fenced(self) -> bool:
        """
        Whether a process that has lost the step cannot write at all. An intent that is found is then certainly a
        former try's; in any other store it may be another process's that is about to start.
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
