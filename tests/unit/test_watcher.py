"""Many waits in one event loop: bounded, paced, and none of them in another's way."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from types import GeneratorType
from typing import Any

import pytest

from tests.builders import response
from tests.virtual_time import VirtualService, VirtualTimeLoop, about, client_of, ends_at, in_virtual_time
from tl_orchestration import AsyncClient, Execution, Handle, Pacing, Patience, Settings, Status
from tl_orchestration.errors import InvalidRequest, InvalidSettings, NotFound, WaitInterrupted, WaitTimeout
from tl_orchestration.exchange import LAST_MOMENT, Request, Response
from tl_orchestration.ledger import Entry, Event, MemoryLedger, State
from tl_orchestration.pacing import LONGEST_PAUSE
from tl_orchestration.poller import UNNAMED_PAUSE, Waiter
from tl_orchestration.wait import AFTERMATH, wait
from tl_orchestration.watcher import Watcher

EVERY_1 = Patience(pacing=Pacing(floor=1.0, cap=1.0, share=0.0, jitter=0.0))
EVERY_10 = Patience(pacing=Pacing(floor=10.0, cap=10.0, share=0.0, jitter=0.0))
NEVER: Callable[[str], float] = lambda execution_id: float("inf")  # noqa: E731
WHO: ContextVar[str] = ContextVar("WHO")
THING: ContextVar[object] = ContextVar("THING")


def names(count: int) -> list[str]:
    """Ids of executions."""
    return [f"e{number}" for number in range(count)]


def number(execution_id: str) -> int:
    """The number in such an id."""
    return int(execution_id[1:])


async def cancelled(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Cancel tasks and see them end."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def most_in_a_second(times: list[float]) -> int:
    """The largest number of moments within any one second."""
    times = sorted(times)
    return max(bisect_right(times, moment + 1.0) - index for index, moment in enumerate(times))


class TestOutcomes:
    def test_each_wait_gets_its_own_ending(self) -> None:
        """Hundreds of waits end with the execution that they asked for, soon after it has ended."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(ends_at(lambda name: number(name) % 60)), loop.clock())
            ended: dict[str, float] = {}

            async def one(name: str) -> None:
                execution = await client.wait(name, patience=EVERY_10)
                assert (name, Status.SUCCEEDED) == (execution.id, execution.status)
                ended[name] = loop.time()

            await asyncio.gather(*map(one, names(300)))
            assert len(ended) == 300
            assert all(0 <= moment - number(name) % 60 <= 11 for name, moment in ended.items())

        in_virtual_time(main)

    def test_deadline_holds(self) -> None:
        """A wait ends at its timeout, with the last status, while others go on."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(ends_at(lambda name: 200.0)), loop.clock())
            patient = asyncio.create_task(client.wait("e1", patience=EVERY_10))
            with pytest.raises(WaitTimeout) as caught:
                await client.wait("e2", 95, patience=EVERY_10)
            assert (caught.value.execution_id, caught.value.raw_status) == ("e2", "RUNNING")
            assert 95 <= loop.time() < 96
            assert (await patient).id == "e1"
            assert 200 <= loop.time() < 211

        in_virtual_time(main)

    def test_error_reaches_only_its_wait(self) -> None:
        """What goes wrong in one wait, in the service, in its callback or in us, is raised there and nowhere else."""
        bug, defect = RuntimeError("a bug"), ValueError("a caller's mistake")

        def says(name: str, now: float) -> Response | BaseException:
            if name == "e2":
                return bug
            return response(404) if name == "e1" else about(name, "COMPLETED" if now >= 30 else "RUNNING")

        def mistake(execution: Execution) -> None:
            raise defect

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(says), loop.clock())
            bad = [
                client.wait("e1", patience=EVERY_10),
                client.wait("e2", patience=EVERY_10),
                client.wait("e3", patience=Patience(pacing=EVERY_10.pacing, on_change=mistake)),
                client.wait("not/an/id"),
                client.wait("e4", timeout=-1),
            ]
            good = [client.wait(name, patience=EVERY_10) for name in names(40)[5:]]
            outcomes = await asyncio.gather(*bad, *good, return_exceptions=True)
            assert isinstance(outcomes[0], NotFound)
            assert [bug, defect] == outcomes[1:3]
            assert [InvalidRequest, InvalidRequest] == [type(outcome) for outcome in outcomes[3:5]]
            assert names(40)[5:] == [outcome.id for outcome in outcomes[5:] if isinstance(outcome, Execution)]

        in_virtual_time(main)

    def test_deadline_cancels_what_is_ours(self) -> None:
        """A wait alone in its loop records the decision, cancels, and records how the execution has ended."""
        events: list[State] = []

        class Noting(MemoryLedger):
            def append(self, key: str, event: Event) -> Entry:
                events.append(event.state)
                return super().append(key, event)

        class Cancelling(VirtualService):
            async def send(self, request: Request) -> Response:
                if request.operation == "cancel":
                    self._says = lambda name, now: about(name, "CANCELLED")
                    return response(200)
                return await super().send(request)

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(Cancelling(ends_at(NEVER)), loop.clock(), ledger=Noting())
            with pytest.raises(WaitTimeout) as caught:
                await client.wait(Handle(execution_id="e1", key="k", owned=True), 25, patience=EVERY_10)
            assert caught.value.cancelled
            assert events == [State.CANCEL_REQUESTED, State.SETTLED]

        in_virtual_time(main)

    def test_ledger_is_written_in_the_waiters_context(self) -> None:
        """An ending is recorded where its user's context is known, and a slow ledger keeps nobody from polling."""
        seen: dict[str, str | None] = {}
        goes_on = threading.Event()

        class Slow(MemoryLedger):
            def append(self, key: str, event: Event) -> Entry:
                seen[key] = WHO.get(None)
                assert goes_on.wait(10)
                return super().append(key, event)

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda name: 0.0 if name == "e0" else 50.0))
            client = client_of(service, loop.clock(), ledger=Slow(), settings=Settings(max_connections=1))

            async def one(name: str) -> Execution:
                WHO.set(name)
                handle = Handle(execution_id=name, key=f"key-{name}" if name == "e0" else None)
                return await client.wait(handle, patience=EVERY_10)

            recording = asyncio.create_task(one("e0"))
            await one("e1")
            assert not recording.done()
            goes_on.set()
            assert (await recording).id == "e0"

        in_virtual_time(main)
        assert seen == {"key-e0": "e0"}


