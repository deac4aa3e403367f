"""
Every difference between Prefect versions, and what of Prefect has no other door, each with its reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from prefect.exceptions import PrefectException

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

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


__all__ = ["PREFECT_FAILURES", "exception_of", "load_block"]
