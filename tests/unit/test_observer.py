"""What an observer is told, by both clients and by waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import Any

import pytest

from tests.builders import EXECUTION_ID, response, run_request, told
from tests.virtual_time import Says, VirtualService, VirtualTimeLoop, about, client_of, in_virtual_time
from tl_orchestration import AsyncClient, Client, OrganizationToken, Pacing, Patience
from tl_orchestration.errors import (
    NoAnswer,
    NotFound,
    TransactionlinkError,
    WaitInterrupted,
    WaitTimeout,
)
from tl_orchestration.exchange import Request, Response
from tl_orchestration.ledger import MemoryLedger
from tl_orchestration.observer import Count, Duration, Level, Observer
from tl_orchestration.retry import RetryPolicy

EVERY_10 = Patience(pacing=Pacing(floor=10.0, cap=10.0, share=0.0, jitter=0.0))
ONCE = RetryPolicy(attempts=1)


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.durations: list[tuple[str, str | None, float]] = []
        self.level = 0
        self.peak = 0
        self.services: set[str] = set()

    def count(self, what: Count, *, service: str, outcome: str | None = None) -> None:
        self.services.add(service)
        self.counts[(what, outcome) if outcome else (what,)] += 1

    def duration(self, what: Duration, seconds: float, *, service: str, outcome: str | None = None) -> None:
        self.services.add(service)
        self.durations.append((what, outcome, round(seconds, 1)))

    def change(self, what: Level, by: int, *, service: str) -> None:
        assert what is Level.IN_FLIGHT
        self.services.add(service)
        self.level += by
        self.peak = max(self.peak, self.level)


class OneAnswer:
    """A synchronous service that does the same with every request."""

    def __init__(self, outcome: Response | BaseException) -> None:
        self._outcome = outcome

    def send(self, request: Request, stop: object = None) -> Response:
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def close(self) -> None:
        """There is nothing to close."""


def sync_client(outcome: Response | BaseException, notes: Observer, **options: Any) -> Client:
    """A client whose service does the same with every request."""
    client = Client(OrganizationToken("tot_x"), "http://127.0.0.1:1", retry=ONCE, observer=notes, **options)
    client._wire = OneAnswer(outcome)  # type: ignore[assignment]  # the only part that would open a socket
    return client


def observed(says: Says, verb: Any, **options: Any) -> Notes:
    """What is told while a coroutine function uses an asynchronous client."""
    notes = Notes()

    async def main(loop: VirtualTimeLoop) -> None:
        client = client_of(VirtualService(says), loop.clock(), observer=notes, retry=ONCE, **options)
        await verb(client, loop)

    in_virtual_time(main)
    assert notes.level == 0
    assert notes.services <= {"transactionlink"}
    return notes


class TestStarts:
    @pytest.mark.parametrize(
        ("outcome", "expected"),
        [
            (told(), {("starts", "started"): 1}),
            (response(400), {("starts", "refused"): 1}),
            (response(429), {("starts", "refused"): 1, ("rate_limited",): 1}),
            (NoAnswer("x", sent=False), {("starts", "refused"): 1}),
            (NoAnswer("x", sent=True), {("starts", "unknown"): 1, ("unknown_starts",): 1}),
            (response(503), {("starts", "unknown"): 1, ("unknown_starts",): 1}),
        ],
    )
    def test_by_outcome(self, outcome: Response | NoAnswer, expected: dict[tuple[str, ...], int]) -> None:
        """Each start is counted once by its outcome, and one of unknown fate in a counter of its own as well."""
        notes = Notes()
        client = sync_client(outcome, notes)
        with contextlib.suppress(TransactionlinkError):
            client.run(run_request())
        assert notes.counts == expected
        assert (notes.level, notes.peak) == (0, 1)

    def test_reattaching_is_told_apart(self) -> None:
        """A start that finds the execution of its key counts as reattached."""
        notes = Notes()
        client = sync_client(told(), notes, ledger=MemoryLedger())
        client.run(run_request(), "k")
        assert client.run(run_request(), "k").reattached
        assert notes.counts[("starts", "started")] == 1
        assert notes.counts[("starts", "reattached")] == 1


class TestPolls:
    @pytest.mark.parametrize(
        ("outcome", "expected"),
        [
            (told(), {("polls", "answered"): 1}),
            (response(404), {("polls", "refused"): 1}),
            (response(429), {("polls", "refused"): 1, ("rate_limited",): 1}),
            (NoAnswer("x"), {("polls", "unanswered"): 1}),
            (WaitInterrupted("x"), {("polls", "unanswered"): 1}),
            (KeyboardInterrupt(), {}),
        ],
    )
    def test_by_outcome(self, outcome: Response | BaseException, expected: dict[tuple[str, ...], int]) -> None:
        """Each poll is counted once by what came of it, and the level returns to where it was, whatever comes."""
        notes = Notes()
        with contextlib.suppress(TransactionlinkError, KeyboardInterrupt):
            sync_client(outcome, notes).poll(EXECUTION_ID)
        assert notes.counts == expected
        assert (notes.level, notes.peak) == (0, 1)

    def test_other_requests_are_no_polls(self) -> None:
        """A result is counted as in flight, and as nothing else."""
        notes = Notes()
        sync_client(response(200, {"a": 1}), notes).result(EXECUTION_ID)
        assert (notes.counts, notes.peak) == (Counter(), 1)

    def test_in_flight_follows_the_watcher(self) -> None:
        """The level is the number of requests that wait for their answer."""

        async def verb(client: AsyncClient, loop: VirtualTimeLoop) -> None:
            await asyncio.gather(*(client.wait(f"e{number}", patience=EVERY_10) for number in range(50)))

        notes = observed(lambda name, now: about(name, "COMPLETED" if now > 5 else "RUNNING"), verb)
        assert notes.peak == 10
        assert notes.counts == {("polls", "answered"): 100}

    def test_cancelled_wait_leaves_the_level_right(self) -> None:
        """A request that is given up is in flight no more."""

        async def verb(client: AsyncClient, loop: VirtualTimeLoop) -> None:
            waiting = asyncio.create_task(client.wait("e1"))
            await asyncio.sleep(0.005)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

        notes = observed(lambda name, now: about(name), verb)
        assert (notes.peak, notes.counts, notes.durations) == (1, Counter(), [])


class TestWaits:
    @pytest.mark.parametrize(
        ("last", "outcome"), [("COMPLETED", "succeeded"), ("FAILED", "failed"), ("CANCELLED", "cancelled")]
    )
    def test_durations(self, last: str, outcome: str) -> None:
        """A wait tells how long it took by its ending, and for how long at most the ending was there unseen."""

        async def verb(client: AsyncClient, loop: VirtualTimeLoop) -> None:
            await client.wait("e1", patience=EVERY_10)

        notes = observed(lambda name, now: about(name, last if now > 33 else "RUNNING"), verb)
        assert notes.durations == [("detection_delay", None, 10.0), ("wait", outcome, 40.1)]

    def test_first_poll_knows_no_delay(self) -> None:
        """An execution that has ended before the wait begins says nothing about detection."""

        async def verb(client: AsyncClient, loop: VirtualTimeLoop) -> None:
            await client.wait("e1")

        notes = observed(lambda name, now: about(name, "COMPLETED"), verb)
        assert notes.durations == [("wait", "succeeded", 0.0)]

    def test_waits_that_end_otherwise(self) -> None:
        """A timeout, a failure and an interruption are told apart."""

        async def verb(client: AsyncClient, loop: VirtualTimeLoop) -> None:
            with pytest.raises(WaitTimeout):
                await client.wait("e1", 25, patience=EVERY_10)
            with pytest.raises(NotFound):
                await client.wait("gone", patience=EVERY_10)

        notes = observed(lambda name, now: response(404) if name == "gone" else about(name), verb)
        assert notes.durations == [("wait", "timeout", 25.0), ("wait", "failed", 0.0)]
        interrupted = Notes()
        with pytest.raises(WaitInterrupted):
            sync_client(WaitInterrupted("x"), interrupted).wait(EXECUTION_ID)
        assert interrupted.durations == [("wait", "interrupted", 0.0)]

    def test_unknown_statuses_are_counted_by_change(self) -> None:
        """A status that cannot be read counts when it appears, not with each poll."""

        def says(name: str, now: float) -> Response:
            return about(name, "COMPLETED" if now > 95 else "ODD" if now > 15 else "RUNNING")

        async def verb(client: AsyncClient, loop: VirtualTimeLoop) -> None:
            await client.wait("e1", patience=EVERY_10)

        assert observed(says, verb).counts[("unknown_statuses",)] == 1


class TestObservers:
    def test_broken_observer_changes_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        """What an observer raises is logged once, and the start's answer is not lost for it."""

        class Broken:
            def count(self, *facts: object, **labels: object) -> None:
                raise RuntimeError("statistics are down")

            duration = change = count

        client = sync_client(told(), Broken())
        with caplog.at_level(logging.INFO):
            assert client.run(run_request()).id == EXECUTION_ID
            client.poll(EXECUTION_ID)
        assert len([record for record in caplog.records if "observer" in record.getMessage()]) == 1

    def test_labels_are_few(self) -> None:
        """Nobody is told an id or a key."""
        seen: list[str] = []

        class Words:
            def count(self, *facts: object, **labels: object) -> None:
                seen.extend(map(str, (*facts, *labels.values())))

            duration = change = count

        client = sync_client(told("COMPLETED"), Words(), ledger=MemoryLedger())
        client.wait(client.run(run_request(), "key-4711"))
        assert not [word for word in seen if EXECUTION_ID in word or "4711" in word]

    def test_protocol(self) -> None:
        """What the tests use is an observer as the types say."""
        assert isinstance(Notes(), Observer)
