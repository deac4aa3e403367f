"""
When the executions of a campaign are asked about: rarely, because many of them are alike.

One row in twenty-five is a scout and is polled often enough to tell how long such an execution takes. The others are
asked when most of those that took as long as they have already had ended soon after.
"""

from __future__ import annotations

import bisect
import random
from collections import deque

from attrs import field, frozen

from tl_orchestration.pacing import Pacing

#: Every so many rows, one is a scout: few enough that the 95th percentile of polls does not see them.
SCOUT_EVERY = 25
#: The scouts' own intervals.
SCOUTING = Pacing(floor=1.0, cap=60.0, share=0.25)
#: Share of the comparable scouts that have ended by the time of a poll.
_MOST = 0.85
#: Durations that are remembered.
_REMEMBERED = 400
#: Where nothing is known: the first look, and how much longer each wait is than the one before.
_FIRST_LOOK = 15.0
_GROWTH = 3.0
_LONGEST = 1800.0


class Experience:
    """
    How long the executions of one campaign have taken, as far as this process has seen.
    """

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_REMEMBERED)
        self._sorted: list[float] = []
        #: When each scout that is under way was started, by its number.
        self._under_way: dict[int, float] = {}
        self._rows = 0

    def enrol(self, started_at: float) -> int | None:
        """
        The number of a scout, if the next row is to be one.
        """
        self._rows += 1
        if (self._rows - 1) % SCOUT_EVERY:
            return None
        self._under_way[self._rows] = started_at
        return self._rows

    def learn(self, scout: int, seconds: float | None) -> None:
        """
        A scout's execution has ended after so long; None: nobody knows.
        """
        self._under_way.pop(scout, None)
        if seconds is None:
            return
        if len(self._latest) == self._latest.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._latest[0])]
        self._latest.append(seconds)
        bisect.insort(self._sorted, seconds)

    def next_look(self, age: float, now: float) -> float:
        """
        The age at which an execution of this age is worth a poll.

        Args:
            age: Seconds since its start.
            now: On the clock of the scouts' starts.
        """
        longer = bisect.bisect_right(self._sorted, age)
        known = len(self._sorted) - longer
        open_ended = sum(1 for started_at in self._under_way.values() if now - started_at > age)
        place = int(_MOST * (known + open_ended))
        if known and place < known:
            return self._sorted[longer + place] * 1.05
        return age + min(_LONGEST, max(_FIRST_LOOK, _GROWTH * age))


@frozen(kw_only=True)
class Thrift(Pacing):
    """
    The intervals of one row; counts its polls.

    Args:
        experience: Of all rows.
        started_at: When it was started, epoch seconds.
        began: When the wait began, likewise.
        scout: Its number, if it is one.
        polls: One entry, the number of polls that did not show an ending.
    """

    experience: Experience = field(repr=False, eq=False)
    started_at: float
    began: float
    scout: int | None
    polls: list[int] = field(factory=lambda: [0], eq=False)

    def delay(self, waited: float, rng: random.Random) -> float:
        self.polls[0] += 1
        now = self.began + waited
        age = max(0.0, now - self.started_at)
        if self.scout is not None:
            return SCOUTING.delay(age, rng)
        return max(0.5, (self.experience.next_look(age, now) - age) * rng.uniform(1.0, 1.05))


__all__ = ["SCOUTING", "SCOUT_EVERY", "Experience", "Thrift"]
