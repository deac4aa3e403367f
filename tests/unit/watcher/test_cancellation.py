"""
A wait that is cancelled, and a client that is closed, leave the others alone.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.builders import response
from tests.unit.watcher.crowd import EVERY_10, NEVER, cancelled, names, number
from tests.virtual_time import VirtualService, VirtualTimeLoop, about, client_of, ends_at, in_virtual_time
from tl_orchestration import Execution, Patience, Settings
from tl_orchestration.errors import NotFound, WaitInterrupted
from tl_orchestration.exchange import Response


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
