"""
How a campaign stands, for the person who watches: a live table on a terminal, else a line now and then. All on stderr.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tl_orchestration.cli.output import printable

if TYPE_CHECKING:
    from tl_orchestration.batch import BatchSummary

#: Seconds between two lines where there is no terminal.
_LINES = 10.0
#: Seconds over which the rate is taken.
_WINDOW = 60.0


class BatchProgress:
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
        self._monotonic = monotonic
        self._now = now
        self._told = float("-inf")
        self._seen: deque[tuple[float, int]] = deque()
        on_terminal = console.is_interactive and sys.stderr.isatty()
        self._live = Live(console=console, auto_refresh=False, transient=True) if on_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, summary: BatchSummary) -> None:
        """
        It stands so now.
        """
        rate, left = self._pace(summary)
        if self._live is not None:
            self._live.update(self._table(summary, rate, left), refresh=True)
        elif self._monotonic() - self._told >= _LINES:
            self._told = self._monotonic()
            counts = ", ".join(f"{count} {state.value}" for state, count in sorted(summary.counts.items()))
            print(f"{counts}; {rate:.1f} rows/s{_until(left)}", file=sys.stderr, flush=True)

    def _pace(self, summary: BatchSummary) -> tuple[float, float | None]:
        """
        Rows per second that have come to their ends lately, and the seconds until none is left at that rate.
        """
        from tl_orchestration.batch.states import UNFINISHED

        now, unfinished = self._monotonic(), summary.count(*UNFINISHED)
        self._seen.append((now, unfinished))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        rate = max(0.0, (before - unfinished) / (now - since)) if now > since else 0.0
        return rate, unfinished / rate if rate else None

    def _table(self, summary: BatchSummary, rate: float, left: float | None) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        for state, count in sorted(summary.counts.items()):
            table.add_row(Text(state.value.lower().replace("_", " ")), Text(f"{count:,}", justify="right"))
        table.add_row(Text("rate"), Text(f"{rate:.1f} rows/s{_until(left)}"))
        if summary.slowest is not None:
            key, started_at = summary.slowest
            table.add_row(Text("slowest"), Text(f"{printable(key)}, {_clock(self._now() - started_at)}"))
        if summary.breaker_open:
            table.add_row(Text("breaker"), Text("open: starts fail, one row at a time is tried"))
        return table


def _until(left: float | None) -> str:
    return "" if left is None else f", {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


__all__ = ["BatchProgress"]
