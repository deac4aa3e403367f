"""
How fast a campaign comes to its end, for whoever tells people about it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from attrs import frozen

from tl_orchestration.batch.states import UNFINISHED
from tl_orchestration.batch.summary import BatchSummary

#: Seconds over which the rate is taken.
_WINDOW = 60.0


@frozen
class Speed:
    """
    Args:
        rate: Rows per second that have come to their ends lately.
        left: Seconds until none is left at that rate; None while none ends.
    """

    rate: float
    left: float | None

    def __str__(self) -> str:
        return f"{self.rate:.1f} rows/s" + ("" if self.left is None else f", {clock(self.left)} left")


class Pace:
    """
    Args:
        monotonic: Seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, summary: BatchSummary) -> Speed:
        """
        With how the campaign stands now.
        """
        now, unfinished = self._monotonic(), summary.count(*UNFINISHED)
        self._seen.append((now, unfinished))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        rate = max(0.0, (before - unfinished) / (now - since)) if now > since else 0.0
        return Speed(rate, unfinished / rate if rate else None)


def clock(seconds: float) -> str:
    """
    As hours, minutes and seconds.
    """
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def counted(summary: BatchSummary) -> str:
    """
    The rows by state, in one line.
    """
    return ", ".join(f"{count} {state.value}" for state, count in sorted(summary.counts.items()))


__all__ = ["Pace", "Speed", "clock", "counted"]
