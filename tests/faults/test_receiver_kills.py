"""
A receiver that is killed while deliveries come: whatever it has acknowledged is in the inbox.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.postgres import Postgres
from tests.webhooks import KEY, KID, pem_of, token
from tl_orchestration.webhooks.inbox import Inbox

ROUNDS = 10 if os.environ.get("SOAK") else 2
SENDERS = 4
#: Acknowledged deliveries before the kill, so that it strikes among others.
LEAST = 20


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def inbox_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An inbox in each database."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path / 'inbox.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.ready_database()


@contextmanager
def serving(inbox_url: str, keys: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`tl webhooks serve` and its URL."""
    command = [sys.executable, "-m", "tl_orchestration.cli", "webhooks", "serve", "--port", "0", "--keys", str(keys)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRANSACTIONLINK_")}
    environment["TRANSACTIONLINK_LEDGER_URL"] = inbox_url
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", told)
            assert found is not None, told
            yield process, found[0]
        finally:
            process.kill()


def test_acknowledged_is_kept(inbox_url: str, tmp_path: Path) -> None:
    """However often it is killed, no delivery that was answered 204 is lost, and the vendor's next try is taken."""
    (tmp_path / f"{KID}.pem").write_text(pem_of(KEY))
    acknowledged: set[str] = set()
    cut_off: set[str] = set()
    numbers = iter(range(10**6))
    for _ in range(ROUNDS):
        with serving(inbox_url, tmp_path) as (process, url):
            goal = len(acknowledged) + LEAST + random.randrange(50)
            enough = threading.Event()

            def send(url: str = url, goal: int = goal, enough: threading.Event = enough) -> None:
                with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
                    while True:
                        name = f"e{next(numbers)}"
                        try:
                            status = deliver(http, name)
                        except httpx.TransportError:
                            cut_off.add(name)
                            enough.set()
                            return
                        assert status == 204
                        acknowledged.add(name)
                        if len(acknowledged) >= goal:
                            enough.set()

            with ThreadPoolExecutor(SENDERS) as threads:
                senders = [threads.submit(send) for _ in range(SENDERS)]
                assert enough.wait(120)
                process.kill()
            for sender in senders:
                sender.result()
    with serving(inbox_url, tmp_path) as (_, url), httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        assert {deliver(http, name) for name in cut_off} == {204}
    inbox = Inbox(inbox_url)
    assert {hint.execution_id for hint in inbox.latest(100_000)} == acknowledged | cut_off
    inbox.close()


def deliver(http: httpx.Client, name: str) -> int:
    """Deliver a webhook about an execution. Returns the status."""
    body = json.dumps({"workflowId": name}).encode()
    answer = http.post("/webhooks/transactionlink", content=body, headers={"JWS-SIGNATURE": token(body=body)})
    return answer.status_code
