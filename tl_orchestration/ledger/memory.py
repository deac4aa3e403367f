"""
A ledger that lives as long as its process.
"""

from __future__ import annotations

import copy
import threading
from typing import Self

from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger.entry import Entry, Event, fold


class MemoryLedger:
    """
    Keeps entries in a dict. Guards against a second start from this process only; for tests and scripts.

    A client works with a view of it that has the client's namespace: ``client.ledger`` reads what the client wrote.
    """

    fenced = False

    def __init__(self) -> None:
        self._namespaces: dict[str, dict[str, Entry]] = {}
        self._lock = threading.Lock()
        self._bind("")

    def for_namespace(self, namespace: str) -> Self:
        """
        The same store, bound to a namespace. A ledger that is bound already stays as it is.
        """
        if self._namespace:
            return self
        view = copy.copy(self)
        view._bind(namespace)
        return view

    def read(self, key: str) -> Entry | None:
        with self._lock:
            return self._entries.get(key)

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        with self._lock:
            if self._entries.get(key) != after:
                raise LedgerError("Another caller has claimed this step in the meantime; read it again.")
            return self._write(key, fold(after, intent))

    def append(self, key: str, event: Event) -> Entry:
        with self._lock:
            return self._write(key, fold(self._entries.get(key), event))

    def _bind(self, namespace: str) -> None:
        self._namespace = namespace
        self._entries = self._namespaces.setdefault(namespace, {})

    def _write(self, key: str, entry: Entry) -> Entry:
        self._entries[key] = entry
        return entry
