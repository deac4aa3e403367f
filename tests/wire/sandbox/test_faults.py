"""
Faults of the current API, on order.
"""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.wire.sandbox.users import NOBODY, Sandbox, assert_refused, wait_until
from tl_orchestration.sandbox import create_app
from tl_orchestration.sandbox.faults import Fault


class TestFaults:
    def test_status(self, sandbox: Sandbox) -> None:
        """A status fault answers with headers and the error body, commits nothing and is used up."""
        sandbox.order({"on": "start", "kind": "status", "status": 429, "headers": {"Retry-After": "3"}, "times": 2})
        for _ in range(2):
            answer = sandbox.post_start()
            assert_refused(answer, 429)
            assert answer.headers["retry-after"] == "3"
        assert sandbox.server.store.starts == []
        assert sandbox.post_start().status_code == 200
        assert sandbox.server.store.requests == {"POST /workflows": 3}

    def test_status_with_a_body(self, sandbox: Sandbox) -> None:
        """A status fault may answer as a gateway does; it comes before the credential is looked at."""
        sandbox.order({"on": "start", "kind": "status", "status": 502, "body": "<h1>é", "content_type": "text/html"})
        sandbox.http.headers["authorization"] = "wrong"
        answer = sandbox.post_start()
        assert answer.status_code == 502
        assert answer.headers["content-type"] == "text/html"
        assert answer.content == "<h1>é".encode()

    @pytest.mark.parametrize(("status", "body"), [(204, b""), (599, None), (200, b"{broken")])
    def test_odd_statuses(self, sandbox: Sandbox, status: int, body: bytes | None) -> None:
        """Also an answer without a body, one with an unheard-of status, and a broken one with 200."""
        given = {"body": body.decode()} if body else {}
        sandbox.order({"on": "start", "kind": "status", "status": status, **given})
        answer = sandbox.post_start()
        assert answer.status_code == status
        assert body is None or answer.content == body

    @pytest.mark.parametrize(("kind", "committed"), [("drop", 0), ("lose", 1)])
    def test_no_answer_to_a_start(self, sandbox: Sandbox, kind: str, committed: int) -> None:
        """drop closes the connection before the commit, lose after it; the next request is answered."""
        sandbox.order({"on": "start", "kind": kind})
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            sandbox.post_start()
        assert len(sandbox.server.store.starts) == committed
        assert sandbox.post_start().status_code == 200
        assert len(sandbox.control("GET", "/starts").json()) == committed + 1

    @pytest.mark.parametrize(("kind", "committed"), [("drop", 0), ("lose", 1)])
    def test_closed_without_a_byte(self, sandbox: Sandbox, kind: str, committed: int) -> None:
        """On the wire: the connection ends quickly, and not one byte was sent before."""
        sandbox.order({"on": "start", "kind": kind})
        body = b'{"workflowDefinitionId": "kyc-approve", "locale": "en", "parameters": {}}'
        head = (
            b"POST /workflows HTTP/1.1\r\nHost: sandbox\r\nAuthorization: tot_sandbox\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        address = urlsplit(sandbox.server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(head)
            time.sleep(0.05)
            connection.sendall(body)
            assert connection.recv(1) == b""
        assert len(sandbox.server.store.starts) == committed

    def test_lost_cancel(self, sandbox: Sandbox) -> None:
        """A lost cancel has cancelled, a dropped one has not."""
        execution = sandbox.start("kyc-slow")
        sandbox.order({"on": "cancel", "kind": "drop"}, {"on": "cancel", "kind": "lose"})
        with pytest.raises(httpx.RemoteProtocolError):
            sandbox.cancel(execution)
        assert sandbox.status(execution) == "RUNNING"
        with pytest.raises(httpx.RemoteProtocolError):
            sandbox.cancel(execution)
        assert sandbox.status(execution) == "CANCELLED"

    def test_lost_refusal(self, sandbox: Sandbox) -> None:
        """A fault also strikes a request that would have been refused, which commits nothing."""
        sandbox.order({"on": "start", "kind": "lose"})
        with pytest.raises(httpx.RemoteProtocolError):
            sandbox.post_start(locale=None)
        assert sandbox.server.store.starts == []

    def test_hold(self, sandbox: Sandbox, let_go: threading.Event) -> None:
        """A held start is committed at once, though its answer comes later."""
        sandbox.order({"on": "start", "kind": "hold", "seconds": 0.3})
        began = time.monotonic()
        assert sandbox.post_start().status_code == 200
        assert time.monotonic() - began >= 0.3
        sandbox.order({"on": "start", "kind": "hold", "seconds": 25})
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(sandbox.post_start)
            wait_until(lambda: len(sandbox.server.store.starts) == 2)
            assert not answer.done()
            let_go.set()
            assert answer.result().status_code == 200

    def test_hold_past_the_client(self, sandbox: Sandbox) -> None:
        """A client that gives up on a held start has started an execution."""
        sandbox.order({"on": "start", "kind": "hold", "seconds": 60})
        with pytest.raises(httpx.ReadTimeout):
            sandbox.http.post(
                "/workflows",
                json={"workflowDefinitionId": "kyc-slow", "locale": "en"},
                timeout=httpx.Timeout(30, read=0.1),
            )
        wait_until(lambda: bool(sandbox.server.store.starts))
        assert [start.definition for start in sandbox.server.store.starts] == ["kyc-slow"]

    def test_strikes_its_step_and_definition_only(self, sandbox: Sandbox) -> None:
        """A fault leaves other steps and other definitions alone, and faults keep their order."""
        slow, fast = sandbox.start("kyc-slow"), sandbox.start("kyc-approve")
        sandbox.advance(1)
        sandbox.order(
            {"on": "status", "kind": "status", "status": 500, "definition": "kyc-slow"},
            {"on": "status", "kind": "status", "status": 503, "definition": "kyc-slow"},
            {"on": "result", "kind": "status", "status": 504},
            {"on": "start", "kind": "status", "status": 418, "definition": "kyc-fail"},
        )
        assert sandbox.get(fast).status_code == 200
        assert sandbox.get({"id": NOBODY}).status_code == 404
        assert [sandbox.get(slow).status_code for _ in range(3)] == [500, 503, 200]
        assert [sandbox.result(fast).status_code for _ in range(2)] == [504, 200]
        assert sandbox.http.post("/workflows", content=b"{").status_code == 400
        assert [sandbox.post_start(d).status_code for d in ("kyc-slow", "kyc-fail", "kyc-fail")] == [
            200,
            418,
            200,
        ]
        assert sandbox.server.store.faults.pending == []

    def test_one_alone_and_none(self, sandbox: Sandbox) -> None:
        """One fault may be posted without a list, and DELETE forgets them all."""
        fault = {"on": "start", "kind": "drop", "times": 9}
        assert sandbox.control("POST", "/faults", fault).json()[0]["times"] == 9
        assert sandbox.control("DELETE", "/faults").json() == []
        assert sandbox.post_start().status_code == 200

    def test_from_python(self, sandbox: Sandbox) -> None:
        """Faults can be ordered from the same process, through the store."""
        sandbox.server.store.faults.add(Fault(on="start", kind="status", status=503))
        assert_refused(sandbox.post_start(), 503)

    def test_other_servers_cannot_drop(self) -> None:
        """Where the server cannot close a connection, faults that need it are refused when ordered."""

        async def order(kind: str) -> httpx.Response:
            transport = httpx.ASGITransport(create_app())
            async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as http:
                fault = {"on": "start", "kind": kind, "seconds": 0 if kind == "hold" else None}
                return await http.post("/_sandbox/faults", json=fault)

        assert asyncio.run(order("lose")).status_code == 501
        assert asyncio.run(order("hold")).status_code == 201
