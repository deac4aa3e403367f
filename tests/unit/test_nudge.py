"""Hints in the poller: a poll at once, and slow polls otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.builders import NOW, response
from tests.virtual_time import VirtualService, VirtualTimeLoop, about, client_of, ends_at, in_virtual_time
from tl_orchestration import AsyncClient, Pacing, Patience, Settings, Status
from tl_orchestration.errors import LedgerError
from tl_orchestration.hints import Cursor, Hint
from tl_orchestration.observer import Count, Duration, Level
from tl_orchestration.pacing import SAFETY_NET
from tl_orchestration.wait import FOLLOW_UPS

RARELY = Patience(pacing=Pacing(floor=1000.0, cap=1000.0, share=0.0, jitter=0.0))
NEVER: Callable[[str], float] = lambda execution_id: float("inf")  # noqa: E731


class Announcements:
    """A source of hints that says at certain times of the loop what has changed."""

    def __init__(self, *announced: tuple[float, str]) -> None:
        self._announced = announced
        self.asked = 0
        self.purged = 0
        self.fails: Callable[[], bool] = lambda: False
        self.hangs: Callable[[], bool] = lambda: False
        self.purge_hangs = False

    async def astart(self) -> Cursor:
        return Cursor()

    async def asince(self, cursor: Cursor) -> tuple[list[Hint], Cursor]:
        self.asked += 1
        if self.fails():
            raise LedgerError("The inbox is down.")
        if self.hangs():
            await asyncio.sleep(10_000)
        now = asyncio.get_running_loop().time()
        said = [one for one in self._announced if one[0] <= now]
        hints = [Hint(number, "transactionlink", one, "", NOW + moment) for number, (moment, one) in enumerate(said, 1)]
        return hints[cursor.top :], Cursor(len(said))

    async def apurge(self) -> int:
        self.purged += 1
        if self.purge_hangs:
            await asyncio.sleep(10_000)
        raise LedgerError("permission denied") if self.purged % 2 else OSError("reset")


def with_inbox(service: VirtualService, loop: VirtualTimeLoop, source: Announcements, **options: object) -> AsyncClient:
    """A client that has an inbox."""
    return client_of(service, loop.clock(), inbox=source, **options)


class TestNudge:
    def test_polls_at_once(self) -> None:
        """A sleeping wait polls when it is nudged, and only the one that is meant."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda _: 50.0))
            client = client_of(service, loop.clock())
            waiting = [asyncio.create_task(client.wait(name, patience=RARELY)) for name in ("e1", "e2")]
            await asyncio.sleep(60)
            assert client._watcher.nudge("e1")
            assert not client._watcher.nudge("nobody")
            assert (await waiting[0]).status is Status.SUCCEEDED
            assert loop.time() == pytest.approx(60, abs=0.1)
            assert service.polls() == {"e1": 2, "e2": 1}
            await waiting[1]

        in_virtual_time(main)

    def test_many_nudges_are_two_polls(self) -> None:
        """Of a hundred nudges at once the first makes a poll, and all that come while it is out make one more."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(NEVER), takes=0.0)
            client = client_of(service, loop.clock())
            waiting = asyncio.create_task(client.wait("e1", patience=RARELY))
            await asyncio.sleep(60)
            for _ in range(100):
                client._watcher.nudge("e1")
            await asyncio.sleep(900)
            assert len(service.requests) == 3 + len(FOLLOW_UPS)
            (poller,) = client._watcher._pollers.values()
            assert len(poller._heap) <= 65
            waiting.cancel()
            await asyncio.wait([waiting])

        in_virtual_time(main)

    def test_heap_stays_small(self) -> None:
        """Nudges of many hours leave nothing behind."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = client_of(VirtualService(ends_at(NEVER)), loop.clock())
            waiting = asyncio.create_task(client.wait("e1", patience=RARELY))
            for _ in range(300):
                await asyncio.sleep(60)
                client._watcher.nudge("e1")
            (poller,) = client._watcher._pollers.values()
            assert len(poller._heap) <= 65
            waiting.cancel()
            await asyncio.wait([waiting])

        in_virtual_time(main)

    def test_during_a_request(self) -> None:
        """A nudge while a poll is out makes another one after it: the answer may be from before the change."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda _: 2.0), takes=1.5)
            client = client_of(service, loop.clock())
            waiting = asyncio.create_task(client.wait("e1", patience=RARELY))
            await asyncio.sleep(1)
            client._watcher.nudge("e1")
            assert (await waiting).status is Status.SUCCEEDED
            assert service.times == [0.0, 1.5]

        in_virtual_time(main)

    def test_follow_ups(self) -> None:
        """Where the change does not show yet, two more polls follow, and then the rhythm of before."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(NEVER), takes=0.0)
            client = client_of(service, loop.clock())
            waiting = asyncio.create_task(client.wait("e1", patience=RARELY))
            await asyncio.sleep(100)
            client._watcher.nudge("e1")
            await asyncio.sleep(1050)
            first, second = FOLLOW_UPS
            last = 100 + first + second
            assert service.times == pytest.approx([0, 100, 100 + first, last, last + 1000])
            waiting.cancel()
            await asyncio.wait([waiting])

        in_virtual_time(main)

    def test_request_that_has_yet_to_leave(self) -> None:
        """A nudge while a request waits for its turn adds none: that one will show the change."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(NEVER), takes=0.0)
            client = client_of(service, loop.clock(), settings=Settings(requests_per_second=0.1))
            waiting = [asyncio.create_task(client.wait(name, patience=RARELY)) for name in ("e1", "e2")]
            await asyncio.sleep(5)
            client._watcher.nudge("e2")
            await asyncio.sleep(95)
            assert service.polls() == {"e1": 1, "e2": 1}
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

        in_virtual_time(main)

    def test_pause_of_the_service_holds(self) -> None:
        """A nudge does not poll through a pause that the service has asked for."""

        async def main(loop: VirtualTimeLoop) -> None:
            def says(execution_id: str, now: float) -> object:
                return response(429, {}, retry_after="100") if now < 1 else about(execution_id, "COMPLETED")

            service = VirtualService(says)  # type: ignore[arg-type]
            client = client_of(service, loop.clock())
            waiting = asyncio.create_task(client.wait("e1", patience=RARELY))
            await asyncio.sleep(10)
            client._watcher.nudge("e1")
            await waiting
            assert service.times[1] >= 100

        in_virtual_time(main)


class TestInbox:
    def test_few_requests(self) -> None:
        """With an inbox, an execution of half an hour costs four requests, and its end is seen within a second."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda _: 1800.0))
            source = Announcements((1800.0, "e1"))
            execution = await with_inbox(service, loop, source).wait("e1")
            assert execution.status is Status.SUCCEEDED
            assert len(service.requests) <= 4
            assert loop.time() <= 1801.1

        in_virtual_time(main)

    def test_lost_webhook(self) -> None:
        """An end that nobody announces is found by the safety net."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda _: 1000.0))
            assert (await with_inbox(service, loop, Announcements()).wait("e1")).status is Status.SUCCEEDED
            assert 1000 <= loop.time() <= 1000 + SAFETY_NET.cap * 1.1

        in_virtual_time(main)

    def test_false_announcement(self) -> None:
        """A hint changes no state: what the service says counts."""

        async def main(loop: VirtualTimeLoop) -> None:
            service = VirtualService(ends_at(lambda _: 400.0))
            source = Announcements((10.0, "e1"), (11.0, "unknown"), (12.0, ""))
            execution = await with_inbox(service, loop, source).wait("e1")
            assert execution.status is Status.SUCCEEDED
            assert loop.time() >= 400
            assert set(service.polls()) == {"e1"}

        in_virtual_time(main)

    def test_failing_inbox(self, caplog: pytest.LogCaptureFixture) -> None:
        """An inbox that is down is said once, and does not end a wait; polls go on."""

        async def main(loop: VirtualTimeLoop) -> None:
            source = Announcements()
            source.fails = lambda: True
            service = VirtualService(ends_at(lambda _: 100.0))
            execution = await with_inbox(service, loop, source).wait("e1")
            assert execution.status is Status.SUCCEEDED
            assert source.asked > 95
            assert loop.time() <= 100 + Pacing().share * 100 * 1.1 + 1

        in_virtual_time(main)
        assert caplog.text.count("inbox of webhooks cannot be read") == 1

    @pytest.mark.parametrize("trouble", ["fails", "hangs"])
    def test_waits_poll_often_while_the_inbox_is_away(self, trouble: str) -> None:
        """
        From the moment in which it can no longer be read, polls keep to the pacing, spread over its interval; and to
        the safety net again once it is back. A hint that came meanwhile is not missed.
        """

        async def main(loop: VirtualTimeLoop) -> None:
            source = Announcements((700.0, "e9"))
            setattr(source, trouble, lambda: 600 <= loop.time() < 900)
            service = VirtualService(ends_at(NEVER), takes=0.0)
            patience = Patience(pacing=Pacing.every(30))
            client = with_inbox(service, loop, source)
            waiting = [asyncio.create_task(client.wait(f"e{n}", timeout=9999, patience=patience)) for n in range(10)]
            await asyncio.sleep(595)
            assert all(polls == 2 for polls in service.polls().values())
            before = len(service.times)
            await asyncio.sleep(350)
            during = [moment for moment in service.times[before:] if moment < 895]
            assert all(8 <= polls - 2 <= 12 + len(FOLLOW_UPS) for polls in service.polls().values())
            assert service.polls()["e9"] > 10 + len(FOLLOW_UPS)
            assert during[0] >= 600
            assert len({round(moment) for moment in during[:10]}) > 4
            back = len(service.times)
            await asyncio.sleep(200)
            assert len(service.times) == back
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

        in_virtual_time(main)

    def test_lag_is_told(self) -> None:
        """From the arrival of a webhook until its wait was told; not for what nobody waits for, nor for old ones."""

        async def main(loop: VirtualTimeLoop) -> None:
            told: list[tuple[str, float]] = []

            class Notes:
                def count(self, what: Count, **_: object) -> None: ...
                def change(self, what: Level, by: int, **_: object) -> None: ...
                def duration(self, what: Duration, seconds: float, **_: object) -> None:
                    told.append((what, seconds))

            source = Announcements((0.0, "e1"), (60.25, "e1"), (60.25, "e2"))
            client = with_inbox(VirtualService(ends_at(lambda _: 60.0)), loop, source, observer=Notes())
            await client.wait("e1")
            lags = [seconds for what, seconds in told if what is Duration.INBOX_LAG]
            assert lags == pytest.approx([0.75], abs=0.05)

        in_virtual_time(main)

    def test_one_listener_and_none_without_waits(self) -> None:
        """Many waits ask the inbox once a second together; without waits nobody asks, and later waits ask again."""

        async def main(loop: VirtualTimeLoop) -> None:
            source = Announcements(*((10.0 + number / 100, f"e{number}") for number in range(100)))
            service = VirtualService(ends_at(lambda _: 10.0))
            settings = Settings(max_connections=100)
            client = with_inbox(service, loop, source, settings=settings)
            await asyncio.gather(*(client.wait(f"e{number}") for number in range(100)))
            asked = source.asked
            assert asked <= 15
            await asyncio.sleep(100)
            assert source.asked == asked
            service._says = ends_at(lambda _: 130.0)
            await client.wait("late", timeout=1000)
            assert source.asked > asked
            await client.close()

        in_virtual_time(main)

    def test_forgets_what_is_old(self) -> None:
        """The inbox is told to forget every ten minutes; a reader without the right to delete goes on reading."""

        async def main(loop: VirtualTimeLoop) -> None:
            source = Announcements((1500.0, "e1"))
            service = VirtualService(ends_at(lambda _: 1500.0))
            assert (await with_inbox(service, loop, source).wait("e1")).status is Status.SUCCEEDED
            assert source.purged == 2
            assert loop.time() <= 1502

        in_virtual_time(main)

    def test_forgetting_that_hangs_stops_no_hints(self) -> None:
        """A delete behind a lock is left, and the inbox read on."""

        async def main(loop: VirtualTimeLoop) -> None:
            source = Announcements((1500.0, "e1"))
            source.purge_hangs = True
            service = VirtualService(ends_at(lambda _: 1500.0))
            assert (await with_inbox(service, loop, source).wait("e1")).status is Status.SUCCEEDED
            assert source.purged == 2
            assert loop.time() <= 1502

        in_virtual_time(main)

    def test_closing_ends_the_listener(self) -> None:
        """Closing the client leaves no task behind."""

        async def main(loop: VirtualTimeLoop) -> None:
            client = with_inbox(VirtualService(ends_at(NEVER)), loop, Announcements())
            waiting = asyncio.create_task(client.wait("e1"))
            await asyncio.sleep(5)
            await client.close()
            await asyncio.wait([waiting])
            assert waiting.exception() is not None
            assert asyncio.all_tasks() == {asyncio.current_task()}

        in_virtual_time(main)
