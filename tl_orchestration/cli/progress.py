"""
How a wait stands, for the person who waits: a live line on a terminal, else one line per change. All on stderr.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from random import Random

from attrs import field, frozen
from rich.console import Console
from rich.text import Text

from tl_orchestration.cli.live import LiveArea
from tl_orchestration.cli.output import printable, status_text
from tl_orchestration.models import Execution
from tl_orchestration.pacing import Pacing


class Progress(LiveArea):
    """
    Shows the wait for one execution while it is entered.

    Args:
        console: Writes to stderr.
        monotonic: Seconds.
    """

    def __init__(self, console: Console, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._monotonic = monotonic
        self._began = monotonic()
        self._due: float | None = None
        self._status = "asking"

    def changed(self, execution: Execution) -> None:
        """
        A poll showed another status.
        """
        self._status = printable(status_text(execution))
        if not self.is_live:
            print(f"Execution {execution.id} is {self._status}.", file=sys.stderr, flush=True)

    def pausing(self, seconds: float) -> None:
        """
        The next poll comes after so many seconds.
        """
        self._due = self._monotonic() + seconds

    def tick(self) -> None:
        """
        Draw the line anew. Called several times a second while waiting.
        """
        if not self.is_live:
            return
        now = self._monotonic()
        line = f"{self._status}  {_clock(now - self._began)} elapsed"
        if self._due is not None:
            line += f"  next poll in {max(0.0, self._due - now):.0f}s"
        self.draw(Text(line, no_wrap=True, overflow="ellipsis"))


@frozen
class WatchedPacing(Pacing):
    """
    The usual pacing, which says what it decided.
    """

    on_delay: Callable[[float], None] = field(kw_only=True)

    def delay(self, waited: float, rng: Random) -> float:
        seconds = super().delay(waited, rng)
        self.on_delay(seconds)
        return seconds


class ConsoleLog(logging.Handler):
    """
    This package's log on stderr: above a live line where there is one.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        # Without the traceback: values live in it.
        line = printable(f"{record.levelname.lower()}: {record.getMessage()}")
        self._console.print(Text(line), soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
