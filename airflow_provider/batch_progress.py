"""
How a campaign stands, in the log of its task: a line now and then, none per row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tl_orchestration.batch.pace import Pace, counted

if TYPE_CHECKING:
    from tl_orchestration.batch import BatchSummary

log = logging.getLogger(__name__)

#: Seconds between two lines.
_LINES = 30.0


class BatchProgress:
    """
    Args:
        monotonic: Seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._pace = Pace(monotonic)
        self._told = float("-inf")

    def tell(self, summary: BatchSummary) -> None:
        """
        It stands so now.
        """
        speed = self._pace.of(summary)
        if self._monotonic() - self._told < _LINES:
            return
        self._told = self._monotonic()
        log.info("%s", line(summary, str(speed)))


def line(summary: BatchSummary, speed: str = "") -> str:
    """
    Rows by state, speed and whatever holds the campaign.
    """
    held = [
        "starts fail, one row at a time is tried" if summary.breaker_open else "",
        f"told to stop ({summary.stop})" if summary.stop else "",
    ]
    return "; ".join(part for part in (f"Campaign {summary.campaign}: {counted(summary)}", speed, *held) if part)
