"""
Ctrl-C, so that it never loses what the service has done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """
    While entered, the first SIGINT or SIGTERM only sets a flag, and the second is a KeyboardInterrupt.

    Args:
        notice: What to tell the person at the first one, if that is not to be seen otherwise.
        then: Called at the first one, in the handler.
    """

    def __init__(self, notice: str | None = None, then: Callable[[], None] | None = None) -> None:
        self.notice = notice
        self._then = then
        self.happened = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.happened:
            raise KeyboardInterrupt
        self.happened = True
        if self.notice is not None:
            # Not through sys.stderr: the signal may have come in the middle of a write to it.
            with contextlib.suppress(OSError):
                os.write(2, f"{self.notice}\n".encode())
        if self._then is not None:
            self._then()
