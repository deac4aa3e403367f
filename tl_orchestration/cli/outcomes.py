"""
Exit codes: the one table of them, which ``tl --help`` and the reference print.
"""

from __future__ import annotations

from attrs import frozen

from tl_orchestration import errors
from tl_orchestration.status import Status

SUCCESS = 0
UNEXPECTED = 1
USAGE = 2
UNKNOWN_STARTS = 21
ROWS_FAILED = 40
ROWS_LEFT = 41
NO_ROWS = 42
INTERRUPTED = 130


@frozen
class Outcome:
    """
    One row: what a command ended with, and the code that says so.

    Args:
        code: Exit code.
        meaning: The row's text in the help and in the reference.
        errors: Error classes that stand for it, subclasses included unless they have a row of their own.
        status: The ending of an execution that stands for it.
    """

    code: int
    meaning: str
    errors: tuple[type[errors.TransactionlinkError], ...] = ()
    status: Status | None = None


OUTCOMES = (
    Outcome(SUCCESS, "success; for `tl poll` also an execution that has not ended", status=Status.SUCCEEDED),
    Outcome(UNEXPECTED, "unexpected, or any error without a code of its own", (errors.TransactionlinkError,)),
    Outcome(USAGE, "wrong usage, invalid settings, missing extra", (errors.InvalidSettings,)),
    Outcome(10, "the execution ended FAILED", (errors.ExecutionFailed,), Status.FAILED),
    Outcome(11, "the execution ended CANCELLED", (errors.ExecutionCancelled,), Status.CANCELLED),
    Outcome(12, "the execution ended EXPIRED", (errors.ExecutionExpired,), Status.EXPIRED),
    Outcome(13, "the execution ended PARTIAL", status=Status.PARTIAL),
    Outcome(20, "WaitTimeout: the deadline passed before the execution ended", (errors.WaitTimeout,)),
    Outcome(
        UNKNOWN_STARTS,
        "StartOutcomeUnknown: it may or may not have started; batch: so may rows",
        (errors.StartOutcomeUnknown,),
    ),
    Outcome(22, "LedgerError, KeyPurged: the ledger refuses or cannot be reached", (errors.LedgerError,)),
    Outcome(23, "RequestChanged: the key has started something else", (errors.RequestChanged,)),
    Outcome(30, "AuthenticationError: the token is not accepted (401)", (errors.AuthenticationError,)),
    Outcome(31, "PermissionDenied: the token lacks a permission (403)", (errors.PermissionDenied,)),
    Outcome(32, "NotFound, NoResult: no such definition, execution or result", (errors.NotFound,)),
    Outcome(33, "InvalidRequest: the request is wrong, as found here or by the service", (errors.InvalidRequest,)),
    Outcome(34, "RateLimited: refused for now (429)", (errors.RateLimited,)),
    Outcome(
        35,
        "ServerError, NoAnswer, InvalidAnswer: the service failed or cannot be reached",
        (errors.ServerError, errors.NoAnswer, errors.InvalidAnswer),
    ),
    Outcome(36, "ResultNotReady: the execution has not ended", (errors.ResultNotReady,)),
    Outcome(
        ROWS_FAILED,
        "batch: rows have ended without success or result, were refused, or changed in the source after it was loaded",
    ),
    Outcome(ROWS_LEFT, "batch: rows are left that this run was not to start (canary, limit, cancel, other workers)"),
    Outcome(NO_ROWS, "batch: the source has rows, and none of them can be run"),
    Outcome(INTERRUPTED, "interrupted by Ctrl-C or a termination signal", (errors.WaitInterrupted,)),
)

_BY_ERROR = {error: outcome.code for outcome in OUTCOMES for error in outcome.errors}
_BY_STATUS = {outcome.status: outcome.code for outcome in OUTCOMES if outcome.status is not None}


def code_of_error(error: type[errors.TransactionlinkError]) -> int:
    """
    The code of an error class, or of its nearest ancestor that has one.
    """
    return next(_BY_ERROR[ancestor] for ancestor in error.__mro__ if ancestor in _BY_ERROR)


def code_of_status(status: Status) -> int:
    """
    The code of an ending; 0 for a status that is not one.
    """
    return _BY_STATUS.get(status, SUCCESS)


def as_help() -> str:
    """
    The table as the end of a help page.
    """
    return "\n".join(["\b", "Exit codes:", *(f"  {outcome.code:>3}  {outcome.meaning}" for outcome in OUTCOMES)])
