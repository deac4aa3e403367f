"""
What a worker has to write, gathered so that one transaction serves many rows.
"""

from __future__ import annotations

import asyncio
import time

from attrs import evolve

from tl_orchestration.batch.parts import Outcome, Parts
from tl_orchestration.batch.rows import Rows, Update

#: Most bytes of results that wait for their part.
_MOST_BYTES = 16 * 1024 * 1024


class Recorder:
    """
    States of rows on their way to the store.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._updates: dict[tuple[str, int], Update] = {}
        self._unreserved = 0
        self._writing = asyncio.Lock()

    def add(self, update: Update | None, unreserved: int = 0) -> None:
        """
        One more, over what is known of the same row.

        Args:
            unreserved: Granted starts that have come to something with it.
        """
        if update is not None:
            before = self._updates.get((update.key, update.attempt))
            values = update.values if before is None else {**before.values, **update.values}
            self._updates[update.key, update.attempt] = evolve(update, values=values)
        self._unreserved += unreserved

    async def flush(self) -> None:
        """
        Put everything on record.

        Raises:
            LedgerError: It is not; the next flush tries again.
        """
        async with self._writing:
            updates, unreserved = self._updates, self._unreserved
            if not updates and not unreserved:
                return
            self._updates, self._unreserved = {}, 0
            try:
                await asyncio.to_thread(self._rows.record, list(updates.values()), unreserved)
            except BaseException:
                later, self._updates = self._updates, updates
                for update in later.values():
                    self.add(update)
                self._unreserved += unreserved
                raise


class Keeper:
    """
    Outcomes on their way to a part.

    Args:
        most_rows: Rows of a part.
        longest: Seconds that an outcome waits.
    """

    def __init__(self, parts: Parts, most_rows: int, longest: float) -> None:
        self._parts = parts
        self._most_rows = most_rows
        self._longest = longest
        self._outcomes: dict[tuple[str, int], Outcome] = {}
        self._bytes = 0
        self._since = 0.0
        self._writing = asyncio.Lock()
        self.kept = 0

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> None:
        """
        One more; the first of a row's attempt stays.
        """
        if (outcome.key, outcome.attempt) in self._outcomes:
            return
        if not self._outcomes:
            self._since = time.monotonic()
        self._outcomes[outcome.key, outcome.attempt] = outcome
        self._bytes += len(outcome.result or b"")

    @property
    def is_due(self) -> bool:
        """
        Whether a part is full, or has waited for long enough.
        """
        full = len(self._outcomes) >= self._most_rows or self._bytes >= _MOST_BYTES
        return full or (bool(self._outcomes) and time.monotonic() - self._since >= self._longest)

    async def flush(self) -> None:
        """
        Write a part and record its rows.

        Raises:
            StorageFailed, LedgerError: Nothing is recorded; the next flush tries again.
        """
        async with self._writing:
            outcomes, size = self._outcomes, self._bytes
            if not outcomes:
                return
            self._outcomes, self._bytes = {}, 0
            try:
                self.kept += await asyncio.to_thread(self._parts.keep, list(outcomes.values()), time.time())
            except BaseException:
                later, self._outcomes, self._bytes = self._outcomes, outcomes, size
                for outcome in later.values():
                    self.add(outcome)
                raise


__all__ = ["Keeper", "Recorder"]
