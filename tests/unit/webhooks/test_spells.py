"""Logs that a flood cannot fill: the first of each event is there, the others are a number."""

from __future__ import annotations

import logging

import pytest

from tl_orchestration.webhooks.spells import _MOST, SPELL, Seldom, Spells

log = logging.getLogger("tl_orchestration.tests.spells")


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_first_of_each_and_then_a_number(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """Each event is logged when it comes first in a minute; how often it came again is said after that minute."""
    spells = Spells(log, monotonic=time)
    for _ in range(1000):
        spells.warn("refused: %s", "a")
    spells.warn("refused: %s", "b")
    assert caplog.messages == ["refused: a", "refused: b"]
    time.now += SPELL
    spells.warn("refused: %s", "c")
    assert caplog.messages[2:] == ["refused: a (999 more times)", "refused: c"]


def test_events_are_bounded(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """However many events differ, so many lines come in a minute and no more."""
    spells = Spells(log, monotonic=time)
    for number in range(10 * _MOST):
        spells.warn("refused: %s", number)
    assert len(caplog.messages) == _MOST


def test_message_of_a_library_once_a_minute(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """Each message of a logger passes once a minute, whatever its arguments."""
    library = logging.getLogger("tl_orchestration.tests.library")
    library.addFilter(Seldom(monotonic=time))
    for number in range(100):
        library.warning("request %d", number)
        library.error("another")
    assert caplog.messages == ["request 0", "another"]
    time.now += SPELL
    library.warning("request %d", 100)
    assert caplog.messages[2:] == ["request 100"]


def test_messages_that_are_remembered_are_bounded(time: Time) -> None:
    """A library that puts facts into its messages does not fill the memory."""
    seldom = Seldom(monotonic=time)
    for number in range(10 * _MOST):
        seldom.filter(logging.LogRecord("x", logging.WARNING, "x", 1, f"m{number}", None, None))
    assert len(seldom._until) <= _MOST
