"""What may be tried again, and when: a start never on a mere hope."""

from __future__ import annotations

import random
from email.utils import formatdate
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOW, FakeClock, response
from tests.driving import Hand
from tl_orchestration.errors import InvalidAnswer, NoAnswer
from tl_orchestration.exchange import Request, Response, Sleep
from tl_orchestration.retry import GiveUp, Retry, RetryPolicy, backoff, may_repeat, persistently, retry_after, verdict

START = Request("run", "POST", "/workflows", json={}, repeatable=False)
POLL = Request("poll", "GET", "/workflows/e-1")
POLICY = RetryPolicy()

RETRY_AFTER_FORMS: list[tuple[str | None, float | None]] = [
    (None, None),
    ("", None),
    (" ", None),
    ("0", 0.0),
    ("1", 1.0),
    ("120", 120.0),
    ("  7\t", 7.0),
    ("1.5", 1.5),
    ("+3", 3.0),
    ("-3", 0.0),
    ("-0", 0.0),
    ("1e2", 100.0),
    ("1e999", None),
    ("-1e999", None),
    ("inf", None),
    ("nan", None),
    ("99999999999999999999", None),
    ("soon", None),
    ("1 second", None),
    ("1, 2", None),
    ("0x10", None),
    ("\x00", None),
    ("é", None),
    (formatdate(NOW + 30, usegmt=True), 30.0),
    (formatdate(NOW - 30, usegmt=True), 0.0),
    (formatdate(NOW, usegmt=True), 0.0),
    ("Mon, 21 Sep 2026 14:13:50 +0000", 30.0),
    ("Mon, 21 Sep 2026 16:13:50 +0200", 30.0),
    ("Mon, 21 Sep 2026 14:13:50 -0000", 30.0),
    ("Mon, 21 Sep 2026 14:13:50", 30.0),
    ("21 Sep 2026 14:13:50 GMT", 30.0),
    ("Monday, 21-Sep-26 14:13:50 GMT", 30.0),
    ("Mon Sep 21 14:13:50 2026", 30.0),
    ("Mon, 32 Sep 2026 14:13:50 GMT", None),
    ("Mon, 21 Foo 2026 14:13:50 GMT", None),
    ("Mon, 21 Sep 99999 14:13:50 GMT", None),
    ("Mon, 21 Sep 2026 99:13:50 GMT", None),
    ("Fri, 31 Dec 9999 23:59:59 GMT", None),
    ("2026-09-21T14:13:50Z", None),
    (",,,,", None),
]


class TestRetryAfter:
    @pytest.mark.parametrize(("value", "expected"), RETRY_AFTER_FORMS)
    def test_every_form_of_the_header(self, value: str | None, expected: float | None) -> None:
        """Seconds and dates are understood, the past is now, and noise is nothing."""
        assert expected == retry_after(value, NOW)

    @given(value=st.text() | st.from_regex(r"\A\w{3}, \d{1,5} \w{3} \d{1,9} \d{1,3}:\d{1,3}:\d{1,3} [+-]?\w{1,9}\Z"))
    def test_never_negative_and_never_an_error(self, value: str) -> None:
        """Whatever the header says, the delay is a finite number from zero, or None."""
        seconds = retry_after(value, NOW)
        assert seconds is None or 0.0 <= seconds < float("inf")


class TestMayRepeat:
    @pytest.mark.parametrize("status", range(400, 600))
    def test_every_refusal(self, status: int) -> None:
        """429 may always be repeated; 408 and 5xx only where the request is repeatable; nothing else."""
        answer = response(status)
        assert (status == 429) is may_repeat(START, answer)
        assert (status in {408, 429} or status >= 500) is may_repeat(POLL, answer)

    @pytest.mark.parametrize("sent", [True, False])
    def test_no_answer(self, *, sent: bool) -> None:
        """Without an answer a start may be repeated only if nothing was sent."""
        assert may_repeat(POLL, NoAnswer("x", sent=sent))
        assert (not sent) is may_repeat(START, NoAnswer("x", sent=sent))

    @pytest.mark.parametrize("status", [200, 201, 204, 302, 307])
    def test_what_is_no_refusal_is_not_repeated(self, status: int) -> None:
        """A success or a redirect is the outcome."""
        assert not may_repeat(START, response(status))
        assert not may_repeat(POLL, response(status))


