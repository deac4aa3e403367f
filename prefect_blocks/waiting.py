"""
Starting and waiting in this process, and what to do when Prefect ends it.

Prefect ends a process by an exception in its main thread: ``TerminationSignal``, or ``CancelledError`` in an
asynchronous flow. It is the same for a person's cancel and for a worker that goes away, so the server is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
from prefect.exceptions import TerminationSignal

from prefect_blocks import decisions
from prefect_blocks.twins import Twin
from tl_orchestration.beside import awaited, in_thread
from tl_orchestration.errors import TransactionlinkError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from prefect_blocks.twins import Twofold
    from tl_orchestration import Handle

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Longest time from Prefect's signal until it is handed on, seconds: of the half minute that a process is given, others
#: need some too.
LAST_WORDS = 10.0

#: Cancels in flight at once.
_CANCELS = 16

#: A wait that is over after one poll, seconds.
ONE_LOOK = 0.001

_cancelling = threading.BoundedSemaphore(_CANCELS)
_asking = threading.Lock()
_questions: dict[UUID | None, Future[bool]] = {}


def ends_within(handle: Handle, seconds: float) -> bool:
    """
    Whether the deadline of the execution, or its expiry, is that near.
    """
    ends = [moment for moment in (handle.deadline, handle.expires_at) if moment is not None]
    return bool(ends) and min(ends) <= time.time() + seconds


def stoppable(flow_run_id: UUID | None, cancel: Callable[[], object] | None, wait: Twofold[T]) -> Twofold[T]:
    """
    The wait. When Prefect ends it, cancel if a person decided so, or if its own ``timeout_seconds`` has passed; else
    leave the execution to the next attempt.

    Args:
        cancel: Cancels the execution; None: it is not to be cancelled.
    """
    try:
        return (yield from wait)
    except (TerminationSignal, asyncio.CancelledError):
        if cancel is not None:
            yield from _spoken(partial(last_words, flow_run_id, cancel))
        raise


def last_words(flow_run_id: UUID | None, cancel: Callable[[], object]) -> None:
    """
    Ask whether somebody decided, and cancel if so, for no longer than :data:`LAST_WORDS`. A time-out is a decision.
    """
    timed_out = decisions.timed_out()

    def decide() -> None:
        if not timed_out and not _decided(flow_run_id):
            log.info("Nobody cancelled this flow run: its execution is left running.")
            return
        try:
            with _cancelling:
                cancel()
        except TransactionlinkError as error:
            log.error("The execution could not be cancelled: %s", error)

    speaking = in_thread(decide)
    with contextlib.suppress(TimeoutError):
        speaking.result(LAST_WORDS)


def _spoken(words: Callable[[], None]) -> Twin[None]:
    """
    Last words: in an event loop, those of all its waits at the same time, and in a shield: a time-out cancels whatever
    is awaited, again and again.
    """

    async def there() -> None:
        with anyio.CancelScope(shield=True):
            await asyncio.wrap_future(in_thread(words))

    return Twin(words, there)


def _decided(flow_run_id: UUID | None) -> bool:
    """
    What the server says; it is asked once for all who ask at the same time.
    """
    with _asking:
        asked, first = _questions.get(flow_run_id), flow_run_id not in _questions
        if asked is None:
            asked = _questions[flow_run_id] = Future()
    if first:
        try:
            asked.set_result(decisions.somebody_decided(flow_run_id))
        finally:
            del _questions[flow_run_id]
    return asked.result()


def uninterrupted(start: Twin[T], stopped: Callable[[T], None]) -> Twin[T]:
    """
    The start. If Prefect, or Ctrl-C, ends this process meanwhile, it is waited for nevertheless: cut off, its fate
    would be unknown.

    Args:
        stopped: Called with what was started, before Prefect's signal goes on; in an event loop, in a thread.
    """

    def here() -> T:
        starting: Future[T] = Future()
        try:
            in_thread(start.here, starting)  # in here: the signal may come before this returns
            return awaited(starting)
        except (TerminationSignal, asyncio.CancelledError):
            with contextlib.suppress(TimeoutError, TransactionlinkError):
                stopped(starting.result(LAST_WORDS))
            raise
        except KeyboardInterrupt:
            with contextlib.suppress(TimeoutError, TransactionlinkError):
                starting.result(LAST_WORDS)
            raise

    async def there() -> T:
        starting = asyncio.ensure_future(start.there())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # In a shield: a time-out cancels whatever is awaited, again and again.
            with contextlib.suppress(TimeoutError, TransactionlinkError), anyio.CancelScope(shield=True):
                started = await asyncio.wait_for(asyncio.shield(starting), LAST_WORDS)
                await _spoken(lambda: stopped(started)).there()
            raise

    return Twin(here, there)


def anywhere(make: Callable[[], Awaitable[T]]) -> Twin[T]:
    """
    Something that is asynchronous only.
    """
    return Twin(lambda: in_loop(make), make)


def in_loop(make: Callable[[], Awaitable[T]]) -> T:
    """
    Drive something asynchronous in a thread of its own, whatever runs in this one. A signal ends it.
    """
    loops: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()

    async def main() -> T:
        task = asyncio.ensure_future(make())
        loops.set_result((asyncio.get_running_loop(), task))
        return await task

    running = in_thread(lambda: asyncio.run(main()))
    try:
        return awaited(running)
    except BaseException:
        if not running.done():
            loop, task = loops.result()
            loop.call_soon_threadsafe(task.cancel)
        raise


__all__ = [
    "LAST_WORDS",
    "ONE_LOOK",
    "anywhere",
    "ends_within",
    "in_loop",
    "last_words",
    "stoppable",
    "uninterrupted",
]
