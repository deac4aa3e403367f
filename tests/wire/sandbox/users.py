"""
Users of a running sandbox.
"""

import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tl_orchestration.sandbox import SandboxServer, SandboxSettings

NOW = 1_790_000_000.25
DATE = "2026-09-21T14:13:20.250000Z"
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NOBODY = "00000000-0000-4000-8000-000000000000"
JSON_TYPE = "application/json;charset=UTF-8"
# A client makes a TLS context even for plain http, which takes longer than most of these tests.
UNUSED_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Sandbox:
    """A user of a running sandbox: says the endpoints' names, and nothing about what to expect."""

    def __init__(self, server: SandboxServer, credential: str | None = "tot_sandbox") -> None:
        headers = {} if credential is None else {"authorization": credential}
        self.server = server
        self.http = httpx.Client(base_url=server.url, headers=headers, trust_env=False, verify=UNUSED_TLS, timeout=30)

    def post_start(self, definition: str = "kyc-approve", **fields: Any) -> httpx.Response:
        body = {"workflowDefinitionId": definition, "locale": "en", "parameters": {}, **fields}
        return self.http.post("/workflows", json=body)

    def start(self, definition: str = "kyc-approve", **fields: Any) -> dict[str, Any]:
        answer = self.post_start(definition, **fields)
        assert answer.status_code == 200, answer.text
        return _object(answer)

    def get(self, execution: dict[str, Any]) -> httpx.Response:
        return self.http.get(f"/workflows/{execution['id']}")

    def status(self, execution: dict[str, Any]) -> str:
        return str(self.get(execution).json()["status"])

    def result(self, execution: dict[str, Any]) -> httpx.Response:
        return self.http.get(f"/workflows/{execution['id']}/result")

    def cancel(self, execution: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"/workflows/{execution['id']}/cancel")

    def decide(self, execution: dict[str, Any], decision: str) -> httpx.Response:
        return self.http.post("/hosted", data={"token": execution["token"], "decision": decision})

    def control(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.http.request(method, f"/_sandbox{path}", json=body, headers={"authorization": ""})

    def advance(self, seconds: float) -> None:
        assert self.control("POST", "/advance", {"seconds": seconds}).status_code == 200

    def order(self, *faults: dict[str, Any]) -> None:
        answer = self.control("POST", "/faults", list(faults))
        assert answer.status_code == 201, answer.text

    def change(self, name: str, **fields: Any) -> None:
        answer = self.control("PATCH", f"/definitions/{name}", fields)
        assert answer.status_code == 200, answer.text


def _object(answer: httpx.Response) -> dict[str, Any]:
    value = answer.json()
    assert isinstance(value, dict)
    return value


@contextmanager
def running(credential: str | None = "tot_sandbox", **settings: Any) -> Iterator[Sandbox]:
    """A sandbox of one's own, for what cannot be reset."""
    with SandboxServer(SandboxSettings(**{"clock": lambda: NOW, "seed": 7, **settings})) as server:
        sandbox = Sandbox(server, credential)
        with sandbox.http:
            yield sandbox


def at(**since_now: float) -> str:
    """The time so long after the sandbox's now, as a client would write it."""
    moment = datetime.fromtimestamp(NOW, UTC) + timedelta(**since_now)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def assert_refused(answer: httpx.Response, status: int) -> str:
    """The answer is an ErrorResponse with this status. Returns its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON_TYPE
    body = answer.json()
    assert set(body) == {"fingerprint", "errors"}
    assert isinstance(body["fingerprint"], str)
    assert body["fingerprint"]
    (error,) = body["errors"]
    assert set(error) == {"code", "message"}
    assert error["code"].startswith("SANDBOX_")
    return str(error["message"])


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something holds; fail if it does not in so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
