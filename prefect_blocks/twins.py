"""
Flows of calls that are written once, and run both in this thread and in an event loop.

Such a flow is a generator. Wherever it has to wait it hands out a :class:`Twin`, which can be done either way, and is
given the answer, or the error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Generic, TypeVar

from attrs import frozen

T = TypeVar("T")


@frozen
class Twin(Generic[T]):
    """
    One call. In a flow: ``answer = yield from twin``.

    Args:
        here: Makes it in this thread.
        there: Makes it in the running event loop.
    """

    here: Callable[[], T]
    there: Callable[[], Awaitable[T]]

    def __iter__(self) -> Generator[Twin[Any], Any, T]:
        answer: T = yield self
        return answer


Twofold = Generator[Twin[Any], Any, T]


def blocking(call: Callable[[], T]) -> Twin[T]:
    """
    A call that has no asynchronous form: in an event loop it is made in a thread.
    """
    return Twin(call, partial(asyncio.to_thread, call))


def whole(make: Callable[[], Twofold[T]]) -> Twin[T]:
    """
    A flow as one call of another.
    """
    return Twin(lambda: run(make()), lambda: arun(make()))


def run(flow: Twofold[T]) -> T:
    """
    Run a flow in this thread.
    """
    go_on = partial(flow.send, None)
    while True:
        try:
            go_on = partial(flow.send, go_on().here())
        except BaseException as error:  # a signal, too, reaches the flow, wherever it comes
            if getgeneratorstate(flow) != GEN_CLOSED:
                go_on = partial(flow.throw, error)
            elif isinstance(error, StopIteration):
                return error.value  # type: ignore[no-any-return]  # what the flow returns
            else:
                raise


async def arun(flow: Twofold[T]) -> T:
    """
    Run a flow in the running event loop.
    """
    go_on = partial(flow.send, None)
    while True:
        try:
            go_on = partial(flow.send, await go_on().there())
        except BaseException as error:
            if getgeneratorstate(flow) != GEN_CLOSED:
                go_on = partial(flow.throw, error)
            elif isinstance(error, StopIteration):
                return error.value  # type: ignore[no-any-return]
            else:
                raise


__all__ = ["Twin", "Twofold", "arun", "blocking", "run", "whole"]
