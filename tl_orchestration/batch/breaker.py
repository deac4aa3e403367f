"""
Whether a row may be started now: few at once, one at a time once a start has gone wrong, and none but a probe when
several in a row have.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from attrs import define

from tl_orchestration.batch.shares import Shared, Shares
from tl_orchestration.errors import LedgerError

#: For how long the shared state is believed without looking, seconds.
_FRESH = 0.25


@define
class Admission:
    """
    Whether a row may be started.

    Args:
        pause: Seconds for which the service has asked instead of starting it.
    """

    granted: bool
    pause: float | None = None


class Breaker:
    """
    One worker's view of the breaker that all workers of a quota share.

    Args:
        at_once: Starts of this worker that may be under way.
        after: Starts in a row without a good answer that open it.
    """

    def __init__(self, shares: Shares, at_once: int, after: int) -> None:
        self._shares = shares
        self._slots = asyncio.Semaphore(at_once)
        self._alone = asyncio.Lock()
        self._after = after
        self._state: Shared | None = None
        self._looked_at = float("-inf")

    async def opens_at(self) -> float | None:
        """
        When a row may be tried although starts fail, epoch seconds; None while the breaker is closed.
        """
        return (await self._look()).probe_at

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Admission]:
        """
        Held while a row is started, if it may be.
        """
        async with self._slots:
            state = await self._look()
            if state.probe_at is None and not state.failures:
                yield Admission(granted=True)
                return
            async with self._alone:
                state = await self._look(fresh=True)
                if state.probe_at is None:
                    yield Admission(granted=True)
                    return
                alone_until = await asyncio.to_thread(self._shares.probe, time.time())
                admission = Admission(granted=alone_until is not None)
                try:
                    yield admission
                finally:
                    if alone_until is not None:
                        await self._probed(alone_until, admission.pause)

    async def _probed(self, alone_until: float, pause: float | None) -> None:
        with contextlib.suppress(LedgerError):  # then the next probe comes later
            await asyncio.to_thread(self._shares.unproven, alone_until, time.time(), pause)
        self._looked_at = float("-inf")

    async def failed(self) -> None:
        """
        A start had no good answer.
        """
        self._state = await asyncio.to_thread(self._shares.failed, self._after, time.time())
        self._looked_at = time.monotonic()

    async def answered(self) -> None:
        """
        A start was answered well.
        """
        state = await self._look()
        if state.failures:
            await asyncio.to_thread(self._shares.answered)
            self._looked_at = float("-inf")

    async def _look(self, *, fresh: bool = False) -> Shared:
        if self._state is None or fresh or time.monotonic() - self._looked_at > _FRESH:
            self._looked_at = time.monotonic()
            self._state = await asyncio.to_thread(self._shares.look)
        return self._state


__all__ = ["Admission", "Breaker"]
