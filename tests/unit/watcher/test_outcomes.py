"""
Many waits in one event loop: each gets its own ending.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.builders import response
from tests.unit.watcher.crowd import EVERY_10, NEVER, WHO, names, number
from tests.virtual_time import VirtualService, VirtualTimeLoop, about, client_of, ends_at, in_virtual_time
from tl_orchestration import Execution, Handle, Patience, Settings, Status
from tl_orchestration.errors import InvalidRequest, NotFound, WaitTimeout
from tl_orchestration.exchange import Request, Response
from tl_orchestration.ledger import Entry, Event, MemoryLedger, State


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
