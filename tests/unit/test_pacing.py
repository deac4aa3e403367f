"""Polls grow rarer with the time already waited, within bounds."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_orchestration.errors import InvalidRequest
from tl_orchestration.pacing import Pacing

pacings = st.builds(
    Pacing, floor=st.floats(0.01, 60), cap=st.floats(0.01, 600), share=st.floats(0, 2), jitter=st.floats(0, 0.99)
)


@given(pacing=pacings, waited=st.floats(-10, 1e9), seed=st.integers())
def test_interval_stays_in_its_bounds(pacing: Pacing, waited: float, seed: int) -> None:
    """Law: an interval is never below the floor nor above the cap, but for the jitter."""
    delay = pacing.delay(waited, random.Random(seed))
    highest = max(pacing.cap, pacing.floor)
    assert pacing.floor * (1 - pacing.jitter) * 0.999 <= delay <= highest * (1 + pacing.jitter) * 1.001
    assert delay > 0


@given(
    floor=st.floats(0.01, 60),
    cap=st.floats(0.01, 600),
    share=st.floats(0, 2),
    waits=st.lists(st.floats(0, 1e6), min_size=2),
)
def test_interval_grows_with_the_wait(floor: float, cap: float, share: float, waits: list[float]) -> None:
    """Law: before jitter, whoever has waited longer polls no more often."""
    pacing = Pacing(floor=floor, cap=cap, share=share, jitter=0.0)
    delays = [pacing.delay(waited, random.Random(1)) for waited in sorted(waits)]
    assert all(earlier <= later for earlier, later in pairwise(delays))


def test_default_profile() -> None:
    """A second at first, a tenth of the wait later, half a minute at most."""
    pacing = Pacing(jitter=0.0)
    rng = random.Random(1)
    assert [pacing.delay(waited, rng) for waited in (0.0, 10.0, 60.0, 3600.0)] == [1.0, 1.0, 6.0, 30.0]


def test_fixed_interval() -> None:
    """Pacing.every keeps its interval, with jitter around it."""
    delays = [Pacing.every(5.0).delay(waited, random.Random(waited)) for waited in range(0, 10_000, 100)]
    assert min(delays) >= 4.5
    assert max(delays) <= 5.5
    assert len(set(delays)) > 50


@pytest.mark.parametrize("value", [0, -1, math.nan])
@pytest.mark.parametrize("name", ["floor", "cap"])
def test_interval_of_nothing_is_refused(name: str, value: float) -> None:
    """A poll interval must be positive."""
    with pytest.raises(InvalidRequest, match="positive number of seconds"):
        Pacing(**{name: value})
    with pytest.raises(InvalidRequest, match="positive number of seconds"):
        Pacing.every(value)


@pytest.mark.parametrize("fields", [{"share": -0.1}, {"jitter": -0.1}, {"jitter": 1.0}])
def test_shares_out_of_range_are_refused(fields: dict[str, float]) -> None:
    """Neither share may be negative, and jitter may not reach the whole interval."""
    with pytest.raises(ValueError, match="must be"):
        Pacing(**fields)
