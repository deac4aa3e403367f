"""A token that is refused is read again: by one of many, and not over and over."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.builders import FakeClock
from tl_orchestration.authorization import RENEWAL_INTERVAL
from tl_orchestration.credentials import OrganizationToken

URL = "https://api.transactionlink.io/workflows/x"


class Vault:
    """Where the token comes from, and a service that accepts only some."""

    def __init__(self, token: str, delay: float = 0.0) -> None:
        self.token = token
        self.accepted = {token}
        self.refusal = 401
        self.reads = 0
        self._delay = delay

    def __call__(self) -> str:
        self.reads += 1
        time.sleep(self._delay)
        return self.token

    def rotate(self, token: str) -> None:
        """Another token, and only that one, is good."""
        self.token = token
        self.accepted = {token}

    def answer(self, request: httpx.Request) -> httpx.Response:
        """The service."""
        return httpx.Response(200 if request.headers["Authorization"] in self.accepted else self.refusal)

    async def awaited(self, request: httpx.Request) -> httpx.Response:
        """The same, with a moment in between, so that many are refused before one has read."""
        await asyncio.sleep(0.01)
        return self.answer(request)

    def ask(self, token: OrganizationToken) -> int:
        """The status of one request."""
        with httpx.Client(transport=httpx.MockTransport(self.answer), auth=token.auth()) as client:
            return client.get(URL).status_code


@pytest.fixture
def clock() -> FakeClock:
    """Time that passes when it is told to."""
    return FakeClock()


def test_unchanged_token_is_not_read_again_at_once(clock: FakeClock) -> None:
    """A rotation that has not reached the source yet costs one read in some seconds, however many are refused."""
    vault = Vault("tot_1")
    token = OrganizationToken(vault, monotonic=lambda: clock.now)
    vault.accepted = {"tot_2"}
    assert [vault.ask(token) for _ in range(5)] == [401] * 5
    assert vault.reads == 2
    vault.token = "tot_2"
    clock.advance(RENEWAL_INTERVAL - 0.1)
    assert (vault.ask(token), vault.reads) == (401, 2)
    clock.advance(0.2)
    assert (vault.ask(token), vault.reads) == (200, 3)


def test_new_token_that_was_accepted_may_be_read_again_at_once(clock: FakeClock) -> None:
    """Two rotations in a row are two reads."""
    vault = Vault("tot_1")
    token = OrganizationToken(vault, monotonic=lambda: clock.now)
    for name in ("tot_2", "tot_3", "tot_4"):
        vault.rotate(name)
        assert vault.ask(token) == 200
    assert vault.reads == 4


def test_missing_permission_does_not_read_again_and_again(clock: FakeClock) -> None:
    """A 403 for one thing among accepted requests for others is no reason for a read each time."""
    vault = Vault("tot_1")
    vault.refusal = 403
    token = OrganizationToken(vault, monotonic=lambda: clock.now)
    for _ in range(5):
        vault.accepted = set()
        assert vault.ask(token) == 403
        vault.accepted = {"tot_1"}
        assert vault.ask(token) == 200
    assert vault.reads == 2


def test_threads_read_once() -> None:
    """Of many threads that are refused one reads, and all go on with what it has read."""
    vault = Vault("tot_1", delay=0.1)
    token = OrganizationToken(vault)
    vault.rotate("tot_2")
    begin = threading.Barrier(20)

    def ask() -> int:
        begin.wait(60)
        return vault.ask(token)

    with ThreadPoolExecutor(20) as pool:
        assert {200} == {future.result(60) for future in [pool.submit(ask) for _ in range(20)]}
    assert vault.reads == 2


def test_tasks_read_once_and_not_in_the_event_loop() -> None:
    """A source that takes its time holds up nobody who needs no token."""
    many = threading.Event()

    class Slow(Vault):
        def __call__(self) -> str:
            assert self.reads == 0 or many.wait(30)
            return super().__call__()

    vault = Slow("tot_1")
    token = OrganizationToken(vault)
    vault.rotate("tot_2")

    async def scene() -> set[int]:
        async def tick() -> None:
            for _ in range(20):
                await asyncio.sleep(0.01)
            many.set()

        ticking = asyncio.create_task(tick())
        async with httpx.AsyncClient(transport=httpx.MockTransport(vault.awaited), auth=token.auth()) as client:
            answers = await asyncio.gather(*(client.get(URL) for _ in range(50)))
        await ticking
        return {answer.status_code for answer in answers}

    assert ({200}, 2) == (asyncio.run(scene()), vault.reads)
