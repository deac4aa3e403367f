"""One bucket of tokens for all retries of a client: a storm must not become a bigger one."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import FakeClock, response
from tests.virtual_time import VirtualService, VirtualTimeLoop, about, client_of, in_virtual_time
from tl_orchestration.errors import NoAnswer, ServerError, TransactionlinkError
from tl_orchestration.exchange import Request, Response, Sleep
from tl_orchestration.pacing import Pacing
from tl_orchestration.retry import RetryBudget, RetryPolicy, persistently
from tl_orchestration.wait import Patience

POLL = Request("poll", "GET", "/workflows/e-1")


def requests_for(count: int, answer: Callable[[], Response | NoAnswer], budget: RetryBudget) -> int:
    """How many requests so many calls make with one budget."""
    clock, rng, sent = FakeClock(), random.Random(1), 0
    for _ in range(count):
        flow = persistently(POLL, RetryPolicy(), clock.clock(), rng, budget)
        try:
            command = next(flow)
            while True:
                if isinstance(command, Sleep):
                    command = flow.send(None)
                    continue
                sent += 1
                outcome = answer()
                command = flow.throw(outcome) if isinstance(outcome, NoAnswer) else flow.send(outcome)
        except (StopIteration, NoAnswer):
            continue
    return sent


class TestStorms:
    @pytest.mark.parametrize("outcome", [response(503), response(500), NoAnswer("reset")])
    def test_when_all_fails_retries_stop(self, outcome: Response | NoAnswer) -> None:
        """A service that is down gets one request for each call, and a handful more."""
        assert 10_000 < requests_for(10_000, lambda: outcome, RetryBudget()) <= 10_000 + 500 // 14

    def test_throttling_costs_less(self) -> None:
        """A service that throttles all is asked again a hundred times at most."""
        assert requests_for(10_000, lambda: response(429), RetryBudget()) == 10_000 + 100

    @pytest.mark.parametrize(("share", "added"), [(0.05, 0.06), (0.2, 0.26), (0.35, 0.2), (0.5, 0.1), (0.8, 0.03)])
    def test_added_load_is_bounded(self, share: float, added: float) -> None:
        """Random failures add a quarter of the requests at most, and less the more there are."""
        rng = random.Random(1)
        sent = requests_for(20_000, lambda: response(503 if rng.random() < share else 200), RetryBudget())
        assert 1.0 < sent / 20_000 <= 1.0 + added

    def test_rare_failures_are_always_repeated(self) -> None:
        """A failure now and then never finds the bucket empty."""
        answers = iter([response(503), response(200)] * 5000)
        assert requests_for(5000, lambda: next(answers), RetryBudget()) == 10_000

    def test_bucket_fills_again(self) -> None:
        """After a storm, successes pay for retries again."""
        budget = RetryBudget()
        requests_for(1000, lambda: response(503), budget)
        assert requests_for(1, lambda: response(503), budget) == 1
        requests_for(28, lambda: response(200), budget)
        assert requests_for(1, lambda: response(503), budget) == 3


class TestTokens:
    @given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=60), capacity=st.integers(0, 100))
    def test_never_overdrawn_and_never_above_capacity(self, steps: list[tuple[bool, int]], capacity: int) -> None:
        """Law: what is taken was there, and what is given back beyond the capacity is lost."""
        budget, left = RetryBudget(capacity=capacity), capacity
        for gives, tokens in steps:
            if gives:
                budget.give(tokens)
                left = min(capacity, left + tokens)
            else:
                assert budget.take(tokens) is (tokens <= left)
                left -= tokens if tokens <= left else 0
        assert budget.take(left)
        assert not budget.take(1)

    def test_threads_share_it(self) -> None:
        """Threads that take at the same time take no more than there is."""
        budget, taken = RetryBudget(capacity=10_000), []

        def take() -> None:
            taken.append(sum(budget.take(1) for _ in range(5000)))

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(taken) == 10_000


class TestClients:
    def test_calls_of_a_client_share_one_bucket(self) -> None:
        """A thousand calls of one client add few retries to a service that is down; another client has its own."""

        async def main(loop: VirtualTimeLoop) -> None:
            for _ in range(2):
                service = VirtualService(lambda name, now: response(503))
                client = client_of(service, loop.clock())
                for _ in range(1000):
                    with pytest.raises(ServerError):
                        await client.poll("e1")
                assert 1000 < len(service.requests) < 1050

        in_virtual_time(main)

    def test_polls_of_a_wait_do_not_count(self) -> None:
        """A wait goes on polling through a storm, at its pace, and takes nothing from the bucket."""

        def says(name: str, now: float) -> Response | TransactionlinkError:
            return response(503) if now < 600 else about(name, "COMPLETED")

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(says)
            client = client_of(service, loop.clock())
            await client.wait("e1", patience=Patience(pacing=Pacing.every(5)))
            assert 100 < len(service.requests) < 140
            assert client._retry_budget.take(RetryBudget().capacity)

        in_virtual_time(main)
