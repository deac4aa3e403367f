"""
What a broken network means for a start: certainly nothing, or nobody knows.

The law behind every case: an error says "not sent" only if the server never saw a byte of the request.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.builders import run_request
from tests.wire.conftest import OpenDoor
from tests.wire.doors import QUICK_RETRY
from tests.wire.fault_server import (
    EXECUTION_ID,
    Behaviour,
    FaultServer,
    answer,
    close_read,
    close_unread,
    closed_port,
    hang,
    hang_deaf,
    http,
    reset_read,
    reset_unread,
    then,
    unresponsive_port,
)
from tl_orchestration import Client, OrganizationToken, Settings
from tl_orchestration.errors import InvalidAnswer, NoAnswer, ServerError, StartOutcomeUnknown, TransactionlinkError
from tl_orchestration.ledger import MemoryLedger, State
from tl_orchestration.retry import RetryPolicy

#: The total deadline of one request that nothing else ends, and what an exchange may take beyond it on a busy machine.
DEADLINE = 1.0
SLACK = 10.0
SETTINGS = Settings(request_timeout=DEADLINE, max_answer_bytes=100_000)
#: Where something else ends it.
PATIENT = Settings(max_answer_bytes=100_000)
#: Where it is the connection that does not come about.
UNCONNECTED = Settings(connect_timeout=0.15)
ONCE = RetryPolicy(attempts=1)
POLL = "poll"
RUN = "run"

HTML = http("200 OK", b"<html><body>maintenance</body></html>", content_type="text/html")
BOMB = gzip.compress(b"0" * 50_000_000)

#: After the server may have seen the request: how it behaves, and what that is.
AFTER_SENDING: dict[str, tuple[Behaviour, type[TransactionlinkError]]] = {
    "reset before reading": (reset_unread, NoAnswer),
    "reset after reading": (reset_read, NoAnswer),
    "close before reading": (close_unread, NoAnswer),
    "close without an answer": (close_read, NoAnswer),
    "no answer at all": (hang, NoAnswer),
    "neither read nor answered": (hang_deaf, NoAnswer),
    "100 Continue, then nothing": (then(b"HTTP/1.1 100 Continue\r\n\r\n", "hang"), NoAnswer),
    "garbage instead of a status line": (then(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "close"), NoAnswer),
    "binary garbage": (then(bytes(range(256)), "close"), NoAnswer),
    "half a head": (then(b"HTTP/1.1 200 OK\r\nContent-Type: app", "close"), NoAnswer),
    "2xx and half a body": (then(http()[:-5], "close"), NoAnswer),
    "2xx and a reset within the body": (then(http()[:-5], "reset"), NoAnswer),
    "2xx and a body that never ends": (then(http()[:-5], "hang"), NoAnswer),
    "2xx and broken chunks": (
        then(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "close"),
        NoAnswer,
    ),
    "one byte in a tenth of a second": (then("drip"), NoAnswer),
    "a compressed body": (then(http("200 OK", gzip.compress(http()), "Content-Encoding: gzip")), InvalidAnswer),
    "a compressed bomb": (then(http("200 OK", BOMB, "Content-Encoding: gzip")), InvalidAnswer),
    "an unknown encoding": (then(http("200 OK", b"{}", "Content-Encoding: br, gzip")), InvalidAnswer),
    "a huge body": (then(http("200 OK", b'{"id": "' + b"x" * 200_000 + b'"}')), InvalidAnswer),
    "an endless body": (
        then(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            *[b"4000\r\n" + b" " * 0x4000 + b"\r\n"] * 50,
            "hang",
        ),
        InvalidAnswer,
    ),
    "200 and a page": (then(HTML), InvalidAnswer),
    "200 and nothing": (then(http("200 OK", b"")), InvalidAnswer),
    "200 and no id": (then(http("200 OK", b'{"status": "RUNNING"}')), InvalidAnswer),
    "204": (then(b"HTTP/1.1 204 No Content\r\n\r\n"), InvalidAnswer),
    "a redirect": (then(http("307 Temporary Redirect", b"", "Location: /elsewhere")), InvalidAnswer),
    "a redirect elsewhere": (then(http("302 Found", b"", "Location: https://evil.example/")), InvalidAnswer),
    "a gateway's page": (then(http("502 Bad Gateway", b"<html>", content_type="text/html")), ServerError),
    "a failure in plain words": (then(http("500 Internal Server Error", b"oops", content_type=None)), ServerError),
}

#: Those that nothing ends but the deadline.
LASTING = {
    "no answer at all",
    "neither read nor answered",
    "100 Continue, then nothing",
    "2xx and a body that never ends",
    "one byte in a tenth of a second",
}


def settings_for(fault: str) -> Settings:
    """With a deadline that only those meet that last."""
    return SETTINGS if fault in LASTING else PATIENT


def bounded(began: float) -> None:
    """The exchange took no longer than its deadline."""
    assert time.monotonic() - began < DEADLINE + SLACK


@pytest.mark.parametrize("fault", AFTER_SENDING)
class TestAfterSending:
    def test_start_is_an_unknown_fate(self, open_door: OpenDoor, fault: str) -> None:
        """Whatever breaks after the first byte leaves a start's fate unknown; it is never sent again."""
        behaviour, kind = AFTER_SENDING[fault]
        ledger = MemoryLedger().for_namespace("tests")
        with FaultServer(behaviour) as server:
            client = open_door(server.url, ledger=ledger, settings=settings_for(fault))
            began = time.monotonic()
            with pytest.raises(StartOutcomeUnknown) as caught:
                client.run(run_request(), "step")
            bounded(began)
            cause = caught.value.__cause__
            assert kind is type(cause)
            assert getattr(cause, "sent", True)
            assert server.accepted == 1
        entry = ledger.read("step")
        assert entry is not None
        assert (State.UNKNOWN, kind.__name__) == (entry.state, entry.reason)

    def test_poll_is_a_failure_that_may_have_been_seen(self, open_door: OpenDoor, fault: str) -> None:
        """The same faults of a GET are errors of the same kinds, and never called not sent."""
        behaviour, kind = AFTER_SENDING[fault]
        with FaultServer(behaviour) as server:
            client = open_door(server.url, settings=settings_for(fault), retry=ONCE)
            began = time.monotonic()
            with pytest.raises(kind) as caught:
                client.poll(EXECUTION_ID)
            bounded(began)
            assert kind is type(caught.value)
            assert getattr(caught.value, "sent", True)
            assert "\n" not in str(caught.value)


