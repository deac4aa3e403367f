"""The receiver over sockets: what it says, and what it costs to be rude to it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.unit.webhooks.test_signatures import ATTACKS
from tests.webhooks import BODY, ID, KEY, KID, delivery, pem_of, token
from tests.wire.webhooks.conftest import SECRET, serving, until
from tl_orchestration.errors import LedgerError
from tl_orchestration.webhooks import receiver as module
from tl_orchestration.webhooks import server as server_module
from tl_orchestration.webhooks.inbox import Arrival, Inbox
from tl_orchestration.webhooks.keys import PinnedKeys
from tl_orchestration.webhooks.receiver import LARGEST_BODY, Receiver
from tl_orchestration.webhooks.signatures import JwsVerifier

PINNED = PinnedKeys({KID: pem_of(KEY)})
PATH = "/webhooks/transactionlink"


@pytest.fixture
def http(inbox: Inbox) -> Iterator[httpx.Client]:
    """A client of a receiver."""
    with serving(inbox, PINNED) as url, httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
        yield client


def connected(http: httpx.Client) -> socket.socket:
    """A bare connection to the same receiver."""
    return socket.create_connection(("127.0.0.1", http.base_url.port or 0), timeout=20)


def ended(connection: socket.socket) -> bytes:
    """What still comes, until the other side has closed it."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1000):
            received += piece
    return received


def deliver(http: httpx.Client, body: bytes = BODY, value: str | None = None) -> int:
    """Send a delivery. Returns the status."""
    return http.post(PATH, content=body, headers={"JWS-SIGNATURE": value or token(body=body)}).status_code


