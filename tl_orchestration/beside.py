"""
Work beside the thread that waits for it, which may be called away and must then not be held.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


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


__all__ = ["in_thread"]
