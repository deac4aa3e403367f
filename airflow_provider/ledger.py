"""
A ledger in Airflow's task state (3.3+): kept per run, task and map index, over all tries.

Writes are fenced by Airflow itself: each try has its own token, and the API server refuses a try that is no longer the
live one. So ``claim`` needs no comparison; it is also the proof, right before the POST, that this try still owns the
step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError

from airflow_provider.versions import NEVER_EXPIRE
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger.entry import Entry, Event, fold

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_KEY = "transactionlink"


class TaskStateLedger:
    """
    Keeps one entry: the store is already scoped to the step, so every key is that step's.

    Args:
        store: ``context["task_state_store"]``.
    """

    fenced = True

    fenced = True

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self, key: str) -> Entry | None:
        document = self._call(self._store.get, STATE_KEY)
        return None if document is None else Entry.from_dict(document)

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        return self._write(fold(after, intent))

    def append(self, key: str, event: Event) -> Entry:
        return self._write(fold(self.read(key), event))

    def _write(self, entry: Entry) -> Entry:
        document: Mapping[str, Any] = entry.to_dict()
        # Never expiring: a state that is cleaned up before a late retry would let that retry start again.
        self._call(self._store.set, STATE_KEY, document, retention=NEVER_EXPIRE)
        return entry

    def _call(self, operation: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return operation(*arguments, **options)
        except (AirflowRuntimeError, AirflowException, OSError, EOFError) as error:
            raise LedgerError(
                f"Airflow's task state cannot be reached or refuses this try ({type(error).__name__})."
            ) from None
