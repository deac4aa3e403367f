"""
A user of B3OS.
"""

from collections.abc import Iterator

import pytest

from tests.wire.sandbox.b3os.user import B3os
from tl_orchestration.sandbox import SandboxServer


@pytest.fixture
def b3os(server: SandboxServer) -> Iterator[B3os]:
    server.store.reset()
    b3os = B3os(server)
    yield b3os
    b3os.close()
