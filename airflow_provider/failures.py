"""
Errors of the core as Airflow understands them.

What no retry can mend ends the task at once; what a retry may mend is retried, and the retry re-attaches.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tl_orchestration.errors import TransactionlinkError


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
def reported(*, retry_endings: bool = False) -> Iterator[None]:
    """
    Raise the core's errors as one of the two above, with their sentence as the message.

    Args:
        retry_endings: An execution that ended without success may be tried again (``retry_failed``).
    """
    from tl_orchestration.errors import (
        ExecutionCancelled,
        ExecutionExpired,
        ExecutionFailed,
        TransactionlinkError,
    )

    endings = (ExecutionFailed, ExecutionCancelled, ExecutionExpired)
    try:
        yield
    except TransactionlinkError as error:
        again = error.retryable or (retry_endings and isinstance(error, endings))
        raise (TransactionlinkRetry if again else TransactionlinkFailure)(str(error), error) from None
