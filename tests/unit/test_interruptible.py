"""Deadline and flag of an exchange belong to its thread and to nothing else."""

from __future__ import annotations

import contextlib
import threading

import httpcore
import pytest

from tests.builders import FakeClock
from tl_orchestration.interruptible import Interrupted, Interruption, _Stream


def interruption(clock: FakeClock) -> Interruption:
    """Over a fake clock."""
    return Interruption(monotonic=clock.clock().monotonic)


def test_outside_an_exchange_nothing_is_limited() -> None:
    """Without a deadline a call may take what it wants."""
    assert interruption(FakeClock()).remaining(30.0) == 30.0


def test_time_runs_out_once_for_the_whole_exchange() -> None:
    """Each call gets what is left, and none more than it wants; then the exchange ends, not by the caller."""
    clock = FakeClock()
    limits = interruption(clock)
    with limits.limited(10.0, None):
        assert (limits.remaining(3.0), limits.remaining(None)) == (3.0, 10.0)
        clock.advance(8.0)
        assert pytest.approx(limits.remaining(3.0)) == 2.0
        clock.advance(2.0)
        with pytest.raises(Interrupted) as caught:
            limits.remaining(3.0)
        assert not caught.value.by_caller
    assert limits.remaining(3.0) == 3.0


def test_flag_comes_first() -> None:
    """A flag ends the exchange at the next look, also when the time is over."""
    clock, flag = FakeClock(), threading.Event()
    limits = interruption(clock)
    with limits.limited(10.0, flag.is_set):
        assert limits.remaining(None) == 10.0
        flag.set()
        clock.advance(20.0)
        with pytest.raises(Interrupted) as caught:
            limits.remaining(None)
        assert caught.value.by_caller


def test_exchanges_can_be_nested() -> None:
    """An exchange within an exchange has its own limits and gives the outer ones back, also after an error."""
    limits = interruption(FakeClock())
    with limits.limited(10.0, None):
        with contextlib.suppress(KeyError), limits.limited(2.0, None):
            assert limits.remaining(None) == 2.0
            raise KeyError("x")
        assert limits.remaining(None) == 10.0


def test_threads_do_not_share_limits() -> None:
    """A deadline is the thread's own."""
    limits = interruption(FakeClock())
    seen: list[float] = []
    with limits.limited(1.0, lambda: False):
        thread = threading.Thread(target=lambda: seen.append(limits.remaining(99.0)))
        thread.start()
        thread.join()
    assert seen == [99.0]


class SlowLine(httpcore.NetworkStream):
    """Takes a kilobyte in a millisecond, however long it is allowed to take."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.taken = 0

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.taken += len(buffer)
        self._clock.advance(len(buffer) / 1e6)


def test_long_body_is_cut_at_the_deadline() -> None:
    """A body that is taken slowly but steadily is written in pieces, and given up soon after the deadline."""
    clock = FakeClock()
    limits, line = interruption(clock), SlowLine(clock)
    stream = _Stream(line, limits)
    with limits.limited(2.0, None):
        stream.write(b"x" * 1_000_000)
        with pytest.raises(Interrupted):
            stream.write(b"x" * 9_000_000)
    assert 2_000_000 <= line.taken < 2_100_000
    assert 2.0 <= clock.passed < 2.1


def test_flag_cuts_a_long_body() -> None:
    """The flag is looked at between the pieces of a body."""
    clock = FakeClock()
    limits, line = interruption(clock), SlowLine(clock)
    with limits.limited(60.0, lambda: line.taken > 500_000), pytest.raises(Interrupted) as caught:
        _Stream(line, limits).write(b"x" * 9_000_000)
    assert caught.value.by_caller
    assert line.taken < 600_000
