"""
One sandbox for all of these tests, as new for each.
"""

from collections.abc import Iterator

import pytest

from tests.wire.sandbox.legacy.user import Legacy
from tests.wire.sandbox.users import NOW, Sandbox
from tl_orchestration.sandbox import SandboxServer, SandboxSettings


@pytest.fixture(scope="session")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxSettings(clock=lambda: NOW, seed=7)) as server:
        yield server


@pytest.fixture
def sandbox(server: SandboxServer) -> Iterator[Sandbox]:
    server.store.reset()
    sandbox = Sandbox(server)
    with sandbox.http:
        yield sandbox


@pytest.fixture
def legacy(server: SandboxServer) -> Iterator[Legacy]:
    server.store.reset()
    legacy = Legacy(server)
    with legacy.http:
        yield legacy


@pytest.fixture
def current(server: SandboxServer, legacy: Legacy) -> Iterator[Sandbox]:
    """A user of the current API on the same sandbox."""
    current = Sandbox(server)
    with current.http:
        yield current
