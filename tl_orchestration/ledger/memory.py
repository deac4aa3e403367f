"""
A ledger that lives as long as its process.
"""

from __future__ import annotations

import threading

from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger.entry import Entry, Event, fold


class MemoryLedger:
    """
    Keeps entries in a dict. Guards against a second start from this process only; for tests and scripts.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

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

    def _write(self, key: str, entry: Entry) -> Entry:
        self._entries[key] = entry
        return entry
