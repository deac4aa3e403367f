"""
What a remote status literal means.

Of Transactionlink's, only ``RUNNING`` and ``COMPLETED`` are confirmed by the vendor's own samples; the other spellings
are tolerated guesses. A literal that nobody taught us is :attr:`Status.UNKNOWN`: not terminal, never success.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """
    Where an execution stands, in one vocabulary for every service.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    SUCCEEDED = "SUCCEEDED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_terminal(self) -> bool:
        """
        Whether the execution can no longer change. ``UNKNOWN`` is not terminal.
        """
        return self in TERMINAL


TERMINAL = frozenset({Status.SUCCEEDED, Status.PARTIAL, Status.FAILED, Status.CANCELLED, Status.EXPIRED})

StatusMap = Mapping[str, Status]

TRANSACTIONLINK_LITERALS: StatusMap = MappingProxyType(
    {
        "COMPLETED": Status.SUCCEEDED,
        "FINISHED": Status.SUCCEEDED,
        "SUCCESS": Status.SUCCEEDED,
        "SUCCEEDED": Status.SUCCEEDED,
        "DONE": Status.SUCCEEDED,
        "CANCELLED": Status.CANCELLED,
        "CANCELED": Status.CANCELLED,
        "EXPIRED": Status.EXPIRED,
        "TIMED_OUT": Status.EXPIRED,
        "TIMEOUT": Status.EXPIRED,
        "FAILED": Status.FAILED,
        "ERROR": Status.FAILED,
        "FAILURE": Status.FAILED,
        "REJECTED": Status.FAILED,
        "TERMINATED": Status.FAILED,
        "ABORTED": Status.FAILED,
        "RUNNING": Status.RUNNING,
        "STARTED": Status.RUNNING,
        "IN_PROGRESS": Status.RUNNING,
        "CREATED": Status.PENDING,
        "PENDING": Status.PENDING,
        "AWAITING": Status.WAITING,
        "WAITING": Status.WAITING,
        "PAUSED": Status.WAITING,
    }
)


#: Statuses of an execution, and of the run behind it (contract B2, B3). All are documented.
B3OS_LITERALS: StatusMap = MappingProxyType(
    {
        "awaiting_payment": Status.WAITING,
        "payment_confirmed": Status.PENDING,
        "workflow_queued": Status.PENDING,
        "workflow_running": Status.RUNNING,
        "workflow_waiting": Status.WAITING,
        "workflow_succeeded": Status.SUCCEEDED,
        "workflow_partial": Status.PARTIAL,
        "workflow_failed": Status.FAILED,
        "workflow_cancelled": Status.CANCELLED,
        "running": Status.RUNNING,
        "waiting": Status.WAITING,
        "success": Status.SUCCEEDED,
        "partial": Status.PARTIAL,
        "failure": Status.FAILED,
        "cancelled": Status.CANCELLED,
    }
)


def normalised(literal: str) -> str:
    """
    The form in which literals are compared: upper case, words joined by underscores.
    """
    return "_".join(literal.strip().upper().replace("-", " ").replace("_", " ").split())


def meaning(literal: str, known: StatusMap, taught: StatusMap | None = None) -> Status:
    """
    Translate a service's literal. What the caller taught (``status_map``) wins over what we know.
    """
    word = normalised(literal)
    for status_map in (taught or {}, known):
        for spelling, status in status_map.items():
            if normalised(spelling) == word:
                return status
    return Status.UNKNOWN
