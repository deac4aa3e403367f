"""
A service that has had enough is left alone by all waits.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right

import pytest

from tests.builders import response
from tests.unit.watcher.crowd import EVERY_1, EVERY_10, cancelled, names
from tests.virtual_time import VirtualService, VirtualTimeLoop, about, client_of, in_virtual_time
from tl_orchestration import Pacing, Patience
from tl_orchestration.errors import WaitTimeout
from tl_orchestration.exchange import LAST_MOMENT, Response
from tl_orchestration.pacing import LONGEST_PAUSE
from tl_orchestration.poller import UNNAMED_PAUSE
from tl_orchestration.wait import AFTERMATH


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