class TestBounds:
    def test_requests_in_flight_are_bounded(self) -> None:
        """However many waits are due, no more requests are open than there are connections, and all of those are."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda name: 20.0), takes=0.1)
            client = client_of(service, loop.clock(), settings=Settings(max_connections=7))
            await asyncio.gather(*(client.wait(name, patience=EVERY_10) for name in names(500)))
            assert service.peak == 7
            assert set(names(500)) == set(service.polls())

        in_virtual_time(main)

    def test_first_due_is_first_served(self) -> None:
        """With one connection, waits are polled in the order in which they came, each time: none starves."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda name: 35.0), takes=0.01)
            client = client_of(service, loop.clock(), settings=Settings(max_connections=1))
            await asyncio.gather(*(client.wait(name, patience=EVERY_10) for name in names(50)))
            asked = [request.path.rpartition("/")[2] for _, request in service.requests]
            assert names(50) * 5 == asked

        in_virtual_time(main)

    def test_who_comes_later_may_be_due_earlier(self) -> None:
        """A wait of quick polls is not held up by one of slow polls that was there before."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(ends_at(lambda name: 40.0)), loop.clock())
            slow = asyncio.create_task(client.wait("e1", patience=Patience(pacing=Pacing.every(1000))))
            await asyncio.sleep(5)
            await client.wait("e2", patience=EVERY_1)
            assert 40 <= loop.time() < 42
            await slow

        in_virtual_time(main)

    @pytest.mark.parametrize("limit", [0.5, 20.0, 150.0])
    def test_rate_limit_is_kept_and_used(self, limit: float) -> None:
        """More waits than the limit allows leave evenly, at the limit and not above it."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(NEVER), takes=0.005)
            client = client_of(service, loop.clock(), settings=Settings(requests_per_second=limit))
            waits = [asyncio.create_task(client.wait(name, patience=EVERY_10)) for name in names(int(limit * 12))]
            await asyncio.sleep(30)
            await cancelled(*waits)
            assert most_in_a_second(service.times) <= limit * 1.05 + 2
            assert len(service.times) >= 0.95 * 30 * limit
            gaps = [late - early for early, late in zip(service.times, service.times[1:], strict=False)]
            assert max(gaps) <= 1.1 / limit + 0.01

        in_virtual_time(main)

    @pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
    def test_limit_must_be_a_rate(self, limit: float) -> None:
        """A limit of nothing is refused when it is set."""
        client = client_of(VirtualService(ends_at(NEVER)))
        with pytest.raises(InvalidSettings, match="requests_per_second"):
            Watcher(client, requests_per_second=limit)
        with pytest.raises(InvalidSettings, match="requests_per_second"):
            Settings(requests_per_second=limit)


