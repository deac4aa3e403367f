"""
May this be tried again, and when. Pure: no clock, no sleep.

A GET or a cancel may be repeated after any fault. A start may be repeated in two cases only: provably nothing was
sent, or the service answered 429, which means that it did not process the request.
"""

from __future__ import annotations

import math
import random
from datetime import UTC
from email.utils import parsedate_to_datetime

from attrs import frozen

from tl_orchestration.errors import NoAnswer
from tl_orchestration.exchange import Clock, Flow, Request, Response, Sleep


@frozen
class RetryPolicy:
    """
    How patiently one request is repeated.

    Args:
        attempts: Tries in all.
        base: Upper bound of the first delay, seconds; doubles with each try (full jitter).
        cap: Upper bound of any delay of ours, seconds.
        retry_after_cap: Longest delay that is accepted from the service, seconds. A longer one ends the tries: the
            caller decides whether to come back then.
        total: No try begins later than this many seconds after the first.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 10.0
    retry_after_cap: float = 60.0
    total: float = 90.0


@frozen
class Retry:
    """
    Try again after so many seconds.
    """

    after: float


@frozen
class GiveUp:
    """
    Hand the outcome to the caller.
    """


#: Longest sane value of a Retry-After; beyond it the header is taken for noise.
_CENTURY = 100 * 365 * 86400.0


def retry_after(value: str | None, now: float) -> float | None:
    """
    Seconds to wait as a Retry-After header says: a number of seconds or an HTTP-date. None where it says nothing usable.
    """
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            return None
    if not math.isfinite(seconds) or seconds > _CENTURY:
        return None
    return max(0.0, seconds)


def backoff(attempt: int, policy: RetryPolicy, rng: random.Random) -> float:
    """
    Full jitter: anything up to ``base * 2**(attempt - 1)``, never above ``cap``. ``attempt`` counts from 1.
    """
    return rng.uniform(0.0, min(policy.cap, policy.base * 2.0 ** min(attempt - 1, 32)))


def may_repeat(request: Request, outcome: Response | NoAnswer) -> bool:
    """
    Whether sending the same request again is safe and could help.
    """
    if isinstance(outcome, NoAnswer):
        return request.repeatable or not outcome.sent
    if outcome.status == 429:
        return True
    return request.repeatable and (outcome.status == 408 or outcome.status >= 500)


def verdict(
    request: Request,
    outcome: Response | NoAnswer,
    *,
    attempt: int,
    elapsed: float,
    now: float,
    policy: RetryPolicy,
    rng: random.Random,
) -> Retry | GiveUp:
    """
    Decide after try number ``attempt`` (from 1), ``elapsed`` seconds after the first began.

    A delay that the service names is kept, never shortened; where it is longer than the policy accepts, no try follows.
    """
    if attempt >= policy.attempts or not may_repeat(request, outcome):
        return GiveUp()
    delay = backoff(attempt, policy, rng)
    if isinstance(outcome, Response):
        named = retry_after(outcome.headers.get("retry-after"), now)
        if named is not None:
            if named > policy.retry_after_cap:
                return GiveUp()
            delay = max(delay, named)
    if elapsed + delay > policy.total:
        return GiveUp()
    return Retry(delay)


def persistently(request: Request, policy: RetryPolicy, clock: Clock, rng: random.Random) -> Flow[Response]:
    """
    Send a request, and again as the verdict says. Returns the last answer, whatever its status.

    Raises:
        NoAnswer: The last try got no answer.
    """
    began = clock.monotonic()
    attempt = 0
    while True:
        attempt += 1
        outcome: Response | NoAnswer
        try:
            outcome = yield request
        except NoAnswer as error:
            outcome = error
        if isinstance(outcome, Response) and outcome.is_success:
            return outcome
        decision = verdict(
            request,
            outcome,
            attempt=attempt,
            elapsed=clock.monotonic() - began,
            now=clock.now(),
            policy=policy,
            rng=rng,
        )
        if isinstance(decision, Retry):
            yield Sleep(decision.after)
        elif isinstance(outcome, Response):
            return outcome
        else:
            raise outcome
