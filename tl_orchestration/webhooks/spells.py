"""
A log that a flood of the same event cannot fill.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

#: How long a spell of one event lasts, seconds.
SPELL = 60.0
#: Most events that are told apart.
_MOST = 50


class Spells:
    """
    Logs the first of each event in a minute, and later how many more there were.

    Args:
        log: Where to.
        monotonic: Seconds.
    """

    def __init__(self, log: logging.Logger, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._monotonic = monotonic
        self._ends = 0.0
        self._seen: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def warn(self, message: str, *facts: object) -> None:
        """
        Log a warning; ``facts`` out of a small set.
        """
        now = self._monotonic()
        if now >= self._ends:
            for (template, values), times in self._seen.items():
                if times > 1:
                    self._log.warning(template + " (%s more times)", *values, times - 1)
            self._seen.clear()
            self._ends = now + SPELL
        event = message, tuple(str(fact) for fact in facts)
        if event in self._seen or len(self._seen) < _MOST:
            self._seen[event] += 1
            if self._seen[event] == 1:
                self._log.warning(message, *event[1])


class Seldom(logging.Filter):
    """
    For the logger of a library: of each of its messages, one record a minute.

    Args:
        monotonic: Seconds.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Whether the record is logged.
        """
        now, message = self._monotonic(), str(record.msg)
        if now < self._until.get(message, now):
            return False
        if message not in self._until and len(self._until) >= _MOST:
            self._until.clear()
        self._until[message] = now + SPELL
        return True


__all__ = ["Seldom", "Spells"]