class TestPause:
    @pytest.mark.parametrize(
        ("named", "pause"), [("20", 20.0), (None, UNNAMED_PAUSE), ("86400", LONGEST_PAUSE), ("soon", UNNAMED_PAUSE)]
    )
    def test_one_refusal_pauses_all(self, named: str | None, pause: float) -> None:
        """After a 429 nobody polls for as long as it says, at most five minutes; a wait that begins then waits too."""
        refused_at: list[float] = []
        refused = asyncio.Event()

        def says(name: str, now: float) -> Response:
            if name == "e7" and now > 30 and not refused_at:
                refused_at.append(now)
                refused.set()
                return response(429) if named is None else response(429, retry_after=named)
            return about(name, "COMPLETED" if now > 30 + 2 * LONGEST_PAUSE else "RUNNING")

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(says)
            client = client_of(service, loop.clock())

            async def late() -> None:
                await refused.wait()
                await asyncio.sleep(0.1)
                await client.wait("late", patience=EVERY_10)

            await asyncio.gather(*(client.wait(name, patience=EVERY_10) for name in names(100)), late())
            (moment,) = refused_at
            silent_until = min(began for began in service.times if began > moment + 0.02)
            assert moment + pause <= silent_until <= moment + pause + min(1.0, 0.1 * pause) + 0.02

        in_virtual_time(main)

    @pytest.mark.parametrize("interval", [10.0, 1000.0])
    @pytest.mark.parametrize("deadline", [50.0, 60.5])
    def test_does_not_move_a_deadline(self, interval: float, deadline: float) -> None:
        """A wait whose deadline comes in a pause, whatever it is at then, polls once more and ends in time."""

        def says(name: str, now: float) -> Response:
            if name == "other" and now > 30:
                return response(429, retry_after="3600")
            return about(name)

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(says)
            client = client_of(service, loop.clock())
            other = asyncio.create_task(client.wait("other", patience=EVERY_10))
            patience = Patience(pacing=Pacing(floor=interval, cap=interval, share=0.0, jitter=0.0))
            with pytest.raises(WaitTimeout):
                await client.wait("e1", deadline, patience=patience)
            assert deadline <= loop.time() <= deadline + AFTERMATH
            last = max(began for began, request in service.requests if request.path.endswith("e1"))
            assert deadline <= last <= deadline + 1.0
            await cancelled(other)

        in_virtual_time(main)

    def test_held_request_has_what_is_left_of_its_time(self) -> None:
        """A poll that a pause has held until the deadline is not given the time that it has waited."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(
                lambda name, now: response(429, retry_after="3600") if name == "e0" else about(name)
            )
            client = client_of(service, loop.clock())
            other = asyncio.create_task(client.wait("e0", patience=EVERY_10))
            await asyncio.sleep(1)
            with pytest.raises(WaitTimeout):
                await client.wait("e1", 100, patience=EVERY_10)
            began, held = service.requests[1]
            assert began == pytest.approx(101, abs=1)
            assert held.within == pytest.approx(101 + LAST_MOMENT - began, abs=0.1)
            await cancelled(other)

        in_virtual_time(main)

    def test_thousands_do_not_stampede(self) -> None:
        """Ten thousand waits that a pause has held come back as a slow start: few at first, doubling each second."""
        refused_at: list[float] = []

        def says(name: str, now: float) -> Response:
            if name == "e100" and not refused_at:
                refused_at.append(now)
                return response(429, retry_after="5")
            return about(name, "COMPLETED" if refused_at and now >= refused_at[0] + 5 else "RUNNING")

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(says, takes=0.001)
            client = client_of(service, loop.clock())
            await asyncio.gather(*(client.wait(name, patience=EVERY_10) for name in names(10_000)))
            back = sorted(began for began in service.times if began > refused_at[0] + 0.01)
            for second in range(7):
                left = bisect_right(back, back[0] + second)
                assert left <= 10 * 2.0**second * 1.5 + 5
            assert back[-1] - back[0] < 15

        in_virtual_time(main)

    def test_slow_start_ends_when_nobody_is_left_behind(self) -> None:
        """Once all who were held have left, waits leave at once again."""

        def says(name: str, now: float) -> Response:
            return response(429, retry_after="5") if now < 1 else about(name, "COMPLETED")

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(says)
            client = client_of(service, loop.clock())
            await asyncio.gather(*(client.wait(name, patience=EVERY_1) for name in names(3)))
            await asyncio.sleep(1)
            began = loop.time()
            await asyncio.gather(*(client.wait(name, patience=EVERY_1) for name in names(200)))
            assert loop.time() - began < 1

        in_virtual_time(main)


class TestCancellation:
    def test_is_local(self) -> None:
        """Cancelling half of the waits, asleep or in flight, ends those, asks nothing more for them, spares others."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda name: 100.0), takes=0.5)
            client = client_of(service, loop.clock())
            waits = {name: asyncio.create_task(client.wait(name, patience=EVERY_10)) for name in names(200)}
            await asyncio.sleep(15.25)
            assert service.in_flight > 0
            gone = {name for name in waits if number(name) % 2}
            assert all(isinstance(end, asyncio.CancelledError) for end in await cancelled(*map(waits.get, gone)))  # type: ignore[arg-type]  # all are there
            asked = service.polls()
            rest = await asyncio.gather(*(waits[name] for name in waits if name not in gone))
            assert {execution.id for execution in rest} == waits.keys() - gone
            assert all(asked[name] == service.polls()[name] for name in gone)

        in_virtual_time(main)

    def test_ends_the_request_in_flight(self) -> None:
        """The request of a cancelled wait is given up with it, at once, and its place goes to another."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda name: 0.0), takes=30.0)
            client = client_of(service, loop.clock(), settings=Settings(max_connections=1))
            first = asyncio.create_task(client.wait("e1"))
            second = asyncio.create_task(client.wait("e2"))
            await asyncio.sleep(1)
            assert service.in_flight == 1
            await cancelled(first)
            assert (await second).id == "e2"
            assert (service.abandoned, loop.time()) == (1, 31.0)

        in_virtual_time(main)

    def test_together_with_an_error(self) -> None:
        """A wait that is cancelled in the moment in which it fails is cancelled, and nobody complains."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(lambda name, now: response(404), takes=1.0), loop.clock())
            waiting = asyncio.create_task(client.wait("e1"))
            loop.call_at(1.0, waiting.cancel)
            await asyncio.wait([waiting])
            assert waiting.cancelled() or isinstance(waiting.exception(), NotFound)

        in_virtual_time(main)

    @pytest.mark.parametrize("status", ["RUNNING", "COMPLETED"])
    def test_from_within_on_change(self, status: str) -> None:
        """A callback that cancels its own wait ends that one, even if the execution has just ended."""

        def says(name: str, now: float) -> Response:
            return about(name, status if name == "e2" else "COMPLETED" if now >= 50 else "RUNNING")

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(says), loop.clock(), settings=Settings(max_connections=1))
            waiting: asyncio.Task[Execution]

            def stop(execution: Execution) -> None:
                waiting.cancel()

            waiting = asyncio.create_task(client.wait("e2", patience=Patience(pacing=EVERY_10.pacing, on_change=stop)))
            other = asyncio.create_task(client.wait("e1", patience=EVERY_10))
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert loop.time() < 1
            assert (await other).id == "e1"

        in_virtual_time(main)

    def test_raised_by_on_change(self) -> None:
        """A callback that raises a cancellation ends its own wait with it."""

        def stop(execution: Execution) -> None:
            raise asyncio.CancelledError

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(ends_at(lambda name: 50.0)), loop.clock())
            other = asyncio.create_task(client.wait("e1", patience=EVERY_10))
            waiting = client.wait("e2", patience=Patience(pacing=EVERY_10.pacing, on_change=stop))
            (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError)
            assert loop.time() < 1
            assert (await other).id == "e1"

        in_virtual_time(main)

    def test_as_the_answer_arrives(self) -> None:
        """A wait that is cancelled in the moment of an answer is not told of it any more."""
        called: list[Execution] = []

        async def main(loop: VirtualTimeLoop) -> None:
            waiting: asyncio.Task[Execution]

            def says(name: str, now: float) -> Response:
                waiting.cancel()
                return about(name)

            client = client_of(VirtualService(says), loop.clock())
            patience = Patience(pacing=EVERY_10.pacing, on_change=called.append)
            waiting = asyncio.create_task(client.wait("e1", patience=patience))
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert called == []

        in_virtual_time(main)

    def test_of_a_worker_ends_one_wait(self) -> None:
        """Whoever cancels all tasks that he finds ends the waits in flight; those that sleep go on."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda name: 100.0), takes=1.0)
            client = client_of(service, loop.clock(), settings=Settings(max_connections=2))
            waits = [asyncio.create_task(client.wait(name, patience=EVERY_10)) for name in names(6)]
            await asyncio.sleep(0.5)
            workers = asyncio.all_tasks() - {*waits, asyncio.current_task()}
            assert len(workers) == 2
            await cancelled(*workers)
            outcomes = await asyncio.gather(*waits, return_exceptions=True)
            assert [asyncio.CancelledError] * 2 == [type(outcome) for outcome in outcomes[:2]]
            assert names(6)[2:] == [outcome.id for outcome in outcomes[2:] if isinstance(outcome, Execution)]

        in_virtual_time(main)


class TestContexts:
    def test_each_wait_speaks_in_its_own_context(self) -> None:
        """Log lines and callbacks see the variables of the task that waits; requests are sent in an empty context."""
        logged: list[tuple[str, str | None]] = []
        called: list[tuple[str, str | None]] = []
        sending: set[str | None] = set()

        class Collect(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                logged.append((record.getMessage().split()[1], WHO.get(None)))

        def note(execution: Execution) -> None:
            called.append((execution.id, WHO.get(None)))

        async def main(loop: VirtualTimeLoop) -> None:
            WHO.set("main")
            service = VirtualService(ends_at(lambda name: 35.0))
            service.before_answer = lambda request: sending.add(WHO.get(None))
            client = client_of(service, loop.clock())

            async def one(name: str) -> None:
                WHO.set(name)
                await client.wait(name, patience=Patience(pacing=EVERY_10.pacing, on_change=note))
                assert name == WHO.get()

            await asyncio.gather(*map(one, names(20)))

        logger = logging.getLogger("tl_orchestration.wait")
        handler, level = Collect(), logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            in_virtual_time(main)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        expected = sorted((name, name) for name in names(20) for _ in ("RUNNING", "COMPLETED"))
        assert expected == sorted(logged) == sorted(called)
        assert {None} == sending


def timers(loop: VirtualTimeLoop) -> list[asyncio.TimerHandle]:
    """What the loop is going to do later. asyncio has no public way to ask."""
    return [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]  # as said


def alive() -> int:
    """How many flows and waiters there are, after a collection."""
    gc.collect()
    flows = (wait.__code__, AsyncClient._wait.__code__)
    return sum(type(one) is Waiter or (type(one) is GeneratorType and one.gi_code in flows) for one in gc.get_objects())


class TestLeaks:
    @pytest.mark.parametrize("how", ["ended", "cancelled", "failed", "closed"])
    def test_nothing_remains(self, how: str) -> None:
        """After the last wait, however it ended, no task, timer, flow or waiter is left, though the client lives on."""

        def says(name: str, now: float) -> Response:
            return about(name, "COMPLETED") if how == "ended" else response(404) if how == "failed" else about(name)

        before = alive()

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(says, takes=0.5), loop.clock())
            waits = [asyncio.create_task(client.wait(name, patience=EVERY_10)) for name in names(60)]
            await asyncio.sleep(3.25)
            assert before < alive() or how in {"ended", "failed"}
            if how == "cancelled":
                await cancelled(*waits)
            if how == "closed":
                await client.close()
            await asyncio.gather(*waits, return_exceptions=True)
            del waits
            for _ in range(3):
                await asyncio.sleep(0)
            assert {asyncio.current_task()} == asyncio.all_tasks()
            assert timers(loop) == []
            assert before == alive()
            assert client.base_url

        in_virtual_time(main)

    def test_sleeping_waits_hold_one_timer_and_no_task(self) -> None:
        """Between polls a thousand waits cost one timer, and no task beside those of the callers."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(ends_at(NEVER)), loop.clock())
            waits = [asyncio.create_task(client.wait(name, patience=EVERY_10)) for name in names(1000)]
            await asyncio.sleep(5)
            assert {asyncio.current_task(), *waits} == asyncio.all_tasks()
            assert len(timers(loop)) == 1
            await cancelled(*waits)

        in_virtual_time(main)

    def test_entry_of_a_cancelled_wait_holds_nothing(self) -> None:
        """What a wait was given is let go with it, though its entry stays in the heap until it comes up."""

        class Thing:
            def __call__(self, execution: Execution) -> None:
                """Nothing."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(
                VirtualService(ends_at(NEVER)), loop.clock(), settings=Settings(requests_per_second=0.01)
            )
            staying = asyncio.create_task(client.wait("stays", patience=EVERY_10))

            async def going() -> list[weakref.ref[Thing]]:
                callback, variable = Thing(), Thing()
                context = copy_context()
                context.run(THING.set, variable)
                patience = Patience(pacing=Pacing.every(10_000), on_change=callback)
                waiting = asyncio.create_task(client.wait("e1", patience=patience), context=context)
                await asyncio.sleep(1)
                waiting.cancel()
                await asyncio.wait([waiting])  # gather would hold on to the cancellation, and that to its traceback
                return [weakref.ref(callback), weakref.ref(variable)]

            things = await going()
            (poller,) = client._watcher._pollers.values()
            assert (len(poller._heap), len(poller._ready)) == (1, 1)
            gc.collect()
            assert [thing() for thing in things] == [None, None]
            await cancelled(staying)

        in_virtual_time(main)

    def test_entries_of_one_deadline_do_not_pile_up(self) -> None:
        """A wait that polls thousands of times before its deadline has a few entries, not one for each poll."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(ends_at(NEVER)), loop.clock())
            staying = asyncio.create_task(client.wait("stays", 86_400, patience=EVERY_1))
            await asyncio.sleep(3000)
            (poller,) = client._watcher._pollers.values()
            assert max(len(poller._heap), len(poller._ready), len(poller._latest)) < 10
            await cancelled(staying)

        in_virtual_time(main)

    def test_entries_of_cancelled_waits_do_not_pile_up(self) -> None:
        """Waits that come and go by the thousand beside one that stays leave no entries behind."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(ends_at(NEVER)), loop.clock())
            staying = asyncio.create_task(client.wait("stays", patience=Patience(pacing=Pacing.every(10_000))))
            for name in names(3000):
                patience = Patience(pacing=Pacing.every(10_000))
                going = asyncio.create_task(client.wait(name, 100 * loop.time() + 60, patience=patience))
                await asyncio.sleep(0.05)
                await cancelled(going)
            (poller,) = client._watcher._pollers.values()
            assert max(len(poller._heap), len(poller._ready), len(poller._latest)) < 100
            await cancelled(staying)

        in_virtual_time(main)


class TestClosing:
    def test_close_ends_all_waits_by_name(self) -> None:
        """Closing a client ends its waits, each with an error that names its execution; later ones are refused."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(NEVER), takes=0.5)
            client = client_of(service, loop.clock())
            waits = [asyncio.create_task(client.wait(name, patience=EVERY_10)) for name in names(20)]
            await asyncio.sleep(0.75)
            await client.close()
            assert (service.in_flight, loop.time()) == (0, 0.75)
            outcomes = await asyncio.gather(*waits, return_exceptions=True)
            assert names(20) == [end.execution_id for end in outcomes if isinstance(end, WaitInterrupted)]
            assert all(name in str(end) for name, end in zip(names(20), outcomes, strict=True))
            with pytest.raises(RuntimeError, match="closed"):
                await client.wait("e1")

        in_virtual_time(main)

    def test_loop_may_end_in_the_middle(self) -> None:
        """A loop whose main function ends while waits sleep and poll shuts down without hanging or complaint."""

        async def main(loop: VirtualTimeLoop) -> list[asyncio.Task[Execution]]:
            client = client_of(VirtualService(ends_at(NEVER), takes=0.5), loop.clock())
            waits = [asyncio.create_task(client.wait(name, patience=EVERY_10)) for name in names(50)]
            await asyncio.sleep(1.25)
            return waits

        waits = in_virtual_time(main)
        assert all(task.cancelled() for task in waits)


