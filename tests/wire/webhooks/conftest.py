"""
Receivers on sockets of this machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tl_orchestration.secret import Secret
from tl_orchestration.webhooks.inbox import Inbox
from tl_orchestration.webhooks.keys import FetchedKeys, Keys
from tl_orchestration.webhooks.public_key import KeyServer
from tl_orchestration.webhooks.receiver import Receiver
from tl_orchestration.webhooks.server import listening, server
from tl_orchestration.webhooks.signatures import HmacVerifier, JwsVerifier

SECRET = "whsec_planted"


@contextmanager
def serving(inbox: Inbox, keys: Keys) -> Iterator[str]:
    """A receiver in a thread; gives its URL."""
    receiver = Receiver(inbox, [JwsVerifier(keys), HmacVerifier([Secret(SECRET)])])
    listener = listening("127.0.0.1", 0)
    one = server(receiver.app)
    thread = threading.Thread(target=lambda: one.run(sockets=[listener]))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        one.should_exit = True
        thread.join(60)
        receiver.close()
        assert not thread.is_alive()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return when the condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.02)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An inbox in a file."""
    one = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}")
    yield one
    one.close()


@pytest.fixture
def fetching(request: pytest.FixtureRequest) -> Iterator[Callable[[str], FetchedKeys]]:
    """Makes keys that are fetched from a URL."""
    made: list[FetchedKeys] = []

    def make(url: str) -> FetchedKeys:
        made.append(FetchedKeys(KeyServer(url).fetch))
        return made[-1]

    yield make
    for one in made:
        one.close()
