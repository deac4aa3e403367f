"""
When Airflow tries a failed task again, by what the service said (Airflow 3.3+).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from airflow_provider import versions

if not versions.HAS_RETRY_POLICY:
    raise ImportError("TransactionlinkRetryPolicy needs Airflow 3.3: before, tasks have no retry_policy.")

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from airflow.sdk import Context

_CAP = timedelta(minutes=15)


class TransactionlinkRetryPolicy(RetryPolicy):
    """
    For ``retry_policy=`` of our operators and of tasks that use the hook: what no retry mends fails at once, and where
    the service said when to come back, the next try waits for that long. All else is as the task's own ``retries`` and
    ``retry_delay`` say.

    Args:
        longest_delay: The most that is waited because the service said so.
    """

    def __init__(self, longest_delay: timedelta = _CAP) -> None:
        if longest_delay <= timedelta(0):
            raise ValueError("longest_delay must be positive")
        self.longest_delay = longest_delay

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """
        Called by the worker with what the task raised: one of ours, or an error of the core.
        """
        from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry
        from tl_orchestration.errors import TransactionlinkError

        error = exception.error if isinstance(exception, TransactionlinkRetry) else exception
        final = isinstance(exception, TransactionlinkFailure) or (
            isinstance(exception, TransactionlinkError) and not exception.retryable
        )
        if final:
            kind = type(getattr(exception, "error", None) or exception)
            return RetryDecision.fail(f"No retry mends {kind.__name__}.")
        told: float | None = getattr(error, "retry_after", None) if isinstance(error, TransactionlinkError) else None
        if told is None:
            return RetryDecision.default()
        delay = min(timedelta(seconds=min(told, self.longest_delay.total_seconds())), self.longest_delay)
        return RetryDecision.retry(delay, f"The service said when to come back: in {delay.total_seconds():.0f} s.")

    def serialize(self) -> dict[str, Any]:
        """
        As JSON values.
        """
        return {"longest_delay": self.longest_delay.total_seconds()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Self:
        """
        From what :meth:`serialize` returned.
        """
        return cls(timedelta(seconds=data["longest_delay"]))
