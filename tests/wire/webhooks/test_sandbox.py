"""The sandbox's webhooks: what it sends, when, and how its levers change that."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.remote import Remote
from tests.wire.webhooks.conftest import until
from tl_orchestration.sandbox import SandboxServer, SandboxSettings
from tl_orchestration.webhooks.announcement import announcement

SECRET = "whsec_planted"


class Listener:
    """Takes whatever is delivered, and answers as it is told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 204
        self.taken: list[tuple[dict[str, str], bytes]] = []

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The bodies."""
        return [json.loads(body) for _, body in self.taken]


@contextmanager
def listening() -> Iterator[Listener]:
    """A plain HTTP server in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taker.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(taker.status)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 -- its name in the base class
            """Nothing is logged."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        taker = Listener(f"http://127.0.0.1:{server.server_port}/hook")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield taker
        server.shutdown()
        thread.join(10)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Somebody who takes webhooks."""
    with listening() as one:
        yield one


def start(remote: Remote, definition: str) -> str:
    """Start an execution. Returns its id."""
    headers = {"Authorization": "tot_sandbox"}
    answer = httpx.post(
        f"{remote.url}/workflows",
        json={"workflowDefinitionId": definition, "parameters": {}, "locale": "en"},
        headers=headers,
        trust_env=False,
    )
    return str(answer.raise_for_status().json()["id"])


def test_completion(remote: Remote, listener: Listener) -> None:
    """An ending is announced once, when it has come, in the form that the documentation suggests."""
    remote.deliver_to({"url": listener.url})
    execution_id = start(remote, "kyc-slow")
    remote.advance(599)
    assert remote.deliveries() == []
    remote.advance(2)
    until(lambda: remote.deliveries())
    ((headers, body),) = listener.taken
    assert json.loads(body) == {"workflowId": execution_id, "referenceName": "kyc-slow", "type": "WORKFLOW_COMPLETED"}
    assert headers["jws-signature"].count("..") == 1
    (attempt,) = remote.deliveries()
    assert (attempt["execution_id"], attempt["status"], attempt["forged"]) == (execution_id, 204, None)


def test_awaiting(remote: Remote, sandbox_server: SandboxServer, listener: Listener) -> None:
    """Where a person decides, that is announced as well, before the ending."""
    remote.define("review", like="kyc-review", duration=60)
    remote.deliver_to({"url": listener.url})
    execution = sandbox_server.store.find(start(remote, "review"))
    assert execution.token is not None
    sandbox_server.store.decide(execution.token, "approve")
    until(lambda: listener.taken)
    remote.advance(61)
    until(lambda: len(listener.taken) == 2)
    assert [one["type"] for one in listener.documents] == ["WORKFLOW_AWAITING", "WORKFLOW_COMPLETED"]


@pytest.mark.parametrize("nesting", ["top", "data", "payload"])
@pytest.mark.parametrize("name", ["workflowId", "workflowExecutionId", "executionId", "id"])
def test_variants(remote: Remote, listener: Listener, name: str, nesting: str) -> None:
    """Whatever the payload looks like, a receiver finds the execution in it."""
    remote.vary(webhook_id=name, webhook_nesting=nesting)
    remote.deliver_to({"url": listener.url})
    execution_id = start(remote, "kyc-slow")
    remote.force(execution_id, status="FAILED")
    until(lambda: listener.taken)
    assert announcement(listener.taken[0][1], "transactionlink").execution_id == execution_id


def test_b3os(remote: Remote, sandbox_server: SandboxServer, listener: Listener) -> None:
    """B3OS's executions go to B3OS's targets, in its form, and others do not."""
    remote.deliver_to({"url": listener.url, "service": "b3os", "secret": SECRET})
    start(remote, "kyc-approve")
    execution = sandbox_server.store.start("kyc-fail", parameters={}, service="b3os")
    remote.advance(5)
    until(lambda: listener.taken)
    ((headers, _),) = listener.taken
    assert len(headers["x-b3os-signature"]) == 64
    assert listener.documents[0]["eventType"] == "run.failed"
    assert listener.documents[0]["executionId"] == execution.id


def test_copies_drops_and_replay(remote: Remote, listener: Listener) -> None:
    """Deliveries are doubled or dropped on demand, and those that were sent can be sent again, byte for byte."""
    remote.define("often", like="kyc-approve", webhooks={"copies": 3})
    remote.define("never", like="kyc-approve", webhooks={"drop": 1})
    remote.deliver_to({"url": listener.url})
    start(remote, "often")
    start(remote, "never")
    remote.advance(5)
    until(lambda: len(listener.taken) == 3)
    assert remote.replay() == 1
    until(lambda: len(listener.taken) == 4)
    assert len(set(map(str, listener.taken))) == 1


def test_file(tmp_path: Path, listener: Listener) -> None:
    """A TOML file sets targets, retries and what happens on the way."""
    path = tmp_path / "sandbox.toml"
    path.write_text(
        f'webhook_interval = 0.05\nwebhook_retries = 2\n[[webhooks]]\nurl = "{listener.url}"\n'
        "[definitions.kyc-approve]\nduration = 0\n[definitions.kyc-approve.webhooks]\ndelay = 0.1\n"
    )
    listener.status = 500
    with SandboxServer(SandboxSettings.from_toml(path)) as server:
        server.store.start("kyc-approve", parameters={})
        until(lambda: len(server.store.courier.attempts) == 3 and server.store.courier.waiting == 0)
    assert [attempt.status for attempt in server.store.courier.attempts] == [500, 500, 500]


@pytest.mark.parametrize(
    "targets",
    [
        {"url": "http://x"},
        ["http://x"],
        [{}],
        [{"url": "ftp://x"}],
        [{"url": "http://x", "secret": "PLANTED"}],
        [{"url": "http://x", "service": "b3os"}],
        [{"url": "http://x", "service": "other"}],
        [{"url": "http://x", "what": 1}],
    ],
)
def test_wrong_targets(remote: Remote, targets: Any) -> None:
    """What cannot be a target is refused with a sentence, which quotes no secret."""
    answer = httpx.put(f"{remote.url}/_sandbox/webhooks", json=targets, trust_env=False)
    assert answer.status_code == 400
    assert "PLANTED" not in answer.text


@pytest.mark.parametrize(
    "script", [{"copies": 0}, {"copies": True}, {"drop": 2}, {"delay": -1}, {"forge": "x"}, {"what": 1}, 7]
)
def test_wrong_scripts(remote: Remote, script: Any) -> None:
    """What cannot happen on the way is refused with a sentence."""
    answer = httpx.put(f"{remote.url}/_sandbox/definitions/x", json={"webhooks": script}, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["error"]
