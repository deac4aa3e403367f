"""
What tests share: one sandbox for the whole session, fresh for each test that asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote import Remote
from tests.spreading import Spreading, order
from tl_orchestration.sandbox import SandboxServer


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
