"""
Thousands of made-up key names against a receiver: what they cost the service, and whom they keep from it.

500 names by default; 10,000 with SOAK=1.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable

import httpx

from tests.remote import Remote
from tests.webhooks import HEADER, b64
from tests.wire.webhooks.conftest import serving
from tl_orchestration.sandbox import SandboxServer
from tl_orchestration.webhooks.inbox import Inbox
from tl_orchestration.webhooks.keys import FetchedKeys

NAMES = 10_000 if os.environ.get("SOAK") else 500
#: One genuine delivery to so many others, and so many of both at once.
SHARE = 10
AT_ONCE = 20
PATH = "/webhooks/transactionlink"
KEY_REQUESTS = "GET /auth/webhooks/key/{kid}"


def test_random_kids(
    inbox: Inbox, remote: Remote, sandbox_server: SandboxServer, fetching: Callable[[str], FetchedKeys]
) -> None:
    """They cost two key requests a minute at most, none is taken, and every delivery under the known key is."""
    remote.rotate_webhook_key()
    asked, began = remote.count(KEY_REQUESTS), time.monotonic()
    with serving(inbox, fetching(remote.url)) as url:
        answers = asyncio.run(_flood(url, sandbox_server))
    minutes = 1 + int((time.monotonic() - began) // 60)
    genuine = NAMES // SHARE
    assert sorted(answers) == [204] * genuine + [401] * NAMES
    assert 1 <= remote.count(KEY_REQUESTS) - asked <= 2 * minutes
    assert len({hint.execution_id for hint in inbox.latest(2 * genuine)}) == genuine


async def _flood(url: str, sandbox: SandboxServer) -> list[int]:
    numbers = iter(range(NAMES + NAMES // SHARE))
    answers: list[int] = []

    async def send(number: int) -> None:
        body = json.dumps({"workflowId": f"e{number}"}).encode()
        value = made_up() if number % (SHARE + 1) else sandbox.store.webhook_keys.sign(body)
        answers.append((await http.post(PATH, content=body, headers={"JWS-SIGNATURE": value})).status_code)

    async def one_of_many() -> None:
        for number in numbers:
            await send(number)

    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
        await send(next(numbers))  # from then on the key is known
        await asyncio.gather(*(one_of_many() for _ in range(AT_ONCE)))
    return answers


def made_up() -> str:
    """A token in the right form under a name that nobody has."""
    header = json.dumps({**HEADER, "kid": str(uuid.uuid4())}).encode()
    return f"{b64(header)}..{b64(os.urandom(256))}"