outcomes = st.one_of(
    st.builds(NoAnswer, st.just("x"), sent=st.booleans()),
    st.builds(lambda status: response(status), st.integers(200, 599)),
    st.builds(
        lambda status, wait: response(status, retry_after=str(wait)), st.sampled_from([429, 503]), st.floats(-1, 200)
    ),
)
policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 8),
    base=st.floats(0, 5),
    cap=st.floats(0, 20),
    retry_after_cap=st.floats(0, 100),
    total=st.floats(0, 200),
)


class TestVerdict:
    @given(
        outcome=outcomes,
        repeatable=st.booleans(),
        attempt=st.integers(1, 9),
        elapsed=st.floats(0, 200),
        policy=policies,
        seed=st.integers(),
    )
    def test_stays_within_the_policy(
        self,
        outcome: Response | NoAnswer,
        attempt: int,
        elapsed: float,
        policy: RetryPolicy,
        seed: int,
        *,
        repeatable: bool,
    ) -> None:
        """Law: no try after the last, none beyond the total, none sooner than the service says, none that is unsafe."""
        request = POLL if repeatable else START
        rng = random.Random(seed)
        decision = verdict(request, outcome, attempt=attempt, elapsed=elapsed, now=NOW, policy=policy, rng=rng)
        if isinstance(decision, GiveUp):
            return
        assert attempt < policy.attempts
        assert may_repeat(request, outcome)
        assert elapsed + decision.after <= policy.total
        named = retry_after(outcome.headers.get("retry-after"), NOW) if isinstance(outcome, Response) else None
        assert (named or 0.0) <= decision.after <= max(policy.cap, named or 0.0)
        assert (named or 0.0) <= policy.retry_after_cap or not named

    @given(outcome=outcomes, attempt=st.integers(1, 9), elapsed=st.floats(0, 200), policy=policies)
    def test_start_is_repeated_only_where_it_cannot_have_happened(
        self, outcome: Response | NoAnswer, attempt: int, elapsed: float, policy: RetryPolicy
    ) -> None:
        """Law: a start goes again only after NoAnswer(sent=False) or a 429."""
        decision = verdict(
            START, outcome, attempt=attempt, elapsed=elapsed, now=NOW, policy=policy, rng=random.Random(1)
        )
        harmless = (isinstance(outcome, NoAnswer) and not outcome.sent) or (
            isinstance(outcome, Response) and outcome.status == 429
        )
        assert harmless or isinstance(decision, GiveUp)

    def test_repeats_as_long_as_the_policy_allows(self) -> None:
        """A repeatable failure is repeated until the last try; the counterpart of the laws above."""
        decisions = [
            verdict(POLL, response(503), attempt=n, elapsed=0.0, now=NOW, policy=POLICY, rng=random.Random(1))
            for n in (1, 2, 3, 4)
        ]
        assert [Retry, Retry, Retry, GiveUp] == [type(decision) for decision in decisions]

    def test_delay_that_the_service_names_is_kept(self) -> None:
        """A named delay is waited for in full; one beyond the cap ends the tries."""
        for seconds, expected in ((60, Retry(60.0)), (61, GiveUp())):
            answer = response(429, retry_after=str(seconds))
            rng = random.Random(1)
            assert expected == verdict(START, answer, attempt=1, elapsed=0.0, now=NOW, policy=POLICY, rng=rng)

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"within": 29.0}, GiveUp()),
            ({"within": 30.0}, Retry(20.0)),
            ({"over_by": NOW + 19}, GiveUp()),
            ({"over_by": NOW + 20}, Retry(20.0)),
        ],
    )
    def test_request_that_must_be_over_is_not_repeated_later(
        self, fields: dict[str, Any], expected: Retry | GiveUp
    ) -> None:
        """No try begins after the time that the request has, nor a start after what its intent has announced."""
        answer, request = response(429, retry_after="20"), evolve(START, **fields)
        decision = verdict(request, answer, attempt=1, elapsed=10.0, now=NOW, policy=POLICY, rng=random.Random(1))
        assert expected == decision

    @given(attempt=st.integers(1, 10_000), policy=policies, seed=st.integers())
    def test_backoff_is_full_jitter(self, attempt: int, policy: RetryPolicy, seed: int) -> None:
        """A delay lies between nothing and the doubling bound, never above the cap, for any number of tries."""
        bound = min(policy.cap, policy.base * 2.0 ** min(attempt - 1, 32))
        assert 0.0 <= backoff(attempt, policy, random.Random(seed)) <= bound

    def test_backoff_uses_the_whole_range(self) -> None:
        """The jitter is spread from nothing to the bound, and the bound doubles."""
        rng = random.Random(1)
        for attempt, bound in ((1, 0.5), (2, 1.0), (3, 2.0), (9, 10.0)):
            delays = [backoff(attempt, POLICY, rng) for _ in range(500)]
            assert min(delays) < 0.05 * bound
            assert max(delays) > 0.95 * bound


