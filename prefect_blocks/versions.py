"""
Every difference between Prefect versions, and what of Prefect has no other door, each with its reason.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from prefect.exceptions import PrefectException, PrefectHTTPStatusError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State

T = TypeVar("T")

#: What a call to the Prefect server fails with. ``RuntimeError``: it cannot be reached (no other class tells);
#: ``ValueError``: no server is configured, or its answer cannot be read.
PREFECT_FAILURES = (PrefectException, httpx.HTTPError, OSError, RuntimeError, ValueError)

#: Between tries to set a label, seconds.
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


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


def label(flow_run_id: UUID, labels: dict[str, Any]) -> None:
    """
    Set labels of a flow run. A server on SQLite answers 503 whenever something else is written at the same moment, and
    Prefect's client then sleeps for two seconds, up to five times: a start would wait for it. So it is tried again
    here, sooner.

    Raises:
        PREFECT_FAILURES: The server did not take them.
    """
    from prefect import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        for pause in _PAUSES:
            try:
                client.update_flow_run_labels(flow_run_id, labels)
            except PrefectHTTPStatusError as error:
                if error.response.status_code != 503:
                    raise
                time.sleep(pause)
            else:
                return
        client.update_flow_run_labels(flow_run_id, labels)


__all__ = ["PREFECT_FAILURES", "exception_of", "label", "load_block"]
