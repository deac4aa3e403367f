"""
How far a row of a campaign has come.
"""

from __future__ import annotations

from enum import StrEnum

from tl_orchestration.status import Status


class RowState(StrEnum):
    """
    ::

        PENDING ──► STARTED ──► ENDED ──► SUCCEEDED, PARTIAL, FAILED, CANCELLED, EXPIRED, TIMED_OUT,
           │      │                         RESULT_MISSING
           │  └───► UNKNOWN (it may or may not have started)
           ├──────► REJECTED (the service refused it; nothing runs)
           └──────► INVALID (the source contradicts itself, or no longer has it)

    An ``ENDED`` row's result has yet to be kept; with the state after it, the place of the result is on record, or that
    the service does not give it (``RESULT_MISSING``). Only an explicit retry leads back to ``PENDING``, from
    ``RESULT_MISSING`` to ``ENDED`` (as from an ending whose result was not kept, in a campaign that keeps results), and
    for ``INVALID`` another pass over the source. A row that such a pass takes out while its start is under way has
    started all the same.
    """

    PENDING = "PENDING"
    STARTED = "STARTED"
    ENDED = "ENDED"
    SUCCEEDED = "SUCCEEDED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    TIMED_OUT = "TIMED_OUT"
    RESULT_MISSING = "RESULT_MISSING"
    UNKNOWN = "UNKNOWN"
    REJECTED = "REJECTED"
    INVALID = "INVALID"


#: States of a row that somebody still has to do something about.
UNFINISHED = (RowState.PENDING, RowState.STARTED, RowState.ENDED)
#: States in which a result may be.
WITH_RESULT = (RowState.SUCCEEDED, RowState.PARTIAL)
#: Endings that are no success, and from which an explicit retry leads back.
FAILURES = (
    RowState.PARTIAL,
    RowState.FAILED,
    RowState.CANCELLED,
    RowState.EXPIRED,
    RowState.TIMED_OUT,
    RowState.RESULT_MISSING,
)


def final_state(status: str | None) -> RowState:
    """
    The state of a row whose execution has ended with this status; None: its deadline has passed.
    """
    return RowState.TIMED_OUT if status is None else RowState(Status(status).value)


__all__ = ["FAILURES", "UNFINISHED", "WITH_RESULT", "RowState", "final_state"]
