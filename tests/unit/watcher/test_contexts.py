"""
Waits keep the context, and the event loop, of whoever waits.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref

from tests.unit.watcher.crowd import EVERY_10, WHO, names
from tests.virtual_time import VirtualService, VirtualTimeLoop, client_of, ends_at, in_virtual_time
from tl_orchestration import Execution, Pacing, Patience


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
            await asyncio.to_thread(both_wait.wait, 60)
            if closes:
                await client.close()
            outcomes.extend([ended, *await asyncio.gather(waiting, return_exceptions=True)])

        other = threading.Thread(target=lambda: asyncio.run(one(closes=False)))
        other.start()
        asyncio.run(one(closes=True))
        other.join(60)
        assert sorted(["Execution", "WaitInterrupted"] * 2) == sorted(type(outcome).__name__ for outcome in outcomes)