def genuine_request(body: bytes = BODY) -> bytes:
    """A delivery as bytes on a connection."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nJWS-SIGNATURE: {token(body=body)}\r\n\r\n"
    )
    return head.encode() + body


class TestAnswers:
    def test_taken(self, http: httpx.Client, inbox: Inbox) -> None:
        """A genuine delivery is answered 204 and is in the inbox by then."""
        assert deliver(http) == 204
        (hint,) = inbox.since()[0]
        assert (hint.execution_id, hint.kind, hint.service) == (ID, "WORKFLOW_COMPLETED", "transactionlink")

    def test_redelivery(self, http: httpx.Client, inbox: Inbox) -> None:
        """The same delivery again is acknowledged and kept once (or twice, where a minute has ended in between)."""
        assert {deliver(http) for _ in range(5)} == {204}
        assert len(inbox.since()[0]) <= 2

    def test_b3os(self, http: httpx.Client, inbox: Inbox) -> None:
        """B3OS has a path of its own, and each path takes only its own signatures."""
        body = b'{"eventType": "run.completed", "executionId": "exec_1", "runId": "run_1", "workflowId": "wf_1"}'
        signature = {"x-b3os-signature": hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}
        assert http.post("/webhooks/b3os", content=body, headers=signature).status_code == 204
        assert http.post(PATH, content=body, headers=signature).status_code == 401
        assert http.post("/webhooks/b3os", content=BODY, headers={"JWS-SIGNATURE": token()}).status_code == 401
        assert [hint.execution_id for hint in inbox.since()[0]] == ["exec_1"]

    def test_unreadable_is_acknowledged_and_kept_aside(self, http: httpx.Client, inbox: Inbox) -> None:
        """What is genuine and not understood is acknowledged, so that it does not come again and again."""
        assert deliver(http, b"\xff not JSON") == 204
        assert [hint.execution_id for hint in inbox.since()[0]] == [""]

    def test_every_refusal_is_the_same(
        self, http: httpx.Client, inbox: Inbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each attack that HTTP can carry gets the same bytes, nothing is kept, and no log line has a piece of it."""
        seen, sent = set(), 0
        with caplog.at_level(logging.DEBUG):
            for make in ATTACKS.values():
                one = make()
                headers = [(name.encode(), value.encode("latin-1", "ignore")) for name, value in one.headers]
                if (
                    any(byte in value for _, value in headers for byte in b"\r\n\0")
                    or sum(len(value) for _, value in headers) > 16_000
                ):
                    continue
                answer = http.post(PATH, content=one.body, headers=headers)
                kept = {name: value for name, value in answer.headers.items() if name != "date"}
                seen.add((answer.status_code, answer.content, tuple(sorted(kept.items()))))
                sent += 1
        assert sent >= 60
        assert len(seen) == 1
        assert next(iter(seen))[0] == 401
        assert inbox.since()[0] == []
        assert not [text for text in (KID, ID, "eyJ", "evil") if text in _ours(caplog.records)]

    def test_in_chunks(self, http: httpx.Client, inbox: Inbox) -> None:
        """A proxy may send the same bytes in chunks of its own, without telling how many there are."""
        pieces = (BODY[first : first + 7] for first in range(0, len(BODY), 7))
        assert http.post(PATH, content=pieces, headers={"JWS-SIGNATURE": token()}).status_code == 204
        assert [hint.execution_id for hint in inbox.since()[0]] == [ID]

    def test_compressed_is_refused(self, http: httpx.Client) -> None:
        """A body in another encoding is refused before its signature is looked at."""
        headers = {"JWS-SIGNATURE": token(), "Content-Encoding": "gzip"}
        assert http.post(PATH, content=BODY, headers=headers).status_code == 415

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", PATH, 405),
            ("PUT", PATH, 405),
            ("POST", "/webhooks/other", 404),
            ("POST", "/webhooks", 404),
            ("POST", PATH + "/", 404),
            ("GET", "/", 404),
        ],
    )
    def test_other_requests(self, http: httpx.Client, method: str, path: str, status: int) -> None:
        """There is nothing else to be had here."""
        assert http.request(method, path, content=b"" if method == "GET" else BODY).status_code == status

    def test_health(self, http: httpx.Client, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """Health is that rows can be inserted."""
        assert http.get("/healthz").json() == {"status": "ok"}

        def cannot() -> bool:
            raise LedgerError("The database is down.")

        monkeypatch.setattr(inbox, "can_put", cannot)
        until(lambda: http.get("/healthz").status_code == 503)

    def test_not_durable_is_not_acknowledged(
        self, http: httpx.Client, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """While the database is down the answer is 503, so that it is delivered again, and then it is taken."""

        def fails(arrivals: Iterable[Arrival]) -> None:
            raise LedgerError("The database is down.")

        with monkeypatch.context() as patch:
            patch.setattr(inbox, "put", fails)
            assert deliver(http) == 503
        assert "could not be kept" in caplog.text
        assert inbox.since()[0] == []
        assert deliver(http) == 204

    def test_slow_commit_is_answered_in_time(
        self, http: httpx.Client, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A commit that takes too long is answered 503 within the sender's patience."""
        let_go = threading.Event()
        put = inbox.put

        def held(arrivals: Iterable[Arrival]) -> None:
            let_go.wait(20)
            put(arrivals)

        monkeypatch.setattr(module, "LONGEST_ANSWER", 0.3)
        monkeypatch.setattr(inbox, "put", held)
        assert deliver(http) == 503
        let_go.set()
        until(lambda: inbox.since()[0])

    def test_forwarded_headers_do_not_matter(self, http: httpx.Client, inbox: Inbox) -> None:
        """Behind a proxy nothing is read out of what it adds."""
        headers = {"JWS-SIGNATURE": token(), "X-Forwarded-For": "evil", "X-Forwarded-Host": "evil", "Forwarded": "x"}
        assert http.post(PATH, content=BODY, headers=headers).status_code == 204

    def test_below_another_application(self, inbox: Inbox) -> None:
        """It can be mounted below a path of somebody else's application."""
        receiver = Receiver(inbox, [JwsVerifier(PINNED)])
        outer = Starlette(routes=[Mount("/kyc", receiver.app)])

        async def main() -> tuple[int, int]:
            transport = httpx.ASGITransport(outer)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                taken = await client.post(f"/kyc{PATH}", content=BODY, headers={"JWS-SIGNATURE": token()})
                return taken.status_code, (await client.get("/kyc/healthz")).status_code

        assert asyncio.run(main()) == (204, 200)
        receiver.close()


class TestRudeness:
    def test_declared_oversize(self, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """A body that says that it is too large is refused without being read, and without any cryptography."""
        monkeypatch.setattr(JwsVerifier, "begin", None)
        with connected(http) as one:
            one.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**7}\r\n\r\n".encode())
            assert one.recv(100).startswith(b"HTTP/1.1 413")
        assert http.get("/healthz").status_code == 200

    def test_endless_chunks(self, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """A body without end is cut off at the bound, without any cryptography."""
        monkeypatch.setattr(module, "_MOST_BODIES", 10**9)
        monkeypatch.setattr(module, "LONGEST_READ", 60.0)
        monkeypatch.setattr(module, "LONGEST_ANSWER", 60.0)
        monkeypatch.setattr(JwsVerifier, "begin", None)
        chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        with connected(http) as one:
            one.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            sent = 0
            with pytest.raises(OSError):  # noqa: PT012 -- whichever send meets the closed connection
                while sent < 100 * LARGEST_BODY:
                    one.sendall(chunk)
                    sent += len(chunk)
        assert http.get("/healthz").status_code == 200

    def test_largest_body_is_taken(self, http: httpx.Client) -> None:
        """At the bound a body is taken, one byte above it is not."""
        body = b'{"workflowId": "e1", "x": "' + b"a" * (LARGEST_BODY - 29) + b'"}'
        assert len(body) == LARGEST_BODY
        assert deliver(http, body) == 204
        assert http.post(PATH, content=body + b" ").status_code == 413

    def test_slow_body(self, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """A body that drips is given up, and others are answered meanwhile."""
        monkeypatch.setattr(module, "LONGEST_READ", 0.3)
        with connected(http) as one:
            one.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\na".encode())
            assert deliver(http) == 204
            assert one.recv(100).startswith(b"HTTP/1.1 408")

    @pytest.mark.parametrize("sent", [b"", b"POST /webhooks/transact", b"POST / HTTP/1.1\r\nHost: x\r\nX: "])
    def test_slow_head(self, http: httpx.Client, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """A head that drips, or never begins, is given up, and others are answered meanwhile."""
        monkeypatch.setattr(server_module, "LONGEST_HEAD", 0.3)
        with connected(http) as one:
            one.sendall(sent)
            assert deliver(http) == 204
            assert ended(one) == b""

    def test_slow_second_head(self, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """That holds for each request of a connection."""
        monkeypatch.setattr(server_module, "LONGEST_HEAD", 0.3)
        with connected(http) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(1000).startswith(b"HTTP/1.1 200")
            one.sendall(b"GET /hea")
            ended(one)
        assert http.get("/healthz").status_code == 200

    @pytest.mark.parametrize("line", ["POST /webhooks/other", f"PUT {PATH}", "GET /healthz"])
    def test_slow_body_that_nobody_reads(self, http: httpx.Client, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request that is answered without its body cannot keep the connection by letting the body drip."""
        monkeypatch.setattr(server_module, "LONGEST_BODY", 0.5)
        with connected(http) as one:
            one.sendall(f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\na".encode())
            assert one.recv(12).startswith(b"HTTP/1.1 ")
            with pytest.raises(OSError):  # noqa: PT012 -- whichever send meets the closed connection
                for _ in range(200):
                    one.sendall(b"a")
                    time.sleep(0.05)
        assert http.get("/healthz").status_code == 200

    def test_pause_between_requests(self, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy may keep a connection for its next delivery: the bounds are for requests, not for pauses."""
        monkeypatch.setattr(server_module, "LONGEST_HEAD", 1.5)
        monkeypatch.setattr(server_module, "LONGEST_BODY", 1.5)
        first, second = genuine_request(), genuine_request()
        with connected(http) as one:
            one.sendall(first)
            assert one.recv(1000).startswith(b"HTTP/1.1 204")
            time.sleep(2)
            one.sendall(second)
            assert one.recv(1000).startswith(b"HTTP/1.1 204")

    def test_nonsense_after_an_answer(self, http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
        """Bytes that are no HTTP, wherever they come, make neither a traceback nor more than a line of log."""
        broken = [b"nonsense\r\n\r\n"] * 5
        broken += [f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()] * 5
        for first in broken:
            with connected(http) as one:
                one.sendall(first)
                assert one.recv(12) in {b"HTTP/1.1 400", b"HTTP/1.1 405"}
                with contextlib.suppress(OSError):
                    one.sendall(b"no chunk\r\n")
                ended(one)
        assert not [record for record in caplog.records if record.levelno > logging.WARNING]
        assert len([record for record in caplog.records if "Invalid HTTP" in record.message]) <= 1

    def test_bodies_count_until_they_are_verified(self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """While a key is waited for, its bodies count among those in memory, and what is too much is turned away."""
        monkeypatch.setattr(module, "_MOST_BODIES", 1000)
        waiting: Future[RSAPublicKey] = Future()

        class Slow:
            def lookup(self, kid: str) -> Future[RSAPublicKey]:
                return waiting

        body = b'{"workflowId": "e1", "x": "' + b"a" * 600 + b'"}'
        with serving(inbox, Slow()) as url, httpx.Client(base_url=url, trust_env=False, timeout=20) as http:
            with connected(http) as one:
                one.sendall(genuine_request(body))
                until(lambda: deliver(http, body) == 503)
                waiting.set_result(KEY.public_key())
                assert one.recv(100).startswith(b"HTTP/1.1 204")
            assert deliver(http, body) == 204

    def test_large_head(self, http: httpx.Client) -> None:
        """A head without end is refused as soon as it is too large."""
        with connected(http) as one:
            one.sendall(b"GET / HTTP/1.1\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 2000)
            assert ended(one).startswith((b"", b"HTTP/1.1 400"))
        assert http.get("/healthz").status_code == 200

    def test_flood(self, http: httpx.Client, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond so many under way the answer is 503 at once, and afterwards everything is as before."""
        let_go = threading.Event()
        put = inbox.put

        def held(arrivals: Iterable[Arrival]) -> None:
            let_go.wait(20)
            put(arrivals)

        monkeypatch.setattr(inbox, "put", held)
        monkeypatch.setattr(module, "MOST_UNDER_WAY", 3)
        held_back = [connected(http) for _ in range(3)]
        for one in held_back:
            one.sendall(genuine_request())
        until(lambda: deliver(http) == 503)
        let_go.set()
        for one in held_back:
            assert one.recv(100).startswith(b"HTTP/1.1 204")
            one.close()
        assert deliver(http) == 204

    def test_many_bodies_are_bounded_together(self, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many bodies at once do not take more memory than so many bytes."""
        monkeypatch.setattr(module, "_MOST_BODIES", 1000)
        with connected(http) as one:
            one.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n".encode() + b"a" * 900)
            until(lambda: deliver(http, BODY + b" " * 500) == 503)
        until(lambda: deliver(http) == 204)


def _ours(records: list[logging.LogRecord]) -> str:
    """What the receiver's process would log: the test's own client is not part of it."""
    return "\n".join(record.getMessage() for record in records if record.name.startswith(("tl_", "uvicorn")))


def test_delivery_shows_nothing() -> None:
    """A delivery in a traceback shows neither body nor signature."""
    shown = repr(delivery(token()))
    assert ID not in shown
    assert "eyJ" not in shown
