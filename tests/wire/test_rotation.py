"""
A token is rotated under many waits: all of them survive, and few of them read it again.

200 waits by default; 1,000 with SOAK=1.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import evolve

from tests.builders import run_request
from tests.remote import Remote
from tl_orchestration import AsyncClient, Client, Execution, OrganizationToken, Patience, Settings, Status
from tl_orchestration.authorization import RENEWAL_INTERVAL
from tl_orchestration.pacing import Pacing
from tl_orchestration.sandbox import SandboxServer

WAITS = 1_000 if os.environ.get("SOAK") else 200
#: How much faster the credential's clock goes than ours.
FASTER = 10.0
#: Seconds between the polls of one wait: about 200 polls a second in all, which the sandbox can answer.
INTERVAL = WAITS / 200
SETTINGS = Settings(max_connections=50)


class Vault:
    """Where the token comes from; it is some time behind the service."""

    def __init__(self) -> None:
        self.token = "tot_first"
        self.reads = 0

    def __call__(self) -> str:
        self.reads += 1
        time.sleep(0.02)
        return self.token


class Rotation:
    """A service whose token is about to change."""

    def __init__(self, server: SandboxServer, remote: Remote) -> None:
        self.url = server.url
        self.vault = Vault()
        self.remote = remote
        self._store = server.store
        self._accept("tot_first")
        self._seen: set[str] = set()
        remote.define("kyc-approve", duration=3600)

    def patience(self, interval: float) -> Patience:
        """How a wait polls, and tells of its first poll."""
        return Patience(pacing=Pacing.every(interval), on_change=lambda execution: self._seen.add(execution.id))

    def credential(self) -> OrganizationToken:
        """A credential whose seconds are short, so that nobody has to wait for them."""
        return OrganizationToken(self.vault, monotonic=lambda: time.monotonic() * FASTER)

    def rotate(self, waits: int) -> None:
        """
        The service changes its mind once every wait has polled; the source learns of it when many polls have been
        refused; then everything ends.
        """
        _until(lambda: len(self._seen) == waits)
        self._accept("tot_second")
        enough = self._polls() + waits // 2
        _until(lambda: self._polls() >= enough)
        self.vault.token = "tot_second"
        self.remote.advance(3600)

    def _polls(self) -> int:
        return self.remote.count("GET /workflows/{id}")

    def _accept(self, token: str) -> None:
        self._store.settings = evolve(self._store.settings, tokens=({"value": token},))


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < ends, "the polls never came"
        time.sleep(0.02)


@pytest.fixture
def rotation() -> Iterator[Rotation]:
    """A sandbox of its own, whose tokens can change."""
    with SandboxServer() as server, Remote(server.url) as remote:
        yield Rotation(server, remote)


def few_reads(rotation: Rotation, seconds: float) -> None:
    """One read to begin with, at most one in some seconds while it brought nothing new, one that did."""
    assert 2 <= rotation.vault.reads <= 4 + seconds * FASTER / RENEWAL_INTERVAL


def test_tasks_survive(rotation: Rotation) -> None:
    """Waits in one event loop, over one client."""

    async def scene() -> list[Execution]:
        async with AsyncClient(rotation.credential(), rotation.url, settings=SETTINGS) as client:
            started = await asyncio.gather(*(client.run(run_request()) for _ in range(WAITS)))
            patience = rotation.patience(INTERVAL)
            waits = asyncio.gather(*(client.wait(one, patience=patience) for one in started))
            await asyncio.to_thread(rotation.rotate, WAITS)
            return await waits

    began = time.monotonic()
    ended = asyncio.run(scene())
    assert [one.status for one in ended] == [Status.SUCCEEDED] * WAITS
    assert len(rotation.remote.starts()) == WAITS
    few_reads(rotation, time.monotonic() - began)


def test_threads_survive(rotation: Rotation) -> None:
    """Waits in threads, over one client: as many as threads are for."""
    count = min(WAITS // 10, 40)
    patience = rotation.patience(0.2)
    began = time.monotonic()
    with (
        Client(rotation.credential(), rotation.url, settings=SETTINGS) as client,
        ThreadPoolExecutor(count + 1) as pool,
    ):
        started = [client.run(run_request()) for _ in range(count)]
        waits = [pool.submit(client.wait, one, patience=patience) for one in started]
        rotation.rotate(count)
        assert [wait.result(30).status for wait in waits] == [Status.SUCCEEDED] * count
    few_reads(rotation, time.monotonic() - began)
