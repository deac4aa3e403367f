"""
A client whose requests pass a quota and are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING

from attrs import define, evolve

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
#: For how long a start may go on record before it needs another turn, seconds.
_KEPT = 1.0
#: How often a pause is looked for that another process was told, where there is no limit to keep, seconds.
_LOOK = 1.0
#: Pause after a 429 that names none, seconds.
_UNNAMED_PAUSE = 1.0


class Turns:
    """
    Hands the turns that a process takes from a quota to its requests, each when it is its time: first to starts that
    are announced, then in the order in which they came.

    Args:
        rate: Requests per second of the quota; None: there is no limit to keep.
    """

    def __init__(self, shares: Shares, rate: float | None) -> None:
        self._shares = shares
        self._portion = 0 if rate is None else max(1, round(rate * _AHEAD))
        self._times: deque[float] = deque()
        self._announced: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._handing: asyncio.Task[None] | None = None
        self._looked = float("-inf")
        self.held_until = 0.0

    async def mine(self, *, announced: bool = False) -> None:
        """
        Return when the next request may leave.

        Args:
            announced: It is a start's whose intent is on record already, and which may leave only for a while.
        """
        if not self._portion:
            await self._look()
            await self._until(self.held_until)
            return
        turn = asyncio.get_running_loop().create_future()
        (self._announced if announced else self._others).append(turn)
        if self._handing is None or self._handing.done():
            self._handing = asyncio.get_running_loop().create_task(self._hand_out(), context=Context())
        try:
            await turn
        except asyncio.CancelledError:
            if self._line() is None and self._handing is not None:
                self._handing.cancel()
                self._handing = None
            raise

    async def pause(self, seconds: float) -> None:
        """
        Let nothing leave for so long, here and anywhere.
        """
        self.held_until = max(self.held_until, time.time() + min(seconds, LONGEST_PAUSE))
        self._times.clear()
        with contextlib.suppress(LedgerError):
            await asyncio.to_thread(self._shares.hold, self.held_until)

    async def _hand_out(self) -> None:
        while self._line() is not None:
            try:
                at = await self._take()
            except Exception as error:
                if (line := self._line()) is not None:
                    line.popleft().set_exception(error)
                continue
            await self._until(at)
            if at < self.held_until - _AHEAD:
                continue  # a pause has come between
            if (line := self._line()) is None:
                self._times.appendleft(at)
            else:
                line.popleft().set_result(None)

    def _line(self) -> deque[asyncio.Future[None]] | None:
        """
        Where the one stands that has the next turn; None: nobody waits.
        """
        for line in (self._announced, self._others):
            while line and line[0].done():
                line.popleft()
            if line:
                return line
        return None

    async def _take(self) -> float:
        """
        The time of the next turn. The last of a portion is a reason to ask for more, which come while it is awaited.
        """
        if self._times and self._times[0] < time.time() - _AHEAD:
            self._times.clear()  # nobody wanted them when it was their time
        if not self._times:
            await self._fetch()
        at = self._times.popleft()
        if not self._times and len(self._announced) + len(self._others) > 1:
            await self._fetch()
        return at

    async def _fetch(self) -> None:
        begin, spacing = await asyncio.to_thread(self._shares.turns, self._portion, time.time())
        self._times.extend(begin + number * spacing for number in range(self._portion))

    async def _look(self) -> None:
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        with contextlib.suppress(LedgerError):
            held_until = await asyncio.to_thread(self._shares.held_until)
            self.held_until = max(self.held_until, min(held_until, time.time() + LONGEST_PAUSE))

    async def _until(self, at: float) -> None:
        left = max(at, self.held_until) - time.time()
        if left > 0:
            await asyncio.sleep(left)
            await self._until(at)  # a pause may have come meanwhile


@define
class _Taken:
    """
    The turn that a start has before it is announced, for its first request; None once that is over.
    """

    at: float | None


_TAKEN: ContextVar[_Taken | None] = ContextVar("_TAKEN", default=None)


class ThrottledWire:
    """
    Sends as another wire does, each request at its turn.
    """

    def __init__(self, wire: AsyncWire, turns: Turns) -> None:
        self._wire = wire
        self._turns = turns
        self.spent: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """
        As the other wire's. Here it comes with a turn, so that a start does not wait for one while it is announced.
        """
        async with self._wire.turn():
            await self._turns.mine()
            before = _TAKEN.set(_Taken(time.time()))
            try:
                yield
            finally:
                _TAKEN.reset(before)

    async def send(self, request: Request) -> Response:
        """
        As the other wire's, however late: many rows may have their deadlines at once, and what these ask for is sent
        when the quota lets it.
        """
        if not self._has_turn():
            await self._wait_for_turn(request)
        self.spent[request.operation] += 1
        response = await self._wire.send(evolve(request, within=None))
        if response.status == 429:
            named = retry_after(response.headers.get("retry-after"), time.time())
            await self._turns.pause(_UNNAMED_PAUSE if named is None else named)
        return response

    def _has_turn(self) -> bool:
        taken = _TAKEN.get()
        if taken is None or taken.at is None:
            return False
        at, taken.at = taken.at, None
        now = time.time()
        return now - at <= _KEPT and self._turns.held_until <= now

    async def _wait_for_turn(self, request: Request) -> None:
        spare = self._wire._spare(request)
        try:
            async with asyncio.timeout(None if spare is None else max(0.0, spare)):
                await self._turns.mine(announced=not request.repeatable)
        except TimeoutError:
            raise self._wire._overdue(request) from None

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
