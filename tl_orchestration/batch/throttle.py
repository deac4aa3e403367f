"""
A client whose requests pass a quota and are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections import Counter
from typing import TYPE_CHECKING

from tl_orchestration.batch.shares import Shares
from tl_orchestration.errors import LedgerError
from tl_orchestration.exchange import Request, Response
from tl_orchestration.pacing import LONGEST_PAUSE
from tl_orchestration.retry import retry_after
from tl_orchestration.watcher import Watcher

if TYPE_CHECKING:
    from tl_orchestration.client import AsyncClient
    from tl_orchestration.ledger import Ledger
    from tl_orchestration.transport import AsyncWire

#: Seconds of requests that are taken from the quota at once.
_AHEAD = 0.5
#: Pause after a 429 that names none, seconds.
_UNNAMED_PAUSE = 1.0


class Turns:
    """
    Hands the turns that a process has taken from a quota to its requests, in order.

    Args:
        rate: Requests per second of the quota; None: there is no limit to keep.
    """

    def __init__(self, shares: Shares, rate: float | None) -> None:
        self._shares = shares
        self._portion = 0 if rate is None else max(1, round(rate * _AHEAD))
        self._left = 0
        self._next = 0.0
        self._spacing = 0.0
        self._lock = asyncio.Lock()
        self.held_until = 0.0

    async def mine(self) -> None:
        """
        Return when the next request may leave.
        """
        if not self._portion:
            await asyncio.sleep(max(0.0, self.held_until - time.time()))
            return
        async with self._lock:
            if self._left and self._next < time.time() - _AHEAD:
                self._left = 0  # nobody wanted them when it was their time
            if not self._left:
                self._next, self._spacing = await asyncio.to_thread(self._shares.turns, self._portion, time.time())
                self._left = self._portion
            at, self._next, self._left = self._next, self._next + self._spacing, self._left - 1
        await asyncio.sleep(max(0.0, at - time.time()))

    async def pause(self, seconds: float) -> None:
        """
        Let nothing leave for so long, here and, where there is a limit to keep, anywhere.
        """
        self.held_until = max(self.held_until, time.time() + min(seconds, LONGEST_PAUSE))
        self._left = 0
        if self._portion:
            with contextlib.suppress(LedgerError):
                await asyncio.to_thread(self._shares.hold, self.held_until)


class ThrottledWire:
    """
    Sends as another wire does, each request at its turn.
    """

    def __init__(self, wire: AsyncWire, turns: Turns) -> None:
        self._wire = wire
        self._turns = turns
        self.spent: Counter[str] = Counter()

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._wire.turn()

    async def send(self, request: Request) -> Response:
        began = time.monotonic()
        await self._turns.mine()
        self.spent[request.operation] += 1
        response = await self._wire.send(request.after(time.monotonic() - began))
        if response.status == 429:
            named = retry_after(response.headers.get("retry-after"), time.time())
            await self._turns.pause(_UNNAMED_PAUSE if named is None else named)
        return response

    async def aclose(self) -> None:
        await self._wire.aclose()


def throttled(client: AsyncClient, turns: Turns, ledger: Ledger) -> tuple[AsyncClient, ThrottledWire]:
    """
    The same client with a wire that keeps to the turns, another way to its ledger, and waits of its own, which the
    caller closes.
    """
    twin = copy.copy(client)
    wire = ThrottledWire(client._wire, turns)
    twin._wire = wire  # type: ignore[assignment]
    twin._watcher = Watcher(twin, inbox=client._watcher._inbox)
    twin.ledger = ledger
    return twin, wire


__all__ = ["ThrottledWire", "Turns", "throttled"]
