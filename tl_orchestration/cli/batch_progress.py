"""
How a campaign stands, for the person who watches: a live table on a terminal, else a line now and then. All on stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tl_orchestration.cli.live import LiveArea
from tl_orchestration.cli.output import printable

if TYPE_CHECKING:
    from tl_orchestration.batch import BatchSummary
    from tl_orchestration.batch.pace import Speed

#: Seconds between two lines where there is no terminal.
_LINES = 10.0


class BatchProgress(LiveArea):
    """
    Shows a campaign while it is entered.

    Args:
        console: Writes to stderr.
        monotonic: Seconds.
        now: Epoch seconds.
    """

    def __init__(
        self,
        console: Console,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        from tl_orchestration.batch.pace import Pace

        super().__init__(console)
        self._monotonic = monotonic
        self._now = now
        self._told = float("-inf")
        self._pace = Pace(monotonic)

    def show(self, summary: BatchSummary) -> None:
        """
        It stands so now.
        """
        from tl_orchestration.batch.pace import counted

        speed = self._pace.of(summary)
        if self.is_live:
            self.draw(self._table(summary, speed))
        elif self._monotonic() - self._told >= _LINES:
            self._told = self._monotonic()
            print(f"{counted(summary)}; {speed}", file=sys.stderr, flush=True)

    def _table(self, summary: BatchSummary, speed: Speed) -> Table:
        from tl_orchestration.batch.pace import clock

        table = Table(box=None, show_header=False, pad_edge=False)
        for state, count in sorted(summary.counts.items()):
            table.add_row(Text(state.value.lower().replace("_", " ")), Text(f"{count:,}", justify="right"))
        table.add_row(Text("rate"), Text(str(speed)))
        if summary.slowest is not None:
            key, started_at = summary.slowest
            table.add_row(Text("slowest"), Text(f"{printable(key)}, {clock(self._now() - started_at)}"))
        if summary.breaker_open:
            table.add_row(Text("breaker"), Text("open: starts fail, one row at a time is tried"))
        return table


__all__ = ["BatchProgress"]
