"""When one of many may leave: not above the limit, not during a pause, and slowly after one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_orchestration.pacing import LONGEST_PAUSE, Gate


def departures(gate: Gate, begins: float, seconds: float, late: float = 0.0) -> list[float]:
    """When they leave if there is always another one, and each is let out by a timer that is a little late."""
    now, left = begins, []
    while (now := max(now, gate.opens_at + late)) < begins + seconds:
        gate.passed(now)
        left.append(now)
        now += 1e-4
    return left


def test_without_limit_it_is_open() -> None:
    """Nothing holds back who needs not wait."""
    assert len(departures(Gate(None, random.Random(1)), 100.0, 1.0)) > 9000


@given(limit=st.floats(0.1, 500), late=st.floats(0, 0.02), begins=st.floats(0, 1e6))
def test_limit_holds_in_every_window(limit: float, late: float, begins: float) -> None:
    """Law: within any time no more leave than the limit allows; what is made up for is a late timer's moment."""
    left = departures(Gate(limit, random.Random(1)), begins, 100 / limit, late)
    for index, moment in enumerate(left):
        for further in (1, 5, 25, 99):
            if index + further < len(left):
                assert further <= (left[index + further] - moment + 0.051) * limit + 1


@pytest.mark.parametrize("late", [0.0, 0.002, 0.01])
def test_late_timers_cost_no_throughput(late: float) -> None:
    """A limit is reached although every timer of the loop fires late."""
    assert len(departures(Gate(400.0, random.Random(1)), 0.0, 10.0, late)) >= 3950


@given(
    limit=st.none() | st.floats(0.5, 500),
    pauses=st.lists(st.tuples(st.floats(0, 20), st.floats(-5, 1000)), min_size=1, max_size=5),
    seed=st.integers(),
)
def test_nobody_leaves_during_a_pause(limit: float | None, pauses: list[tuple[float, float]], seed: int) -> None:
    """Law: after a hold nobody leaves for so long, at most five minutes and a second; a shorter hold shortens none."""
    gate, now, until = Gate(limit, random.Random(seed)), 0.0, 0.0
    for gap, seconds in pauses:
        now += gap
        gate.hold(now, seconds)
        until = max(until, now + min(max(seconds, 0.0), LONGEST_PAUSE))
        assert until <= gate.opens_at <= max(until, now + LONGEST_PAUSE) + 1.0


def test_pause_ends_at_different_moments() -> None:
    """Processes that were told the same come back within a second, not at once."""
    ends = []
    for seed in range(100):
        gate = Gate(None, random.Random(seed))
        gate.hold(0.0, 30.0)
        ends.append(gate.opens_at)
    assert min(ends) < 30.1
    assert max(ends) > 30.9


def test_slow_start_doubles_each_second() -> None:
    """After a pause ten leave in the first second and twice as many in each that follows."""
    gate = Gate(None, random.Random(1))
    gate.hold(0.0, 5.0)
    begins = gate.opens_at
    left = departures(gate, 0.0, 12.0)
    per_second = [sum(begins + n <= moment < begins + n + 1 for moment in left) for n in range(6)]
    assert left[0] == begins
    for n, count in enumerate(per_second):
        assert 10 * 2**n <= count <= 10 * 2 ** (n + 1)


def test_slow_start_obeys_the_limit() -> None:
    """A limit below the slow start's rate stays the limit."""
    gate = Gate(5.0, random.Random(1))
    gate.hold(0.0, 5.0)
    assert len(departures(gate, 0.0, 15.0)) <= 5 * 10 + 2


def test_drained_gate_is_open_again() -> None:
    """Once nobody is left behind the slow start is over; while the pause lasts it is not."""
    gate = Gate(None, random.Random(1))
    gate.hold(0.0, 5.0)
    gate.drained(1.0)
    assert len(departures(gate, 5.5, 1.0)) < 25
    gate.drained(7.0)
    assert len(departures(gate, 8.0, 0.5)) > 1000
