"""
Work beside the thread that waits for it, which may be called away and must then not be held.
"""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

#: Longest wait without a look at what else has happened, seconds.
_PIECE = 1.0


def in_thread(call: Callable[[], T], done: Future[T] | None = None) -> Future[T]:
    """
    In a thread that does not keep the process, with the context of this one, so that its log lines are this one's.

    Args:
        done: Gets the result, where the caller needs it before this returns.
    """
    done = done or Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # it is raised where the result is asked for
            done.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    return done


def awaited(work: Future[T], until: float = math.inf) -> T:
    """
    The result, waited for in short pieces: a signal that comes just before a wait begins does not end it, so its
    handler would run only after the work.

    Args:
        until: Epoch seconds.

    Raises:
        TimeoutError: The work is not done by then.
    """
    while not wait([work], _PIECE).done:
        if time.time() >= until:
            raise TimeoutError("The work beside takes too long.")
    return work.result()


__all__ = ["awaited", "in_thread"]
