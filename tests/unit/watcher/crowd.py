"""
Executions by the hundred, and the ways to wait for them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from tl_orchestration import Pacing, Patience

EVERY_1 = Patience(pacing=Pacing(floor=1.0, cap=1.0, share=0.0, jitter=0.0))
EVERY_10 = Patience(pacing=Pacing(floor=10.0, cap=10.0, share=0.0, jitter=0.0))
NEVER: Callable[[str], float] = lambda execution_id: float("inf")  # noqa: E731
WHO: ContextVar[str] = ContextVar("WHO")


def names(count: int) -> list[str]:
    """Ids of executions."""
    return [f"e{number}" for number in range(count)]


def number(execution_id: str) -> int:
    """The number in such an id."""
    return int(execution_id[1:])


async def cancelled(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Cancel tasks and see them end."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def most_in_a_second(times: list[float]) -> int:
    """The largest number of moments within any one second."""
    times = sorted(times)
    return max(bisect_right(times, moment + 1.0) - index for index, moment in enumerate(times))
