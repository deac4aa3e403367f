"""
Flows that are written once: the same answers, errors and signals reach them in a thread and in an event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal

from prefect_blocks import twins

Drive = Callable[[twins.Twofold[Any]], Any]


@pytest.fixture(params=["here", "there"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """
    Either driver.
    """
    return twins.run if request.param == "here" else lambda flow: asyncio.run(twins.arun(flow))


def say(word: str) -> twins.Twin[str]:
    async def there() -> str:
        return word

    return twins.Twin(lambda: word, there)


def raising(error: BaseException) -> twins.Twin[str]:
    def here() -> str:
        raise error

    async def there() -> str:
        raise error

    return twins.Twin(here, there)


def test_answers_and_what_is_returned(drive: Drive) -> None:
    """Each answer comes back to where it was asked for; one flow can be a call of another."""

    def inner() -> twins.Twofold[str]:
        return (yield from say("b")) + (yield from twins.blocking(lambda: "c"))

    def flow() -> twins.Twofold[list[str]]:
        first = yield from say("a")
        return [first, (yield from twins.whole(inner)), (yield from inner())]

    assert drive(flow()) == ["a", "bc", "bc"]


@pytest.mark.parametrize("error", [ValueError("x"), TerminationSignal(15), KeyboardInterrupt()])
def test_errors_reach_the_flow(drive: Drive, error: BaseException) -> None:
    """A flow can handle what a call raises, a signal too; what it does not handle goes on."""
    seen: list[BaseException] = []

    def handles() -> twins.Twofold[str]:
        try:
            yield from raising(error)
        except BaseException as caught:
            seen.append(caught)
        return (yield from say("handled"))

    def leaves() -> twins.Twofold[str]:
        return (yield from raising(ValueError("left")))

    assert drive(handles()) == "handled"
    assert seen == [error]
    with pytest.raises(ValueError, match="left"):
        drive(leaves())


def test_flow_that_asks_nothing(drive: Drive) -> None:
    """It returns, or raises, at once."""

    def flow(*, fails: bool) -> twins.Twofold[int]:
        if fails:
            raise KeyError("k")
        yield from ()
        return 7

    assert drive(flow(fails=False)) == 7
    with pytest.raises(KeyError):
        drive(flow(fails=True))


def test_blocking_call_leaves_the_loop_free() -> None:
    """In an event loop it is made in a thread; here, in this one."""

    def flow() -> twins.Twofold[int]:
        return (yield from twins.blocking(threading.get_ident))

    assert twins.run(flow()) == threading.get_ident()
    assert asyncio.run(twins.arun(flow())) != threading.get_ident()