class TestLoops:
    def test_one_after_the_other(self) -> None:
        """A client serves a second event loop after the first is gone, and holds on to neither."""
        client = client_of(VirtualService(ends_at(lambda name: 25.0)))
        loops: list[weakref.ref[VirtualTimeLoop]] = []

        async def main(loop: VirtualTimeLoop) -> None:
            loops.append(weakref.ref(loop))
            client._clock = loop.clock()
            ended = await asyncio.gather(*(client.wait(name, patience=EVERY_10) for name in names(20)))
            assert names(20) == [execution.id for execution in ended]

        for _ in range(3):
            in_virtual_time(main)
        del client._clock
        gc.collect()
        assert [loop() for loop in loops] == [None, None, None]
        assert len(client._watcher._pollers) == 0

    def test_two_at_once(self) -> None:
        """Two threads with a loop each wait through one client; a close in one ends the waits of both."""
        client = client_of(VirtualService(ends_at(lambda name: 0.0 if name == "e0" else float("inf")), takes=0.0))
        both_wait = threading.Barrier(2)
        outcomes: list[Execution | BaseException] = []

        async def one(*, closes: bool) -> None:
            ended = await client.wait("e0")
            waiting = asyncio.create_task(client.wait("e1", patience=Patience(pacing=Pacing.every(0.01))))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(both_wait.wait, 10)
            if closes:
                await client.close()
            outcomes.extend([ended, *await asyncio.gather(waiting, return_exceptions=True)])

        other = threading.Thread(target=lambda: asyncio.run(one(closes=False)))
        other.start()
        asyncio.run(one(closes=True))
        other.join(10)
        assert sorted(["Execution", "WaitInterrupted"] * 2) == sorted(type(outcome).__name__ for outcome in outcomes)


