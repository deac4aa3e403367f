"""
When the next poll is due, and when many of them may leave. Pure: no clock, no sleep.
"""

from __future__ import annotations

import math
import random

from attrs import field, frozen, validators

from tl_orchestration.errors import InvalidRequest

#: Longest time for which a service's word keeps us from asking again, seconds.
LONGEST_PAUSE = 300.0


def _positive(instance: object, attribute: object, value: float) -> None:
    if not value > 0:
        raise InvalidRequest(f"A poll interval must be a positive number of seconds, not {value!r}.")


@frozen
class Pacing:
    """
    Polls grow rarer with the time already waited: a short check is seen fast, a long one costs few requests.

    Args:
        floor: Shortest interval, seconds.
        cap: Longest interval, seconds.
        share: Interval as a share of the time waited so far.
        jitter: Each interval is stretched or shortened by up to this share, so that many waits do not march in step.
    """

    floor: float = field(default=1.0, validator=_positive)
    cap: float = field(default=30.0, validator=_positive)
    share: float = field(default=0.1, validator=validators.ge(0))
    jitter: float = field(default=0.1, validator=[validators.ge(0), validators.lt(1)])

    @classmethod
    def every(cls, seconds: float) -> Pacing:
        """
        A fixed interval, seconds (still with jitter).
        """
        return cls(floor=seconds, cap=seconds, share=0.0)

    def delay(self, waited: float, rng: random.Random) -> float:
        """
        Seconds until the next poll, after ``waited`` seconds of waiting.
        """
        interval = min(max(self.floor, self.share * max(waited, 0.0)), max(self.cap, self.floor))
        return interval * rng.uniform(1.0 - self.jitter, 1.0 + self.jitter)


#: Intervals where webhooks say when an execution has changed, and polls only make up for those that are lost. An
#: execution of half an hour is polled at its start, twice in between, and when its end is announced.
SAFETY_NET = Pacing(floor=300.0, cap=900.0, share=3.0)


class Gate:
    """
    When the next of many requests may leave: under a rate limit, and not while the service has asked for a pause.

    After a pause the requests that have gathered leave as a slow start: a few a second, then twice as many each
    second, until none is left behind. Times are monotonic seconds.

    Args:
        limit: Requests per second, spread evenly; None: no limit.
        rng: For jitter.
    """

    #: Requests per second with which a slow start begins.
    FIRST_RATE = 10.0
    #: What a limit may make up for after a late timer, seconds.
    _CREDIT = 0.05
    #: Seconds after which a slow start has doubled beyond any rate that one process reaches.
    _STEEPEST = 12.0

    def __init__(self, limit: float | None, rng: random.Random) -> None:
        self._spacing = 0.0 if limit is None else 1.0 / limit
        self._rng = rng
        self._next = float("-inf")
        self._resumed: float | None = None

    @property
    def opens_at(self) -> float:
        """
        The time from which one request may leave.
        """
        return self._next

    def passed(self, now: float) -> None:
        """
        One has left.
        """
        self._next = max(self._next, now - self._CREDIT) + self._spacing_at(now)

    def hold(self, now: float, seconds: float) -> None:
        """
        Let none leave for so long, at most ``LONGEST_PAUSE``, and a little longer, so that processes which were told
        the same do not come back at the same moment.
        """
        pause = min(max(seconds, 0.0), LONGEST_PAUSE)
        ends = now + pause + self._rng.uniform(0.0, min(1.0, 0.1 * pause))
        if ends > self._next:
            self._next = self._resumed = ends

    def drained(self, now: float) -> None:
        """
        Nobody waits to leave any more: a slow start is over.
        """
        if self._resumed is not None and now >= self._resumed:
            self._resumed = None

    def _spacing_at(self, now: float) -> float:
        if self._resumed is None:
            return self._spacing
        doublings = min(max(now - self._resumed, 0.0), self._STEEPEST)
        return max(self._spacing, 1.0 / (self.FIRST_RATE * math.exp2(doublings)))
