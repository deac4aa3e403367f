"""
Many waits in one event loop: few requests at once, and not too many in a second.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.watcher.crowd import EVERY_1, EVERY_10, NEVER, cancelled, most_in_a_second, names
from tests.virtual_time import VirtualService, VirtualTimeLoop, client_of, ends_at, in_virtual_time
from tl_orchestration import Pacing, Patience, Settings
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.watcher import Watcher


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
