"""
A ledger in Airflow's task state (3.3+): kept per run, task and map index, over all tries.

Writes are fenced by Airflow itself: each try has its own id, and once the next try has one, the API server refuses the
old one's writes (its reads find nothing). So ``claim`` needs no comparison: that it was acknowledged, right before the
POST, shows that no other try has taken the step over. A task that was only marked failed may still write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider.versions import NEVER_EXPIRE, AirflowException, AirflowRuntimeError
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger.airflow_step import state_key
from tl_orchestration.ledger.entry import Entry, Event, fold

if TYPE_CHECKING:
    from collections.abc import Mapping


class TaskStateLedger:
    """
    The store is already scoped to the step: what it holds is gone with its run, and no other task sees it.

    Args:
        store: ``context["task_state_store"]``.
    """

    fenced = True

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self, key: str) -> Entry | None:
        document = self._call(self._store.get, state_key(key))
        if document is None:
            return None
        if not isinstance(document, dict):
            raise LedgerError("Airflow's task state holds something else than an entry of this ledger.")
        return Entry.from_dict(document)

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        return self._write(key, fold(after, intent))

    def append(self, key: str, event: Event) -> Entry:
        return self._write(key, fold(self.read(key), event))

    def _write(self, key: str, entry: Entry) -> Entry:
        document: Mapping[str, Any] = entry.to_dict()
        # Never expiring: a state that is cleaned up before a late retry would let that retry start again.
        self._call(self._store.set, state_key(key), document, retention=NEVER_EXPIRE)
        return entry

    def _call(self, operation: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return operation(*arguments, **options)
        except (AirflowRuntimeError, AirflowException, OSError, EOFError) as error:
            raise LedgerError(
                f"Airflow's task state cannot be reached or refuses this try ({type(error).__name__})."
            ) from None
