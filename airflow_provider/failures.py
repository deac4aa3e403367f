"""
Errors of the core as Airflow understands them.

What no retry can mend ends the task at once; what a retry may mend is retried, and the retry re-attaches.
"""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING

from airflow_provider.versions import AirflowException, AirflowFailException, conf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tl_orchestration.errors import StartOutcomeUnknown, TransactionlinkError


#: What a person does about a start of unknown fate that no ledger knows of.
UNRECORDED_START = "If it runs, wait for it with TransactionlinkWorkflowSensor; if it does not, clear the task."


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
def reported(
    *, retry_endings: bool = False, under_way: bool = False, keyed: bool = False, proven: bool = True
) -> Iterator[None]:
    """
    Raise the core's errors as one of the two above, with their sentence as the message. A refused credential ends a
    start at once; an execution that runs may outlive it, so a retry comes back to that one.

    Args:
        retry_endings: An execution that ended without success, or was cancelled at its deadline, may be tried again
            (``retry_failed``).
        under_way: An execution is being waited for. A connection that cannot be read is then a reason to come back:
            Airflow says that it does not exist also when its secrets backend is away.
        keyed: The step is in a SQL ledger, where ``tl ledger`` can be told what became of a start.
        proven: Whether the credential counts as having worked, if the execution is known.
    """
    from tl_orchestration.errors import (
        AuthenticationError,
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
            or (isinstance(error, AuthenticationError) and error.execution_id is not None and proven)
        )
        message = str(error)
        if isinstance(error, StartOutcomeUnknown) and not keyed:
            message = unknown_start_message(error)
        raise (TransactionlinkRetry if again else TransactionlinkFailure)(message, error) from None


def after_waiting(error: str | None, *, recorded: bool = True) -> type[TransactionlinkFailure | TransactionlinkRetry]:
    """
    What a wait in the triggerer that has given up with an error means for its task. What was waited for goes on, and a
    retry goes on with it: also where the credential was refused or the connection could not be read, as long as the
    triggerer had patience with that. What is no error of ours is worth a retry.

    Args:
        error: Name of its class.
        recorded: Whether a retry finds it again. Where it would start another one, a wrong credential is no reason to.
    """
    from tl_orchestration import errors

    kind = getattr(errors, error or "", None)
    if not (isinstance(kind, type) and issubclass(kind, errors.TransactionlinkError)):
        return TransactionlinkRetry
    passes = kind.retryable or (recorded and kind in {errors.AuthenticationError, errors.InvalidSettings})
    return TransactionlinkRetry if passes else TransactionlinkFailure


def unknown_start_message(error: StartOutcomeUnknown) -> str:
    """
    What happened, and what a person does about it, where the ledger is Airflow's task state. A clear that discards the
    task state (an option of versions after 3.3) would discard the verdict.
    """
    if error.key is None:
        return f"{error.what} {UNRECORDED_START}"
    key, url = shlex.quote(error.key), shlex.quote(_ledger_url())
    adopted = f"tl ledger adopt {key} {error.execution_id or 'EXECUTION_ID'} --reason TEXT --url {url}"
    return (
        f"{error.what} Then tell Airflow's task state: `{adopted}` if it runs, `tl ledger not-started {key} --reason"
        f" TEXT --url {url}` if it does not. And clear the task; where Airflow asks, keep its task state."
    )


def _ledger_url() -> str:
    """
    This Airflow as ``tl`` takes it, with a host to fill in where ``[api] base_url`` is not set or cannot be called.
    """
    from tl_orchestration.errors import InvalidSettings
    from tl_orchestration.ledger.airflow_rest import SCHEME, airflow_address

    try:
        return SCHEME + airflow_address(conf.get("api", "base_url", fallback="") or "")
    except InvalidSettings:
        return f"{SCHEME}https://AIRFLOW"
