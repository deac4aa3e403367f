"""
Everything that can go wrong, as one tree.

::

    TransactionlinkError
    ├── InvalidSettings           the client cannot be built: base URL, host, credential, CA bundle
    ├── InvalidRequest            the request is wrong; found before sending, or by a 4xx that is not named below
    ├── AuthenticationError       401: the credential is not accepted
    ├── PermissionDenied          403: the credential lacks a permission
    ├── NotFound                  404: no such definition or execution, as this credential sees it
    │   └── NoResult              the execution has ended and left no result
    ├── RateLimited               429: not processed; ``retry_after`` seconds if the service said so
    ├── ServerError               5xx, or 408
    ├── NoAnswer                  no (whole) answer; ``sent`` says whether the service may have seen the request
    ├── InvalidAnswer             an answer that is not what the contract says
    ├── StartOutcomeUnknown       a start that may or may not have happened
    ├── RequestChanged            a retry asks for something else than what this step started
    ├── LedgerError               the ledger refused a write (another process owns the step) or is not there
    │   └── KeyPurged             the ledger has forgotten what this key started, and starts nothing with it
    ├── NotSupported              this service, or this kind of credential, cannot do what was asked; nothing was sent
    ├── NotCancellableYet         the execution cannot be cancelled at this stage; later it can
    ├── LinkNotDelivered          ``on_link`` failed, so nobody is known to have the link
    ├── LinkLost                  an interactive execution whose link nobody received
    ├── ResultNotReady            the execution has not ended yet
    ├── ResultShapeChanged        a result field, or a verdict about the result, cannot be read
    ├── StorageFailed             a storage did not take, or did not give, the file of a result
    ├── ExecutionFailed           ended FAILED (or PARTIAL, unless that is accepted)
    ├── ExecutionCancelled        ended CANCELLED, and not by us
    ├── ExecutionExpired          ended EXPIRED
    ├── WaitTimeout               the deadline of a wait has passed
    ├── WaitInterrupted           the wait was told to stop; says nothing about the execution
    └── WebhookRefused            a delivery that is not proven to come from the service
        └── WebhookUndecided      its key could not be had

Every error is picklable, carries no secret, no parameter and no raw answer of the service. Text that came from
the service is kept only after every value that was sent has been scrubbed from it (:mod:`tl_orchestration.answers`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

__all__ = [
    "AuthenticationError",
    "ExecutionCancelled",
    "ExecutionExpired",
    "ExecutionFailed",
    "InvalidAnswer",
    "InvalidRequest",
    "InvalidSettings",
    "KeyPurged",
    "LedgerError",
    "LinkLost",
    "LinkNotDelivered",
    "NoAnswer",
    "NoResult",
    "NotCancellableYet",
    "NotFound",
    "NotSupported",
    "PermissionDenied",
    "RateLimited",
    "RequestChanged",
    "ResultNotReady",
    "ResultShapeChanged",
    "ServerError",
    "StartOutcomeUnknown",
    "StorageFailed",
    "TransactionlinkError",
    "WaitInterrupted",
    "WaitTimeout",
    "WebhookRefused",
    "WebhookUndecided",
]


class TransactionlinkError(Exception):
    """
    Root of the tree. ``str()`` is one sentence: what happened, to which execution, what to do.

    Args:
        message: The sentence.
        execution_id: The remote execution that it is about, if one is known.
        status_code: HTTP status of the answer, if there was one.
        codes: The service's error codes (``errors[].code``).
        fingerprint: The service's id of this error instance; quote it to the vendor's support.
    """

    #: Whether trying the same step again later, unchanged, can succeed.
    retryable: ClassVar[bool] = False
    #: Whether the service had accepted a cancel of the execution before this went wrong.
    cancel_accepted: bool = False

    def __init__(
        self,
        message: str,
        *,
        execution_id: str | None = None,
        status_code: int | None = None,
        codes: tuple[str, ...] = (),
        fingerprint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.execution_id = execution_id
        self.status_code = status_code
        self.codes = codes
        self.fingerprint = fingerprint

    @property
    def message(self) -> str:
        return str(self.args[0])

    def about(self, execution_id: str) -> Self:
        """
        Name the execution, if the error does not name one yet.
        """
        if self.execution_id is None:
            self.execution_id = execution_id
            if execution_id not in self.message:
                self.args = (f"{self.message} (execution {execution_id})",)
        return self

    def after_cancel(self, execution_id: str) -> Self:
        """
        Say that the cancel of the execution was accepted, and only the look at its status went wrong.
        """
        self.cancel_accepted = True
        self.execution_id = execution_id
        self.args = (
            f"The service accepted the cancel of execution {execution_id}, but its status since then could not be read:"
            f" {self.message}",
        )
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[TransactionlinkError], args: tuple[Any, ...], fields: dict[str, Any]) -> TransactionlinkError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class InvalidSettings(TransactionlinkError):
    """The client cannot be built from what it was given. Nothing was sent."""


class InvalidRequest(TransactionlinkError):
    """The request is wrong: found before anything was sent, or answered with a 4xx that no other class is for."""


class AuthenticationError(TransactionlinkError):
    """The service does not accept the credential (401)."""


class PermissionDenied(TransactionlinkError):
    """The credential lacks a permission (403). The message names it."""


class NotFound(TransactionlinkError):
    """No such definition or execution, as far as this credential can see (404)."""


class NoResult(NotFound):
    """The execution has ended and left no result."""


class RateLimited(TransactionlinkError):
    """The service refused for now (429); the request was not processed. ``retry_after`` is in seconds."""

    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class ServerError(TransactionlinkError):
    """The service answered 5xx or 408. ``retry_after`` is in seconds, if it named a time."""

    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class NoAnswer(TransactionlinkError):
    """
    No answer, or only part of one. ``sent`` is False only where provably no byte of the request reached the service;
    ``overdue`` is True where it was this client that held the request back for too long.
    """

    retryable = True

    def __init__(self, message: str, *, sent: bool = True, overdue: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.sent = sent
        self.overdue = overdue


class InvalidAnswer(TransactionlinkError):
    """The answer is not what the contract says: wrong type, broken JSON, no usable id, too large."""

    retryable = True


class StartOutcomeUnknown(TransactionlinkError):
    """
    A start that the service may or may not have carried out; it is never repeated silently.

    ``key`` names the ledger entry; ``execution_id`` is set where the id is known but could not be recorded;
    ``correlation_id`` is what to look for in the dashboard, where the step has a ``correlation_parameter``.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        what: str | None = None,
        correlation_id: str | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.key = key
        self.correlation_id = correlation_id
        #: The message without its way out, for an orchestrator that has another one to offer.
        self.what = what or message