class TestPersistently:
    def flow(self, request: Request, clock: FakeClock, policy: RetryPolicy = POLICY) -> Hand[Response]:
        """The retrying sender, held at its first request."""
        return Hand(persistently(request, policy, clock.clock(), random.Random(1)))

    def test_success_is_returned_at_once(self) -> None:
        """A first success is the outcome."""
        hand = self.flow(POLL, FakeClock())
        assert POLL is hand.asks(Request)
        assert hand.reply(response(200)).returned.status == 200

    def test_tries_share_the_time_of_the_request(self) -> None:
        """Each try has what those before it have left."""
        clock = FakeClock()
        flow = persistently(evolve(POLL, within=8.0), POLICY, clock.clock(), random.Random(1))
        hand = Hand(flow)
        clock.advance(3)
        pause = hand.reply(response(503)).asks(Sleep)
        clock.advance(pause.seconds)
        assert hand.reply(None).asks(Request).within == pytest.approx(5.0 - pause.seconds)

    def test_failures_are_outlived(self) -> None:
        """A fault of every kind that may be repeated is followed by a sleep and the same request."""
        hand = self.flow(POLL, FakeClock())
        for fault in (response(503), NoAnswer("reset", sent=True), response(429)):
            hand.asks(Request)
            if isinstance(fault, NoAnswer):
                hand.fail(fault)
            else:
                hand.reply(fault)
            assert hand.asks(Sleep).seconds >= 0
            hand.reply(None)
        assert hand.reply(response(200)).returned.status == 200

    def test_last_outcome_is_the_callers(self) -> None:
        """When the tries are over, the last answer is returned and the last error raised."""
        policy = RetryPolicy(attempts=2)
        hand = self.flow(POLL, FakeClock(), policy)
        hand.reply(response(503)).reply(None)
        assert hand.reply(response(502)).returned.status == 502
        hand = self.flow(POLL, FakeClock(), policy)
        hand.reply(response(503)).reply(None)
        last = NoAnswer("gone")
        with pytest.raises(NoAnswer) as caught:
            hand.fail(last)
        assert last is caught.value

    def test_what_is_not_understood_is_not_repeated(self) -> None:
        """An answer that was refused as invalid ends the tries: asking again would bring the same."""
        hand = self.flow(POLL, FakeClock())
        with pytest.raises(InvalidAnswer):
            hand.fail(InvalidAnswer("compressed"))

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
    def test_start_is_not_repeated_after_an_answer(self, status: int) -> None:
        """Every 5xx ends a start's tries."""
        assert status == self.flow(START, FakeClock()).reply(response(status)).returned.status

    @given(
        script=st.lists(
            st.tuples(st.sampled_from([200, 429, 500, 503, None]), st.floats(0, 60), st.none() | st.floats(0, 90)),
            min_size=10,
            max_size=10,
        ),
        policy=policies,
    )
    def test_no_try_begins_after_the_total(
        self, script: list[tuple[int | None, float, float | None]], policy: RetryPolicy
    ) -> None:
        """Law: however long each try takes, none begins later than the total, and none beyond their number."""
        clock = FakeClock()
        hand = self.flow(POLL, clock, policy)
        began = []
        for status, took, named in script:
            began.append(clock.passed)
            clock.advance(took)
            try:
                if status is None:
                    hand.fail(NoAnswer("reset"))
                else:
                    hand.reply(response(status, retry_after=None if named is None else str(named)))
            except NoAnswer:
                break
            if hand.done:
                break
            clock.advance(hand.asks(Sleep).seconds)
            hand.reply(None)
        assert len(began) <= policy.attempts
        assert all(moment <= policy.total + 1e-6 for moment in began)
