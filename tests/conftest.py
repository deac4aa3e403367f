"""
What tests share: one sandbox for the whole session, fresh for each test that asks for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.remote import Remote
from tests.spreading import Spreading, order
from tl_orchestration.sandbox import SandboxServer, endpoints


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Spreading:
    """
    How ``pytest -n`` spreads the tests.
    """
    config.option.loadscopereorder = False
    return Spreading(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Fast things first, unless they run beside the slow ones.
    """
    if hasattr(config, "workerinput"):
        order(items)


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[SandboxServer]:
    """
    A sandbox of the remote service, on a free port of this machine.
    """
    with SandboxServer() as server:
        yield server


@pytest.fixture(scope="session")
def _operator(sandbox_server: SandboxServer) -> Iterator[Remote]:
    """
    One connection to the sandbox's levers.
    """
    with Remote(sandbox_server.url) as remote:
        yield remote


@pytest.fixture
def remote(_operator: Remote) -> Remote:
    """
    The sandbox as on its first day, with its own account of what reached it.
    """
    _operator.reset()
    return _operator


@pytest.fixture
def let_go(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """
    Ends all that the sandbox holds back, however many seconds were ordered.
    """
    told, hold = threading.Event(), endpoints._hold

    async def until_told(request: Any, seconds: float) -> None:
        holding = asyncio.ensure_future(hold(request, seconds))
        while not (holding.done() or told.is_set()):
            await asyncio.wait([holding], timeout=0.01)
        holding.cancel()

    monkeypatch.setattr(endpoints, "_hold", until_told)
    return told
