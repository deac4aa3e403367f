"""
The third loop that drives flows: all waits of one client in one event loop.

Flows that sleep lie in a heap by the time at which they go on; a task is made for each request, when it is due and may
leave, and for nothing else. So a wait costs a generator and a future instead of a task and a timer, and requests in
flight are bounded before they reach httpx, whose pool slows down with the square of its queue.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from tl_orchestration.errors import TransactionlinkError, WaitInterrupted
from tl_orchestration.exchange import LAST_MOMENT, Command, Flow, Request, Response, Sleep
from tl_orchestration.models import Execution
from tl_orchestration.pacing import Gate
from tl_orchestration.retry import retry_after

if TYPE_CHECKING:
    from tl_orchestration.client import AsyncClient

#: Pause of all polls after a 429 that names no time, seconds.
UNNAMED_PAUSE = 1.0
#: From so many entries on, a heap that cancelled waits have mostly left is made anew.
_WORTH_SWEEPING = 64


class Waiter:
    """
    One wait: its flow, where its outcome goes, the request that it asks for (None while it does not), since when, when
    that was due and must leave at the latest, and the task that is at work for it. Without request and task it sleeps
    until it is due; a hint may end that. ``unheard`` is how long it would have slept without hope of one, or None.
    And whether there was a hint since its last request was sent.
    """

    __slots__ = (
        "asked",
        "context",
        "due",
        "execution_id",
        "flow",
        "future",
        "hintable",
        "hinted",
        "latest",
        "number",
        "request",
        "task",
        "unheard",
    )

    def __init__(self, number: int, flow: Flow[Execution], execution_id: str) -> None:
        self.number = number
        self.execution_id = execution_id
        self.flow = flow
        self.future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        self.context = copy_context()
        self.request: Request | None = None
        self.asked = 0.0
        self.latest: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.due = 0.0
        self.hintable = self.hinted = False
        self.unheard: float | None = None

    def fail(self, error: Exception) -> None:
        self.task = None
        if not self.future.done():
            self.future.set_exception(error)


class Poller:
    """
    The waits of one event loop.
    """

    def __init__(self, client: AsyncClient, limit: float | None) -> None:
        self._client = client
        self._bound = client._settings.max_connections
        self._gate = Gate(limit, client._rng)
        self._waiters: dict[int, Waiter] = {}
        self._by_execution: dict[str, set[Waiter]] = {}
        self._numbers = itertools.count()
        #: When which waiter goes on; those who have left meanwhile, or lie under another time, are passed over.
        self._heap: list[tuple[float, int]] = []
        #: Whose request was due when, and may leave when the gate lets it.
        self._ready: list[tuple[float, int]] = []
        #: When whose request leaves, whatever the gate says: no pause moves a deadline.
        self._latest: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        #: The task that reads hints for these waits, where there is an inbox.
        self._listening: asyncio.Task[None] | None = None
        #: Whether its source can be read, as far as anybody knows.
        self._hears = False

    def admit(self, flow: Flow[Execution], execution_id: str = "") -> Waiter:
        waiter = Waiter(next(self._numbers), flow, execution_id)
        self._step(waiter, None)
        self._waiters[waiter.number] = waiter
        self._by_execution.setdefault(execution_id, set()).add(waiter)
        self._dispatch()
        return waiter

    def dismiss(self, waiter: Waiter) -> None:
        """
        Forget a wait that is over or that nobody waits for any more. Its heap entry goes when it comes up.
        """
        del self._waiters[waiter.number]
        alike = self._by_execution[waiter.execution_id]
        alike.discard(waiter)
        if not alike:
            del self._by_execution[waiter.execution_id]
        if waiter.task is not None:
            waiter.task.cancel()
        waiter.flow.close()
        for heap in (self._heap, self._ready, self._latest):
            if not self._waiters:
                heap.clear()
            elif len(heap) > max(_WORTH_SWEEPING, 2 * len(self._waiters)):
                heap[:] = sorted(entry for entry in heap if entry[1] in self._waiters)
        if not self._waiters:
            self._disarm()
            if self._listening is not None:
                self._listening.cancel()
                self._listening = None

    def listen(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """
        Let a task work for these waits, which ends with the last of them. While there is one, this does nothing.
        """
        if self._listening is None or self._listening.done():
            self._hears = True
            self._listening = self._start(work(), Context())

    def hear(self, *, well: bool) -> None:
        """
        Whether hints can be heard. Where they no longer can, waits that have hoped for one poll as they would have
        without, spread over as long as they would have slept.
        """
        if self._hears and not well:
            now = asyncio.get_running_loop().time()
            for waiter in self._waiters.values():
                if waiter.unheard is not None and waiter.request is None and waiter.task is None:
                    due = now + waiter.unheard * self._client._rng.random()
                    if due < waiter.due:
                        self._push(waiter, due)
        self._hears = well
        self._dispatch()

    def nudge(self, execution_id: str) -> bool:
        """
        Poll an execution now that somebody says that it has changed, or, while a request about it is out, again after
        the answer. A pause that the service has asked for, and a rate limit, still hold. Returns whether anybody waits
        for it.
        """
        now = asyncio.get_running_loop().time()
        waiters = self._by_execution.get(execution_id, ())
        for waiter in waiters:
            if waiter.request is not None and waiter.task is None:
                continue  # its request has yet to leave
            waiter.hinted = True
            if waiter.task is None and waiter.hintable and waiter.due > now:
                self._push(waiter, now)
        if len(self._heap) > max(_WORTH_SWEEPING, 2 * len(self._waiters)):
            self._heap[:] = sorted(
                (due, number)
                for due, number in self._heap
                if number in self._waiters and self._waiters[number].due == due
            )
        self._dispatch()
        return bool(waiters)

    def interrupt(self) -> None:
        for waiter in self._waiters.values():
            waiter.fail(
                WaitInterrupted("The client was closed during the wait. The execution goes on; wait for it again.")
            )
        for task in self._tasks:
            task.cancel()

    async def end(self) -> None:
        self.interrupt()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _step(
        self, waiter: Waiter, reply: Any, error: TransactionlinkError | None = None, since: float | None = None
    ) -> None:
        """
        Let a flow go on, in the context of whoever waits, and put it where the next thing that it asks for is done.
        ``since`` is the time from which it has been due, if it has.
        """
        waiter.request = waiter.task = None
        if waiter.future.done():
            return
        flow, run = waiter.flow, waiter.context.run
        try:
            command: Command = run(flow.send, reply) if error is None else run(flow.throw, error)
        except StopIteration as ended:
            if not waiter.future.done():
                waiter.future.set_result(ended.value)
        except Exception as raised:
            waiter.fail(raised)
        except BaseException:  # a cancellation out of on_change, or the interpreter is told to exit
            waiter.future.cancel()
            raise
        else:
            now = asyncio.get_running_loop().time()
            if isinstance(command, Sleep):
                waiter.hintable = command.hintable
                waiter.unheard = None if command.with_hints is None else command.seconds
                seconds = command.seconds
                if self._hears and command.with_hints is not None:
                    seconds = command.with_hints
                self._push(waiter, now if command.hintable and waiter.hinted else now + seconds)
            elif isinstance(command, Request):
                waiter.request, waiter.asked = command, now
                self._push(waiter, now if since is None else since)
            else:
                # A ledger may need the context of its user, and must not keep others from polling.
                waiter.task = self._start(self._record(waiter, command), waiter.context.copy())

    def _push(self, waiter: Waiter, due: float) -> None:
        waiter.due = due
        heapq.heappush(self._heap if waiter.request is None else self._ready, (due, waiter.number))
        if waiter.request is None or waiter.request.within is None:
            return
        # Whole seconds: a deadline that is told again with each poll has one entry.
        latest = float(math.ceil(waiter.asked + max(0.0, waiter.request.within - LAST_MOMENT)))
        if latest != waiter.latest:
            waiter.latest = latest
            heapq.heappush(self._latest, (latest, waiter.number))

    def _start(self, work: Coroutine[Any, Any, None], context: Context) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard, context=context)
        return task

    def _dispatch(self) -> None:
        """
        Send what may leave now, and set the timer for what is next.
        """
        while self._in_flight < self._bound and (waiter := self._take()) is not None:
            assert waiter.request is not None
            self._in_flight += 1
            held = asyncio.get_running_loop().time() - waiter.asked
            waiter.task = self._start(self._request(waiter, waiter.request.after(held)), Context())
        moments = [heap[0][0] for heap in (self._heap, self._latest) if heap]
        if self._ready:
            moments.append(max(self._ready[0][0], self._gate.opens_at))
        if not moments or self._in_flight >= self._bound:
            return  # the next answer dispatches again
        when = min(moments)
        if self._timer is None or when < self._timer.when():
            self._disarm()
            self._timer = asyncio.get_running_loop().call_at(when, self._on_time, context=Context())

    def _on_time(self) -> None:
        self._timer = None
        self._dispatch()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self) -> Waiter | None:
        """
        A waiter whose request may leave now. Flows whose sleep is over come to their request on the way.
        """
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            if self._latest and self._latest[0][0] <= now:
                latest, waiter = self._pop(self._latest)
                if waiter is None or waiter.latest != latest:
                    continue
                waiter.latest = None
            elif self._ready and self._gate.opens_at <= now:
                due, waiter = self._pop(self._ready)
                if waiter is None or waiter.due != due:
                    continue
            elif self._heap and self._heap[0][0] <= now:
                due, waiter = self._pop(self._heap)
                if waiter is not None and waiter.due == due and waiter.request is None and waiter.task is None:
                    hinted = waiter.hintable and waiter.hinted
                    waiter.hinted = waiter.hinted and not hinted
                    self._step(waiter, hinted, since=due)
                continue
            else:
                break
            if waiter.request is not None and waiter.task is None:
                self._gate.passed(now)
                return waiter
        if not self._ready:
            self._gate.drained(now)
        return None

    def _pop(self, heap: list[tuple[float, int]]) -> tuple[float, Waiter | None]:
        moment, number = heapq.heappop(heap)
        waiter = self._waiters.get(number)
        return moment, None if waiter is None or waiter.future.done() else waiter

    async def _request(self, waiter: Waiter, request: Request) -> None:
        try:
            await self._perform(waiter, request)
        finally:
            self._in_flight -= 1
            self._dispatch()

    async def _record(self, waiter: Waiter, command: Command) -> None:
        await self._perform(waiter, command)
        self._dispatch()

    async def _perform(self, waiter: Waiter, command: Command) -> None:
        try:
            reply = await self._client._perform(command)
        except TransactionlinkError as error:
            self._step(waiter, None, error)
        except Exception as error:
            waiter.fail(error)
        except BaseException:
            waiter.task = None
            waiter.future.cancel()  # somebody ends all tasks of this loop; if the waiter has left, this does nothing
            raise
        else:
            if isinstance(reply, Response) and reply.status == 429:
                self._pause(reply)
            self._step(waiter, reply)

    def _pause(self, refusal: Response) -> None:
        named = retry_after(refusal.headers.get("retry-after"), self._client._clock.now())
        self._gate.hold(asyncio.get_running_loop().time(), UNNAMED_PAUSE if named is None else named)
