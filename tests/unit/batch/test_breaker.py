"""A probe of the open breaker says that the service is well, or not, or nothing: then the next one follows soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tl_orchestration.batch.breaker import Admission, Breaker
from tl_orchestration.batch.policy import Limits
from tl_orchestration.batch.shares import FIRST_PROBE, LAST_PROBE, Shares
from tl_orchestration.database.engine import Database


@pytest.fixture
def shares(tmp_path: Path) -> Iterator[Shares]:
    """A quota whose breaker is open, and may be probed."""
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    found = Shares(database, "service", "default", 60.0)
    found.agree(Limits(), None)
    found.failed(1, time.time() - 1000)
    yield found
    database.close()


async def probed(shares: Shares, and_then: Callable[[Breaker, Admission], Awaitable[None]]) -> None:
    breaker = Breaker(shares, at_once=5, after=1)
    async with breaker.turn() as admission:
        assert admission.granted
        await and_then(breaker, admission)


def seconds_to_next(shares: Shares) -> float:
    probe_at = shares.look().probe_at
    assert probe_at is not None
    return probe_at - time.time()


@pytest.mark.parametrize(
    ("pause", "expected"), [(None, FIRST_PROBE), (7.0, 7.0), (7200.0, LAST_PROBE)], ids=["none", "7 s", "2 h"]
)
def test_a_probe_that_says_nothing_is_followed_by_another(shares: Shares, pause: float | None, expected: float) -> None:
    """After what the service has asked for, in bounds; and it counts for nothing."""

    async def nothing(breaker: Breaker, admission: Admission) -> None:
        assert seconds_to_next(shares) == pytest.approx(LAST_PROBE, abs=5)  # should this process die now
        admission.pause = pause

    for _ in range(2):
        asyncio.run(probed(shares, nothing))
        assert seconds_to_next(shares) == pytest.approx(expected, abs=5)
        shares.failed(1, time.time() - 1000)
        assert seconds_to_next(shares) == pytest.approx(FIRST_PROBE - 1000, abs=5)


def test_an_error_of_the_worker_is_no_word_of_the_service(shares: Shares) -> None:
    """Whatever ends the turn."""

    async def fail(breaker: Breaker, admission: Admission) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        asyncio.run(probed(shares, fail))
    assert seconds_to_next(shares) == pytest.approx(FIRST_PROBE, abs=5)


def test_what_a_probe_says_of_the_service_holds(shares: Shares) -> None:
    """Longer pauses after each that fails; none after one that is answered."""

    async def fail(breaker: Breaker, admission: Admission) -> None:
        await breaker.failed()

    async def answer(breaker: Breaker, admission: Admission) -> None:
        await breaker.answered()

    asyncio.run(probed(shares, fail))
    assert seconds_to_next(shares) == pytest.approx(2 * FIRST_PROBE, abs=5)
    shares.failed(1, time.time() - 1000)
    asyncio.run(probed(shares, answer))
    assert shares.look().probe_at is None
