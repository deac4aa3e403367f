"""
May this be tried again, and when. Pure: no clock, no sleep.

A GET or a cancel may be repeated after any fault. A start may be repeated in two cases only: provably nothing was
sent, or the service answered 429, which means that it did not process the request.
"""

from __future__ import annotations

import math
import random
import threading
from datetime import UTC
from email.utils import parsedate_to_datetime

from attrs import define, field, frozen

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


@define(eq=False)
class RetryBudget:
    """
    Tokens that all retries of one client are paid from, so that a service in trouble is not asked everything four
    times. The figures are botocore's. With them, retries of random failures add a quarter to the requests at most
    (where about a fifth fail), less than a fifth where a third or more fail, and next to nothing where all do.
    Threads may share it.

    Args:
        capacity: Tokens at first, and at most.
        cost: Of a retry after an error or no answer.
        throttled_cost: Of a retry after 429.
        income: Tokens that a request brings which succeeds at once.
    """

    capacity: int = 500
    cost: int = 14
    throttled_cost: int = 5
    income: int = 1
    _left: int = field(init=False)
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False)

    def __attrs_post_init__(self) -> None:
        self._left = self.capacity

    def price(self, outcome: Response | NoAnswer) -> int:
        """
        What a retry after this outcome costs.
        """
        return self.throttled_cost if isinstance(outcome, Response) and outcome.status == 429 else self.cost

    def take(self, tokens: int) -> bool:
        """
        Pay for a retry. False, and nothing is taken, where too few are left.
        """
        with self._lock:
            if tokens > self._left:
                return False
            self._left -= tokens
            return True

    def give(self, tokens: int) -> None:
        """
        Put tokens in: what the last retry cost, where it succeeded; else ``income``.
        """
        with self._lock:
            self._left = min(self.capacity, self._left + tokens)


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
    Seconds to wait as a Retry-After header says: a number of seconds or an HTTP-date; None if it says nothing usable.
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
    if elapsed + delay > (policy.total if request.within is None else min(policy.total, request.within)):
        return GiveUp()
    if request.over_by is not None and now + delay > request.over_by:
        return GiveUp()
    return Retry(delay)


def persistently(
    request: Request,
    policy: RetryPolicy,
    clock: Clock,
    rng: random.Random,
    budget: RetryBudget | None = None,
) -> Flow[Response]:
    """
    Send a request, and again as the verdict says and the budget allows. Returns the last answer, whatever its status.

    Raises:
        NoAnswer: The last try got no answer.
    """
    budget = budget or RetryBudget()
    began = clock.monotonic()
    attempt = 0
    paid = 0
    while True:
        attempt += 1
        outcome: Response | NoAnswer
        try:
            outcome = yield request.after(clock.monotonic() - began)
        except NoAnswer as error:
            outcome = error
        if isinstance(outcome, Response) and outcome.is_success:
            budget.give(paid or budget.income)
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
        price = budget.price(outcome)
        if isinstance(decision, Retry) and budget.take(price):
            paid = price
            yield Sleep(decision.after)
        elif isinstance(outcome, Response):
            return outcome
        else:
            raise outcome
