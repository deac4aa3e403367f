"""
Awaiting what must not be left half done: a start that is on its way, and what is being written down about it.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


class CancelledLate(asyncio.CancelledError):
    """
    The task was cancelled while it awaited something that has ended all the same, as ``outcome`` tells; None: a sleep.
    """

    def __init__(self, outcome: asyncio.Future[Any] | None) -> None:
        super().__init__()
        self.outcome = outcome

    def result(self) -> Any:
        """
        Return or raise what was awaited.
        """
        return None if self.outcome is None else self.outcome.result()


async def finished(work: asyncio.Future[T]) -> T:
    """
    Await something to its end, whoever cancels the task meanwhile.

    Raises:
        CancelledLate: Somebody did.
    """
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            cancelled = True
    if not cancelled:
        return work.result()
    if not work.cancelled():
        work.exception()  # whoever does not ask for the outcome need not be told that nobody did
    raise CancelledLate(work)


async def slept(seconds: float) -> None:
    """
    Sleep, at most so long.

    Raises:
        CancelledLate: The task was cancelled meanwhile, and goes on at once.
    """
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        raise CancelledLate(None) from None


__all__ = ["CancelledLate", "finished", "slept"]