def test_a_watcher_of_ones_own() -> None:
    """A second watcher over the same client has a limit of its own, and closing it leaves the client alone."""

    async def main(loop: VirtualTimeLoop) -> None:
        service = VirtualService(ends_at(lambda name: 0.0))
        client = client_of(service, loop.clock())
        slow = Watcher(client, requests_per_second=2)
        await asyncio.gather(*(slow.wait(name) for name in names(10)))
        assert 4 <= loop.time() <= 6
        await slow.close()
        assert (await client.wait("e1")).id == "e1"

    in_virtual_time(main)


def test_requests_of_a_wait_are_polls() -> None:
    """What leaves through a watcher are the wait's own requests, in the service's form."""

    async def main(loop: VirtualTimeLoop) -> None:
        service = VirtualService(ends_at(lambda name: 0.0))
        await client_of(service, loop.clock()).wait("e1")
        assert [Request("poll", "GET", "/workflows/e1")] == [request for _, request in service.requests]

    in_virtual_time(main)


def test_ending_is_recorded() -> None:
    """A wait with a ledger entry settles it."""

    async def main(loop: VirtualTimeLoop) -> None:
        events: list[tuple[str, State]] = []

        class Noting(MemoryLedger):
            def append(self, key: str, event: Event) -> Entry:
                events.append((key, event.state))
                return super().append(key, event)

        client = client_of(VirtualService(ends_at(lambda name: 0.0)), loop.clock(), ledger=Noting())
        await client.wait(Handle(execution_id="e1", key="k"))
        assert events == [("k", State.SETTLED)]

    in_virtual_time(main)
