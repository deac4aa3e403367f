"""
Nothing of a wait outlives it.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar, copy_context
from types import GeneratorType

import pytest

from tests.builders import response
from tests.unit.watcher.crowd import EVERY_1, EVERY_10, NEVER, cancelled, names
from tests.virtual_time import VirtualService, VirtualTimeLoop, about, client_of, ends_at, in_virtual_time
from tl_orchestration import AsyncClient, Execution, Pacing, Patience, Settings
from tl_orchestration.exchange import Response
from tl_orchestration.poller import Waiter
from tl_orchestration.wait import wait

THING: ContextVar[object] = ContextVar("THING")


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
