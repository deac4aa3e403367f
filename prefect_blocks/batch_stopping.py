"""
How the shards of a batch hear that their flow run is ending: in its own process by an event, elsewhere from the server.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from prefect_blocks import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

#: Seconds between two questions to the server whether the flow run is being cancelled.
_ASK = 5.0

#: By flow run: set once its shards in this process are to stop.
_stops: dict[UUID, threading.Event] = {}


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """
    An event for the shards of this flow run that are in this process. However the flow ends, they are to stop.
    """
    flow_run_id, stop = identity.flow_run_id(), threading.Event()
    if flow_run_id is not None:
        _stops[flow_run_id] = stop
    try:
        yield stop
    finally:
        stop.set()
        if flow_run_id is not None:
            del _stops[flow_run_id]


@contextlib.contextmanager
def told_to_stop(flow_run_id: UUID | None) -> Iterator[Callable[[], bool]]:
    """
    Whether a shard is to stop. Where the flow is in another process, the server is asked now and then.
    """
    here = None if flow_run_id is None else _stops.get(flow_run_id)
    if here is not None or flow_run_id is None:
        yield (here or threading.Event()).is_set
        return
    stop, ended = threading.Event(), threading.Event()

    def ask() -> None:
        while not ended.wait(_ASK):
            if _has_ended(flow_run_id):
                stop.set()
                return

    threading.Thread(target=ask, daemon=True).start()
    try:
        yield stop.is_set
    finally:
        ended.set()


def _has_ended(flow_run_id: UUID) -> bool:
    """
    Whether the flow run, or one that it is a subflow of, is being cancelled or has ended in whatever way: a subflow
    whose parent's process was killed stays Running for ever.
    """
    from prefect import get_client

    from prefect_blocks.versions import PREFECT_FAILURES

    try:
        with get_client(sync_client=True) as client:
            states = [flow_run.state for flow_run in identity.lineage(client, flow_run_id)]
    except PREFECT_FAILURES:
        return False
    return any(state is not None and (state.is_cancelling() or state.is_final()) for state in states)


__all__ = ["stopping", "told_to_stop"]
