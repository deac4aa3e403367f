"""
What proof and durability cost: deliveries per second and their 99th percentile, for the receiver with an inbox in
SQLite and in PostgreSQL, beside an application that reads the body and answers.

All are behind the same server, each in a process of its own, and get the same signed deliveries over the same number of
connections, one run after the other; look at ratios. ``python -m benchmarks.receiver [DELIVERIES]``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tests.postgres import running
from tl_orchestration.webhooks.inbox import Inbox

CONNECTIONS = 50
DELIVERIES = 4000
_KID = str(uuid.uuid4())
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_ROUNDS = 3


@frozen
class Found:
    """
    Deliveries per second, percentiles in milliseconds, and how many were not answered 204.
    """

    per_second: float
    p50: float
    p99: float
    failed: int


def signed(count: int, folder: Path) -> list[bytes]:
    """
    Requests with a genuine delivery each; the key is left in the folder, for pinning.
    """
    key = rsa.generate_private_key(65537, 2048)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / f"{_KID}.pem").write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    header = _encoded(json.dumps({"alg": "RS256", "kid": _KID, "typ": "JWT"}).encode())
    requests = []
    for _ in range(count):
        body = json.dumps({"workflowId": str(uuid.uuid4()), "type": "WORKFLOW_COMPLETED"}).encode()
        signature = key.sign(f"{header}.{_encoded(body)}".encode(), padding.PKCS1v15(), SHA256())
        head = (
            "POST /webhooks/transactionlink HTTP/1.1\r\nHost: receiver\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nJWS-SIGNATURE: {header}..{_encoded(signature)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    return requests


@contextmanager
def serving(database: str | None, keys: Path) -> Iterator[str]:
    """
    A server in a process of its own, without a database the bare application; gives its URL.
    """
    command = [sys.executable, "-m", "benchmarks.receiver_server", database or "-", str(keys)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


async def load(url: str, requests: list[bytes]) -> Found:
    """
    Send all of them, each connection one after the other.
    """
    waiting = iter(requests)
    seconds: list[float] = []
    failed = 0

    async def deliver() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        for request in waiting:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            seconds.append(time.perf_counter() - began)
            failed += not head.startswith(b"HTTP/1.1 204")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(deliver() for _ in range(CONNECTIONS)))
    took = time.perf_counter() - began
    seconds.sort()
    return Found(
        len(seconds) / took, 1000 * seconds[len(seconds) // 2], 1000 * seconds[int(len(seconds) * 0.99)], failed
    )


def measure(database: str | None, requests: list[bytes], keys: Path) -> Found:
    """
    One run, after a few requests that warm up.
    """
    with serving(database, keys) as url:
        asyncio.run(load(url, requests[:CONNECTIONS]))
        return asyncio.run(load(url, requests[CONNECTIONS:]))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main() -> None:
    """
    Print the table.
    """
    count = int(sys.argv[1]) if len(sys.argv) > 1 else DELIVERIES
    with tempfile.TemporaryDirectory() as name, running(**_DURABLE) as postgres:
        folder = Path(name)
        requests = signed(count, folder)
        print(f"\n{count} deliveries over {CONNECTIONS} connections, every 204 of an inbox durable (fsync)")
        print(f"  {'':28s} ratio  per second   p50 ms   p99 ms  failed")
        for turn in range(_ROUNDS):
            databases = {
                "bare starlette": None,
                "receiver, SQLite": f"sqlite:///{folder / f'inbox{turn}.db'}",
                "receiver, PostgreSQL": postgres.ready_database(),
            }
            bare: Found | None = None
            for title, database in databases.items():
                found = measure(database, requests, folder)
                bare = bare or found
                print(
                    f"  {title:28s}{found.per_second / bare.per_second:6.2f}{found.per_second:12,.0f}"
                    f"{found.p50:9.1f}{found.p99:9.1f}{found.failed:8d}",
                    flush=True,
                )
                if database is not None:
                    inbox = Inbox(database)
                    kept = len({hint.execution_id for hint in inbox.latest(2 * count)})
                    inbox.close()
                    assert kept == count, f"{kept} of {count} deliveries were kept"


if __name__ == "__main__":
    main()
