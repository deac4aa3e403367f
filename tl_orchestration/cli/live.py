"""
Where progress is shown: an area of the terminal that is drawn anew, if there is one.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live


class LiveArea:
    """
    Kept while it is entered, gone afterwards.

    Args:
        console: Writes to stderr.
    """

    def __init__(self, console: Console) -> None:
        # A colour setting such as FORCE_COLOR makes a console of a pipe; a live line there would be noise.
        on_terminal = console.is_interactive and sys.stderr.isatty()
        self._live = Live(console=console, auto_refresh=False, transient=True) if on_terminal else None

    @property
    def is_live(self) -> bool:
        """
        Whether there is a terminal.
        """
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def draw(self, what: RenderableType) -> None:
        """
        Show this, and nothing else. Without a terminal: nothing.
        """
        if self._live is not None:
            self._live.update(what, refresh=True)


__all__ = ["LiveArea"]
