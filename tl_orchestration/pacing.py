"""
When the next poll is due. Pure: no clock, no sleep.
"""

from __future__ import annotations

import random

from attrs import field, frozen, validators

from tl_orchestration.errors import InvalidRequest


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