class TestMemory:
    """An answer costs memory in proportion to what it may be."""

    def server(self, value: bytes) -> FaultServer:
        body = b'{"id": "%s", "status": "RUNNING", "v": %s}' % (EXECUTION_ID.encode(), value)
        return FaultServer(answer(http("200 OK", body)))

    def test_only_a_result_may_be_large(self, open_door: OpenDoor) -> None:
        """More than 1 MiB is refused, but for a result."""
        with self.server(b'"' + b"x" * 1_100_000 + b'"') as server:
            client = open_door(server.url, settings=Settings(), retry=ONCE)
            with pytest.raises(InvalidAnswer, match="more than 1048576 bytes"):
                client.poll(EXECUTION_ID)
            assert len(client.result(EXECUTION_ID)["v"]) == 1_100_000

    @pytest.mark.parametrize("value", [b"[]", b"{}", b"0", b'{"":[]}'])
    def test_many_values_are_refused_unparsed(self, open_door: OpenDoor, value: bytes) -> None:
        """Small values cost many times their text, so there may not be very many."""
        marks = 1 + value.count(b"[") + value.count(b"{")
        with self.server(b"[" + b",".join([value] * (131_072 // marks + 1)) + b"]") as server:
            client = open_door(server.url, settings=Settings(), retry=ONCE)
            for verb in (client.poll, client.result):
                with pytest.raises(InvalidAnswer, match="more than 131072 values"):
                    verb(EXECUTION_ID)

    def test_limit_of_values_follows_the_limit_of_bytes(self, open_door: OpenDoor) -> None:
        """Who expects large results can have them."""
        settings = Settings(max_answer_bytes=16 * 1024 * 1024)
        with self.server(b"[" + b",".join([b"0"] * 131_072) + b"]") as server:
            assert len(open_door(server.url, settings=settings).result(EXECUTION_ID)["v"]) == 131_072


@contextmanager
def untrusted_server() -> Iterator[FaultServer]:
    """A server whose certificate nobody vouches for."""
    with tls_server(trustme.CA(), "127.0.0.1") as server:
        yield server


@contextmanager
def tls_server(authority: trustme.CA, name: str, *behaviours: Behaviour) -> Iterator[FaultServer]:
    """A server with a certificate in that name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with FaultServer(*(behaviours or (answer(),)), tls=context) as server:
        yield server


def check_not_sent(client: Any, *, seconds: float) -> None:
    """Start and poll both say that nothing was sent; the start is REJECTED and raises its own error."""
    for verb, arguments in (("run", (run_request(), "step")), ("poll", (EXECUTION_ID,))):
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="Nothing was sent") as caught:
            getattr(client, verb)(*arguments)
        assert time.monotonic() - began < seconds
        assert not caught.value.sent
        assert caught.value.retryable


class TestBeforeSending:
    def door(self, open_door: OpenDoor, url: str, **options: Any) -> tuple[Any, MemoryLedger]:
        """A client whose every request is tried twice."""
        ledger = MemoryLedger().for_namespace("tests")
        retry = RetryPolicy(attempts=2, base=0.0)
        return open_door(url, ledger=ledger, retry=retry, **{"settings": UNCONNECTED, **options}), ledger

    def check(self, open_door: OpenDoor, url: str, **options: Any) -> None:
        """Nothing was sent, and the ledger knows that nothing started."""
        client, ledger = self.door(open_door, url, **options)
        check_not_sent(client, seconds=15.0)
        entry = ledger.read("step")
        assert entry is not None
        assert State.REJECTED is entry.state

    def test_refused_connection(self, open_door: OpenDoor) -> None:
        """A port where nobody listens has seen nothing."""
        with closed_port() as url:
            self.check(open_door, url)

    def test_connection_that_does_not_come_about(self, open_door: OpenDoor) -> None:
        """A connection that is not accepted in time has carried nothing."""
        with unresponsive_port() as url:
            self.check(open_door, url)

    def test_host_without_an_address(self, open_door: OpenDoor, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host that cannot be looked up has seen nothing."""

        def no_such_host(*arguments: Any, **options: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
        settings = Settings(allowed_hosts=("nowhere.invalid",), request_timeout=5.0)
        self.check(open_door, "https://nowhere.invalid", settings=settings)

    def test_untrusted_certificate(self, open_door: OpenDoor) -> None:
        """A server that cannot prove who it is gets no request, and the start was tried again."""
        with untrusted_server() as server:
            self.check(open_door, server.url)
            assert server.received == b""
            assert server.accepted == 4

    def test_certificate_of_another_host(self, open_door: OpenDoor, tmp_path: Path) -> None:
        """A certificate in another name is as good as none."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        settings = Settings(request_timeout=5.0, ca_bundle=str(tmp_path / "ca.pem"))
        with tls_server(authority, "other.example") as server:
            self.check(open_door, server.url, settings=settings)
            assert server.received == b""

    def test_handshake_that_does_not_end(self, open_door: OpenDoor) -> None:
        """A server that accepts and never speaks TLS has seen no request."""
        with FaultServer(hang_deaf) as server:
            self.check(open_door, server.url.replace("http:", "https:"))

    def test_server_that_speaks_no_tls(self, open_door: OpenDoor) -> None:
        """A plain server behind an https address has seen no request."""
        with FaultServer(lambda conversation: conversation.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
            self.check(open_door, server.url.replace("http:", "https:"))

    @pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"])
    def test_proxy_that_refuses(self, open_door: OpenDoor, status: str) -> None:
        """A proxy that opens no tunnel has seen nothing but the host's name."""
        with FaultServer(then(http(status, b""), "close")) as proxy:
            settings = Settings(request_timeout=5.0, proxy=proxy.url, allowed_hosts=("api.transactionlink.io",))
            self.check(open_door, "https://api.transactionlink.io", settings=settings)
            assert b"CONNECT api.transactionlink.io:443" in proxy.received
            assert b"tot_" not in proxy.received
            assert b"/workflows" not in proxy.received

    def test_proxy_that_is_not_there(self, open_door: OpenDoor) -> None:
        """Without the proxy nothing is sent, least of all past it."""
        with closed_port() as url:
            settings = Settings(request_timeout=5.0, proxy=url, allowed_hosts=("api.transactionlink.io",))
            self.check(open_door, "https://api.transactionlink.io", settings=settings)

    def test_tunnel_that_breaks_before_its_handshake(self, open_door: OpenDoor) -> None:
        """A tunnel that ends before TLS has begun has carried no request."""
        with FaultServer(then(b"HTTP/1.1 200 Connection established\r\n\r\n", "close")) as proxy:
            settings = Settings(request_timeout=5.0, proxy=proxy.url, allowed_hosts=("api.transactionlink.io",))
            self.check(open_door, "https://api.transactionlink.io", settings=settings)


class TestDeadline:
    def test_deaf_reader_does_not_stretch_it(self, open_door: OpenDoor) -> None:
        """A server that does not take a large request is cut off at the deadline, and the start is unknown."""
        request = run_request(parameters={"blob": "x" * 10_000_000})  # more than the sockets' buffers hold
        with FaultServer(hang_deaf) as server:
            client = open_door(server.url, settings=Settings(request_timeout=1.0))
            began = time.monotonic()
            with pytest.raises(StartOutcomeUnknown):
                client.run(request)
            assert time.monotonic() - began < 1.0 + SLACK

    def test_slow_head_is_cut(self, open_door: OpenDoor) -> None:
        """Bytes that keep coming do not keep a request alive: the total time counts."""
        with FaultServer(then("drip")) as server:
            client = open_door(server.url, settings=SETTINGS, retry=ONCE)
            began = time.monotonic()
            with pytest.raises(NoAnswer, match="within 1 seconds"):
                client.poll(EXECUTION_ID)
            assert DEADLINE <= time.monotonic() - began < DEADLINE + SLACK

    def test_full_pool_sends_nothing(self) -> None:
        """Of many requests for one connection only those are called sent that the server may have seen."""
        settings = Settings(request_timeout=DEADLINE, max_connections=1)
        outcomes: list[NoAnswer] = []
        with (
            FaultServer(hang) as server,
            Client(OrganizationToken("tot_sandbox"), server.url, settings=settings, retry=ONCE) as client,
        ):

            def poll() -> None:
                try:
                    client.poll(EXECUTION_ID)
                except NoAnswer as error:
                    outcomes.append(error)

            threads = [threading.Thread(target=poll) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen = sum(1 for one in server.conversations if one.received)
        assert len(outcomes) == 6
        assert 1 <= seen <= sum(error.sent for error in outcomes)


class TestConnections:
    def test_start_has_a_connection_of_its_own(self, open_door: OpenDoor) -> None:
        """A start neither uses a kept connection, which may be stale, nor leaves one behind; polls share one."""
        with FaultServer(answer()) as server:
            client = open_door(server.url)
            client.poll(EXECUTION_ID)
            client.poll(EXECUTION_ID)
            assert server.accepted == 1
            client.run(run_request())
            client.poll(EXECUTION_ID)
            client.run(run_request())
            assert server.accepted == 3
            starts = [one for one in server.conversations if one.received.startswith(b"POST")]
            assert [one.received.count(b"POST /workflows ") for one in starts] == [1, 1]
            assert all(b"Connection: close" in one.received for one in starts)

    def test_stale_connection_does_not_fail_a_poll(self, open_door: OpenDoor) -> None:
        """A kept connection that the server has closed meanwhile costs a poll a repetition, not its outcome."""

        def one_answer(conversation: Any) -> None:
            conversation.read_request()
            conversation.send(http())
            conversation.close()

        with FaultServer(one_answer) as server:
            client = open_door(server.url)
            for _ in range(5):
                assert client.poll(EXECUTION_ID).id == EXECUTION_ID

    def test_request_on_the_wire(self, open_door: OpenDoor) -> None:
        """What is sent: the token raw, no compression asked for, no cookie, JSON of the documented shape."""
        with FaultServer(answer()) as server:
            open_door(server.url).run(run_request(parameters={"n": "Zoë"}))
            head, _, body = server.received.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            assert lines[0] == b"POST /workflows HTTP/1.1"
            headers = {line.partition(b": ")[0].lower(): line.partition(b": ")[2] for line in lines[1:]}
            assert {
                b"host",
                b"accept",
                b"accept-encoding",
                b"user-agent",
                b"connection",
                b"content-length",
                b"content-type",
                b"authorization",
            } == set(headers)
            assert (
                headers[b"authorization"],
                headers[b"accept-encoding"],
                headers[b"accept"],
                headers[b"content-type"],
            ) == (b"tot_sandbox", b"identity", b"*/*", b"application/json")
            assert '"parameters":{"n":"Zoë"}'.encode() in body

    def test_cookies_are_not_kept(self, open_door: OpenDoor) -> None:
        """A cookie that the service sets does not come back on a start."""
        with FaultServer(answer(http("200 OK", http()[-80:], "Set-Cookie: sticky=1"))) as server:
            client = open_door(server.url, retry=ONCE)
            for _ in range(2):
                with pytest.raises(StartOutcomeUnknown):
                    client.run(run_request())
            assert b"Cookie" not in server.received

    def test_redirect_carries_nothing_elsewhere(self, open_door: OpenDoor) -> None:
        """Neither a start nor a poll follows a redirect, and the credential stays where it belongs."""
        with FaultServer(answer()) as elsewhere:
            redirect = then(http("307 Temporary Redirect", b"", f"Location: {elsewhere.url}/workflows"), "close")
            with FaultServer(redirect) as server:
                client = open_door(server.url, retry=ONCE)
                with pytest.raises(StartOutcomeUnknown):
                    client.run(run_request())
                with pytest.raises(InvalidAnswer, match="an unexpected status"):
                    client.poll(EXECUTION_ID)
            assert elsewhere.accepted == 0

    @pytest.mark.parametrize("second", ["200", "reset", "refused"])
    def test_start_after_a_refused_credential(self, open_door: OpenDoor, second: str) -> None:
        """A start whose token was refused goes again with the new one; what happens to that one is what counts."""
        tokens = iter(["tot_old", "tot_new"])
        refusal = then(http("401 Unauthorized", b"{}", "Connection: close"), "close")
        behaviour = {"200": answer(), "reset": reset_read, "refused": refusal}[second]
        with FaultServer(refusal, behaviour) as server:
            client = open_door(server.url, OrganizationToken(lambda: next(tokens)))
            if second == "200":
                assert client.run(run_request()).id == EXECUTION_ID
            elif second == "reset":
                with pytest.raises(StartOutcomeUnknown):
                    client.run(run_request())
            else:
                with pytest.raises(TransactionlinkError, match=r"does not accept the credential \(401\)"):
                    client.run(run_request())
            assert server.accepted == 2
            assert [one.received.split(b"Authorization: ")[1][:7] for one in server.conversations] == [
                b"tot_old",
                b"tot_new",
            ]


class TestTls:
    def test_service_with_a_private_authority(self, open_door: OpenDoor, tmp_path: Path) -> None:
        """With its CA bundle a private service is reached, and its answers obey the deadline as well."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        settings = Settings(request_timeout=3.0, ca_bundle=str(tmp_path / "ca.pem"))
        with tls_server(authority, "127.0.0.1", answer(), answer(), then("drip")) as server:
            client = open_door(server.url, settings=settings, retry=ONCE)
            assert client.run(run_request()).id == EXECUTION_ID
            assert client.poll(EXECUTION_ID).id == EXECUTION_ID
            began = time.monotonic()
            with pytest.raises(StartOutcomeUnknown):
                client.run(run_request())
            assert 3.0 <= time.monotonic() - began < 3.0 + SLACK

    def test_client_certificate_is_shown(self, open_door: OpenDoor, tmp_path: Path) -> None:
        """A service that asks for a client certificate gets the configured one; without it nothing is answered."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        options: dict[str, Any] = {"ca_bundle": str(tmp_path / "ca.pem")}
        with FaultServer(answer(), tls=context) as server:
            known = open_door(server.url, settings=Settings(**options, client_cert=str(tmp_path / "client.pem")))
            assert known.poll(EXECUTION_ID).id == EXECUTION_ID
            unknown = open_door(server.url, settings=Settings(**options), retry=ONCE)
            with pytest.raises(NoAnswer):
                unknown.poll(EXECUTION_ID)


def test_quick_policy_of_these_tests_repeats() -> None:
    """The doors' retry policy is the real one but for its delays."""
    assert RetryPolicy().attempts == QUICK_RETRY.attempts
