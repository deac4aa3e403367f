"""
Every difference between Prefect versions, and what of Prefect has no other door, each with its reason.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import Token
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from prefect.exceptions import PrefectException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.schemas.objects import State
    from prefect.task_runners import TaskRunner

T = TypeVar("T")

#: What a call to the Prefect server fails with. ``RuntimeError``: it cannot be reached (no other class tells);
#: ``ValueError``: no server is configured, or its answer cannot be read.
PREFECT_FAILURES = (PrefectException, httpx.HTTPError, OSError, RuntimeError, ValueError)


def load_block(block: type[T], name: str) -> T:
    """
    A saved block, read synchronously wherever this is called. ``Block.load`` alone returns a coroutine when it finds
    itself in an asynchronous flow, also in a thread of one.
    """
    loaded: Any = block.load(name, _sync=True)  # type: ignore[attr-defined]  # a Block's; `_sync` is how the two are told apart
    return loaded  # type: ignore[no-any-return]  # checked by load


def exception_of(state: State[Any]) -> BaseException | None:
    """
    What a failed state was made of; None where it holds no exception.
    """
    try:
        found: Any = state.result(raise_on_failure=False, _sync=True)  # type: ignore[call-overload]  # as load
    except Exception:  # a result that cannot be read
        return None
    return found if isinstance(found, BaseException) else None


def entered_in(context: Any) -> Iterator[Any]:
    """
    A context of a run, and those that it was entered in: of the flows that this one is a subflow of. Only the token by
    which Prefect leaves a context knows, and no server has the limits of a flow. Without it, the innermost is alone.
    """
    while context is not None:
        yield context
        before = getattr(getattr(context, "_token", None), "old_value", None)
        context = None if before is Token.MISSING else before


def submissions(runner: TaskRunner[Any]) -> int | None:
    """
    How many tasks were submitted to this runner and have not ended, those in its queue too: of these no server knows
    yet. None where the runner does not tell: one other than Prefect's thread pool, and before the version that counts
    also a pool with an empty queue and threads, which may be at work.
    """
    counted: int | None = getattr(runner, "_active_submission_count", None)
    executor: Any = getattr(runner, "_executor", None)
    if counted is None and isinstance(executor, ThreadPoolExecutor):  # 3.6.17 does not count them
        counted = executor._work_queue.qsize() or (None if executor._threads else 0)
    return counted


__all__ = ["PREFECT_FAILURES", "entered_in", "exception_of", "load_block", "submissions"]
