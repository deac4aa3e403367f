"""Executions that are alike are asked about seldom: four polls at most for 95 of 100 rows, once scouts have told."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tl_orchestration.batch.thrift import SCOUT_EVERY, SCOUTING, Experience, Thrift


def polls_of(experience: Experience, seconds: float, scout: int | None, rng: random.Random) -> int:
    """
    Polls of a row that takes so long, on a clock of its own.
    """
    pacing = Thrift(experience=experience, started_at=0.0, began=0.0, scout=scout)
    age = SCOUTING.floor if scout is not None else experience.next_look(0.0, 0.0)
    while age < seconds:
        age += pacing.delay(age, rng)
    if scout is not None:
        experience.learn(scout, age)
    return pacing.polls[0] + 1


@pytest.mark.parametrize(
    "duration",
    [
        lambda rng: rng.uniform(2, 4),
        lambda rng: rng.lognormvariate(3, 0.8),
        lambda rng: rng.lognormvariate(4, 1.2),
        lambda rng: 600.0,
        lambda rng: rng.uniform(3, 5) if rng.random() < 0.8 else rng.uniform(3000, 4000),
    ],
    ids=["seconds", "skewed", "very skewed", "ten minutes", "two kinds"],
)
def test_polls_per_row(duration: Callable[[random.Random], float]) -> None:
    """The 95th percentile over a campaign, scouts and beginners included."""
    rng = random.Random(7)
    experience = Experience()
    polls = []
    for _ in range(2000):
        scout = experience.enrol(0.0)
        polls.append(polls_of(experience, duration(rng), scout, rng))
    polls.sort()
    assert polls[int(0.95 * len(polls))] <= 4


def test_few_rows_are_scouts() -> None:
    """So few that the 95th percentile does not see them."""
    experience = Experience()
    scouts = [number for number in range(100) if experience.enrol(0.0) is not None]
    assert len(scouts) == 100 // SCOUT_EVERY < 5


def test_without_any_scout_the_waits_grow() -> None:
    """From the first look on, each is several times as old as the one before."""
    experience = Experience()
    looks, age = 0, 0.0
    while age < 3600:
        age = experience.next_look(age, 0.0)
        looks += 1
    assert looks <= 6


def test_a_scout_that_nobody_follows_any_more_teaches_nothing() -> None:
    """It is forgotten."""
    experience = Experience()
    scout = experience.enrol(0.0)
    assert scout is not None
    before = Experience().next_look(0.0, 0.0)
    experience.learn(scout, None)
    assert experience.next_look(0.0, 100.0) == before
