"""
What the retry policy makes of every way in which a task can fail.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import RetryAction

from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry, reported
from airflow_provider.retry_policy import TransactionlinkRetryPolicy
from tl_orchestration import errors
from tl_orchestration.errors import ExecutionFailed, NotFound, RateLimited, ServerError, TransactionlinkError

POLICY = TransactionlinkRetryPolicy(longest_delay=timedelta(minutes=2))


def decided(exception: BaseException) -> tuple[RetryAction, timedelta | None]:
    decision = POLICY.evaluate(exception, try_number=1, max_tries=3)
    return decision.action, decision.retry_delay


def raised(error: TransactionlinkError, **arguments: bool) -> Exception:
    """The error as a task raises it."""
    with pytest.raises((TransactionlinkFailure, TransactionlinkRetry)) as caught, reported(**arguments):
        raise error
    return caught.value


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "TransactionlinkError"])
def test_every_error_is_decided_as_the_task_would(name: str) -> None:
    """What no retry mends fails; the rest is left to the task's retries. Bare, for tasks that use the hook, as well."""
    kind: type[TransactionlinkError] = getattr(errors, name)
    expected = RetryAction.DEFAULT if kind.retryable else RetryAction.FAIL
    assert decided(raised(kind("What happened."))) == (expected, None)
    assert decided(kind("What happened.")) == (expected, None)


@pytest.mark.parametrize("kind", [RateLimited, ServerError])
@pytest.mark.parametrize(("told", "waited"), [(0.0, 0), (7.5, 7.5), (120.0, 120), (3e9, 120), (float("inf"), 120)])
def test_service_says_when_to_come_back(kind: type[RateLimited | ServerError], told: float, waited: float) -> None:
    """For as long as it says, and no longer than the policy allows."""
    error = kind("What happened.", retry_after=told)
    for exception in (raised(error), error):
        assert decided(exception) == (RetryAction.RETRY, timedelta(seconds=waited))


def test_reason_names_the_error_and_no_more() -> None:
    """Airflow logs and stores the reason."""
    decision = POLICY.evaluate(raised(NotFound("PLANTED")), 1, 3)
    assert decision.reason == "No retry mends NotFound."


def test_what_the_task_wants_retried_is_retried() -> None:
    """retry_failed makes an ending something to try again; the policy does not overrule it."""
    assert decided(raised(ExecutionFailed("ended"), retry_endings=True)) == (RetryAction.DEFAULT, None)


@pytest.mark.parametrize("exception", [ValueError("x"), TransactionlinkRetry("x"), KeyboardInterrupt()])
def test_what_is_not_the_services_is_left_to_the_task(exception: BaseException) -> None:
    """Errors of others, and stops without an error behind them."""
    assert decided(exception) == (RetryAction.DEFAULT, None)


def test_policy_survives_json() -> None:
    """Airflow may store it beside the task."""
    stored: dict[str, Any] = json.loads(json.dumps(POLICY.serialize()))
    assert TransactionlinkRetryPolicy.deserialize(stored).longest_delay == timedelta(minutes=2)


def test_delay_must_be_positive() -> None:
    """A mistake in the DAG is found when it is parsed."""
    with pytest.raises(ValueError, match="longest_delay must be positive"):
        TransactionlinkRetryPolicy(timedelta(0))
