"""
Clients of both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.remote import Remote
from tests.wire.doors import Door, door

OpenDoor = Callable[..., Door]


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """
    Which client.
    """
    return str(request.param)


@pytest.fixture
def open_door(kind: str) -> Iterator[OpenDoor]:
    """
    Makes clients of the kind, for any address, and closes them.
    """
    opened: list[Door] = []

    def make(url: str, *arguments: Any, **options: Any) -> Door:
        opened.append(door(kind, url, *arguments, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def client(remote: Remote, open_door: OpenDoor) -> Door:
    """
    A client of the sandbox, without a ledger.
    """
    return open_door(remote.url)
