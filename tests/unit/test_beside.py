"""
Waiting for work beside: no signal is missed, and nobody waits longer than he says.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tl_orchestration.beside import awaited, in_thread


class Told(BaseException):
    """What the signal's handler raises."""


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Work that ends with the test."""
    event = threading.Event()
    yield event
    event.set()


def test_signal_that_does_not_wake_the_wait(never: threading.Event) -> None:
    """As one that comes just before it begins: here it is another thread that the system interrupts."""

    def told(*_: object) -> None:
        raise Told

    before = signal.signal(signal.SIGUSR1, told)
    work = in_thread(lambda: never.wait(60))
    killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    killer.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with pytest.raises(Told):
            awaited(work)
        assert not work.done()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGUSR1, before)
        killer.join()


def test_work_that_takes_too_long(never: threading.Event) -> None:
    """The wait says so, and the work's own time-out is another thing."""

    def gives_up() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="takes too long"):
        awaited(in_thread(lambda: never.wait(60)), time.time())
    with pytest.raises(TimeoutError, match="of its own"):
        awaited(in_thread(gives_up))
    assert awaited(in_thread(lambda: 5), time.time() + 60) == 5