class RequestChanged(TransactionlinkError):
    """
    The step already started an execution with other parameters, record or definition.
    """

    def __init__(self, message: str, *, what: str | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        #: The message without its way out, for an orchestrator that has another one to offer; None: there is no other.
        self.what = what


class LedgerError(TransactionlinkError):
    """The ledger refused a write: another process owns this step now, or the store is not there."""

    retryable = True


class NotSupported(TransactionlinkError):
    """
    This service, or this service with this kind of credential, cannot do what was asked. Nothing was sent for it.
    """


class NotCancellableYet(TransactionlinkError):
    """The execution has no run yet that could be cancelled (contract C39). It goes on; a later cancel can work."""

    retryable = True


class KeyPurged(LedgerError):
    """The key was used before, and the ledger was told to forget what it started. It can start nothing any more."""

    retryable = False


class LinkNotDelivered(TransactionlinkError):
    """
    An interactive execution has started, and ``on_link`` failed. What it raised may quote the link, so only its kind
    and place are told.
    """

    retryable = True


class LinkLost(TransactionlinkError):
    """An interactive execution whose link was never delivered to anybody, and cannot be asked for again."""


class ResultNotReady(TransactionlinkError):
    """The execution has not ended yet, so there is no result."""

    retryable = True


class ResultShapeChanged(TransactionlinkError):
    """A field of the result, or a verdict about it, cannot be read. Never taken for a pass."""


class StorageFailed(TransactionlinkError):
    """A storage did not take the file of a result, or did not give it back. The service still has the result."""

    retryable = True
    #: Whether the file that was to be read is not there.
    is_missing: bool = False


class ExecutionFailed(TransactionlinkError):
    """The execution ended FAILED (or PARTIAL, unless that is accepted)."""


class ExecutionCancelled(TransactionlinkError):
    """The execution ended CANCELLED."""


class ExecutionExpired(TransactionlinkError):
    """The execution ended EXPIRED."""


class WaitTimeout(TransactionlinkError):
    """
    The deadline of a wait has passed and the execution has not ended.

    ``raw_status`` is the last literal that the service answered. ``result_available`` is None where it was not
    asked. ``cancelled`` says whether the execution was cancelled because of the deadline.
    """

    def __init__(
        self,
        message: str,
        *,
        raw_status: str | None = None,
        result_available: bool | None = None,
        cancelled: bool = False,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.raw_status = raw_status
        self.result_available = result_available
        self.cancelled = cancelled


class WaitInterrupted(TransactionlinkError):
    """The wait was told to stop (``stop`` returned True). The execution goes on."""

    retryable = True


class WebhookRefused(TransactionlinkError):
    """
    A webhook delivery is not proven to come from the service, for whatever reason. The message is for our own log, says
    nothing of what was delivered, and is never told to the sender.
    """


class WebhookUndecided(WebhookRefused):
    """
    Its key cannot be had now, so that nobody knows where a webhook delivery comes from; it may be proven later.
    """
