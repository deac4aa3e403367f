"""
The rows that one worker may start next: out of slices that it has claimed, as many as the quota grants.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from attrs import frozen

from tl_orchestration.batch.breaker import Breaker
from tl_orchestration.batch.buffers import Recorder
from tl_orchestration.batch.policy import Book, Policy
from tl_orchestration.batch.rows import Row, Rows
from tl_orchestration.batch.shares import Shares
from tl_orchestration.batch.slices import Slice, opened
from tl_orchestration.batch.summary import BatchOutcome
from tl_orchestration.errors import LedgerError
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.models import RunRequest

log = logging.getLogger(__name__)

#: Starts that are granted at once.
_GRANT = 50


@frozen
class Due:
    """
    A row that is to be started now, and the slice that it is of.
    """

    part: Slice
    row: Row
    request: RunRequest


class Feed:
    """
    Args:
        campaign: Its number.
        worker: Whose feed it is.
    """

    def __init__(
        self,
        campaign: int,
        worker: str,
        book: Book,
        policy: Policy,
        *,
        rows: Rows,
        shares: Shares,
        breaker: Breaker,
        recorder: Recorder,
        fingerprint: Callable[[RunRequest], Fingerprint],
    ) -> None:
        self._campaign = campaign
        self._worker = worker
        self._book = book
        self._policy = policy
        self._rows = rows
        self._shares = shares
        self._breaker = breaker
        self._recorder = recorder
        self._fingerprint = fingerprint
        self._slice: Slice | None = None
        #: Slices whose last rows are being started.
        self._over: list[Slice] = []
        #: Slices that nobody else gets until it is on record that this worker is done with them.
        self._unreleased: list[Slice] = []
        self._granted = 0
        #: Rows that are being started.
        self.starting = 0
        #: Rows that could not be, as the source is now.
        self.unread = 0

    async def take(self, load: int) -> Sequence[Due] | BatchOutcome:
        """
        Rows to start, perhaps none in this moment; or what keeps every row from it.

        Args:
            load: The latest pass over the source that has come to its end. Rows as an earlier one has found them are
                left, for what is right of them is claimed again.

        Raises:
            StorageFailed, LedgerError: The source cannot be read, or the store not be used.
        """
        while self._unreleased:
            await self._release(self._unreleased.pop())
        opens_at = await self._breaker.opens_at()
        if opens_at is not None and (time.time() < opens_at or self.starting):
            self.hold()
            return BatchOutcome.BREAKER_OPEN
        if self._slice is not None and self._slice.load < load:
            self._slice.waiting.clear()
            self.hold()  # what rows that are started once more were granted is not for others
        while self._slice is None or not self._slice.waiting:
            if not await self._claim():
                return BatchOutcome.FINISHED
        waiting = self._slice.waiting
        most = 1 if opens_at is not None else _GRANT
        retried = sum(row.attempt > 1 for row, _ in waiting)
        alike = retried or len(waiting)
        room = min(most, alike, 2 * self._policy.starts_at_once - self.starting)
        if room <= 0:
            return ()
        if not self._granted:
            # A row that is started once more is counted already.
            most_starts = None if retried else self._policy.most_starts
            wanted = min(most, alike)
            self._granted = await asyncio.to_thread(
                self._shares.grant, self._campaign, self._worker, wanted, time.time(), most_starts
            )
        if not self._granted:
            return await self._why_none()
        due = [Due(self._slice, *waiting.popleft()) for _ in range(min(room, self._granted))]
        self._granted -= len(due)
        self._slice.open += len(due)
        self.starting += len(due)
        return due

    def hold(self) -> None:
        """
        Nothing more is started for now: let others have what is granted.
        """
        if self._granted:
            self._recorder.add(None, unreserved=self._granted)
            self._granted = 0

    async def came(self, part: Slice, due_at: float | None = None) -> None:
        """
        A row has come to something, or is to be tried again at a time (epoch seconds). Where the store fails, that its
        slice is free is put on record later.
        """
        self.starting -= 1
        part.open -= 1
        if due_at is not None:
            part.due_at = max(part.due_at, due_at)
        if part in self._over and not part.open:
            self._over.remove(part)
            with contextlib.suppress(LedgerError):
                await self._release(part)

    async def _why_none(self) -> BatchOutcome:
        most, starting = self._policy.most_starts, self.starting
        if most is None or starting:
            return BatchOutcome.AT_CAP
        await self._recorder.flush()  # a retried row counts twice until it is on record that it has started
        begun = await asyncio.to_thread(self._shares.begun, self._campaign, time.time())
        return BatchOutcome.STOPPED if begun >= most else BatchOutcome.AT_CAP

    async def _claim(self) -> bool:
        former, self._slice = self._slice, None
        if former is not None and former.open:
            self._over.append(former)
        elif former is not None:
            await self._release(former)
        claimed = await asyncio.to_thread(
            self._rows.claim, time.time(), retried_first=self._policy.most_starts is not None
        )
        if claimed is None:
            return False
        self._slice = await asyncio.to_thread(opened, claimed, self._book, self._fingerprint)
        self.unread += len(self._slice.unread)
        for update in self._slice.unread:
            log.warning("Row %s cannot be started: %s.", update.key, update.values["reason"])
            self._recorder.add(update)
        return True

    async def _release(self, part: Slice) -> None:
        try:
            await self._recorder.flush()  # whoever claims it next sees what has come of its rows
            await asyncio.to_thread(self._rows.release, part.id, part.due_at)
        except BaseException:
            self._unreleased.append(part)
            raise


__all__ = ["Due", "Feed"]
