"""
Errors of the core as Airflow understands them.

What no retry can mend ends the task at once; what a retry may mend is retried, and the retry re-attaches.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from airflow_provider.versions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tl_orchestration.errors import TransactionlinkError


#: What a person does about a start of unknown fate, here where the ledger is Airflow's task state.
UNKNOWN_START = (
    "Look for it in the vendor's dashboard. If it runs, wait for it with TransactionlinkWorkflowSensor; if it does not,"
    " set on_unknown_start='restart' and clear the task."
)


class TransactionlinkFailure(AirflowFailException):
    """
    The task has failed and a retry would not change that. ``error`` is the core's typed error.
    """

    def __init__(self, message: str, error: TransactionlinkError | None = None) -> None:
        super().__init__(message)
        self.error = error


class TransactionlinkRetry(AirflowException):
    """
    The task has failed in a way that a retry may mend. ``error`` is the core's typed error.
    """

    def __init__(self, message: str, error: TransactionlinkError | None = None) -> None:
        super().__init__(message)
        self.error = error


@contextlib.contextmanager
def reported(*, retry_endings: bool = False, under_way: bool = False) -> Iterator[None]:
    """
    Raise the core's errors as one of the two above, with their sentence as the message.

    Args:
        retry_endings: An execution that ended without success, or was cancelled at its deadline, may be tried again
            (``retry_failed``).
        under_way: An execution is being waited for. A connection that cannot be read is then a reason to come back:
            Airflow says that it does not exist also when its secrets backend is away.
    """
    from tl_orchestration.errors import (
        ExecutionCancelled,
        ExecutionExpired,
        ExecutionFailed,
        InvalidSettings,
        StartOutcomeUnknown,
        TransactionlinkError,
        WaitTimeout,
    )

    endings = (ExecutionFailed, ExecutionCancelled, ExecutionExpired, WaitTimeout)
    try:
        yield
    except TransactionlinkError as error:
        again = (
            error.retryable
            or (retry_endings and isinstance(error, endings))
            or (under_way and isinstance(error, InvalidSettings))
        )
        message = f"{error.what} {UNKNOWN_START}" if isinstance(error, StartOutcomeUnknown) else str(error)
        raise (TransactionlinkRetry if again else TransactionlinkFailure)(message, error) from None
