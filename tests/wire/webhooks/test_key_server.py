"""Keys over sockets: one host, one path, no redirect, bounded, and a day of patience with it."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import trustme

from tests.remote import Remote
from tests.unit.webhooks.test_signatures import ATTACKS
from tests.webhooks import BODY, KEY, KID, delivery, library_takes, pem_of, token
from tl_orchestration.errors import InvalidSettings, NoAnswer, WebhookRefused
from tl_orchestration.sandbox import SandboxServer
from tl_orchestration.settings import Settings
from tl_orchestration.webhooks import public_key
from tl_orchestration.webhooks.keys import FetchedKeys
from tl_orchestration.webhooks.public_key import KeyServer, pem, read_key
from tl_orchestration.webhooks.signatures import JwsVerifier

PEM = pem_of(KEY).encode()


@contextmanager
def answering(
    *pieces: bytes, pause: float = 0.0, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says the same to everybody; gives its URL and the heads that came."""
    heads: list[bytes] = []
    ended = threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    with nullcontext(connection) if tls is None else tls.wrap_socket(connection, True) as talk:
                        heads.append(talk.recv(65536))
                        for piece in pieces:
                            talk.sendall(piece)
                            if ended.wait(pause):
                                return
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{listener.getsockname()[1]}", heads
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_asks_the_documented_way() -> None:
    """One path below the base URL, and no credential of any kind."""
    with answering(answer("200 OK", PEM)) as (url, heads):
        assert KeyServer(url + "/prefix").fetch(KID) == KEY.public_key()
    (head,) = heads
    assert head.startswith(f"GET /prefix/auth/webhooks/key/{KID}?pem=true HTTP/1.1\r\n".encode())
    assert b"authorization" not in head.lower()
    assert b"cookie" not in head.lower()
    assert b"accept-encoding: identity\r\n" in head.lower()


def test_answer_in_pieces() -> None:
    """An answer is read whole, however it arrives."""
    whole = answer("200 OK", PEM)
    with answering(whole[:-200], whole[-200:-100], whole[-100:], pause=0.1) as (url, _):
        assert KeyServer(url).fetch(KID) == KEY.public_key()


def test_server_must_prove_who_it_is(tmp_path: Path) -> None:
    """Over TLS a key is taken only from a server whose certificate is by an authority that the settings name."""
    authority, stranger = trustme.CA(), trustme.CA()
    for name, one in {"ours": authority, "other": stranger}.items():
        one.cert_pem.write_to_path(str(tmp_path / name))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with answering(answer("200 OK", PEM), tls=tls) as (url, _):
        assert KeyServer(url, Settings(ca_bundle=tmp_path / "ours")).fetch(KID) == KEY.public_key()
        for settings in (Settings(), Settings(ca_bundle=tmp_path / "other")):
            with pytest.raises(NoAnswer):
                KeyServer(url, settings).fetch(KID)


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "410 Gone"])
def test_absent(status: str) -> None:
    """These answers mean that there is no such key."""
    with answering(answer(status, b"{}")) as (url, _):
        assert KeyServer(url).fetch(KID) is None


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_no_redirect_is_followed(status: str) -> None:
    """Wherever it points, nobody else is asked, and what it says itself is no key."""
    with (
        answering(answer("200 OK", PEM)) as (evil, asked),
        answering(answer(status, PEM, f"Location: {evil}/auth/webhooks/key/{KID}")) as (url, _),
    ):
        with pytest.raises(NoAnswer):
            KeyServer(url).fetch(KID)
        assert asked == []


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"\0\0\0",),
        (answer("500 Internal Server Error", PEM),),
        (answer("502 Bad Gateway"),),
        (answer("203 Non-Authoritative Information", PEM),),
        (answer("204 No Content"),),
        (answer("200 OK", b"<html>a captive portal</html>"),),
        (answer("200 OK", b""),),
        (answer("200 OK", PEM, "Content-Encoding: gzip"),),
        (answer("200 OK", PEM + b"\n" * 70_000),),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + PEM,),
        (b"HTTP/1.1 200 OK\r\n\r\n", *[b"a" * 10_000] * 100),
    ],
)
def test_other_answers_are_failures(pieces: tuple[bytes, ...], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever else comes is no key, and nothing of it is in an error or a log."""
    with answering(*pieces) as (url, _), caplog.at_level(logging.DEBUG), pytest.raises(NoAnswer) as caught:
        KeyServer(url).fetch(KID)
    assert "captive" not in f"{caught.value}{caplog.text}"


def test_dripping_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One deadline holds for the whole exchange, however often a byte comes."""
    monkeypatch.setattr(public_key, "LONGEST_FETCH", 0.5)
    began = time.monotonic()
    with answering(b"HTTP/1.1 200 OK\r\n", *[b"X: a\r\n"] * 200, pause=0.1) as (url, _), pytest.raises(NoAnswer):
        KeyServer(url).fetch(KID)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("url", ["http://keys.example", "https://evil.example", "https://user:pw@api.b3os.org"])
def test_only_allowed_hosts(url: str) -> None:
    """The host is checked like a client's, before anything is sent."""
    with pytest.raises(InvalidSettings):
        KeyServer(url)


def test_settings_of_the_core() -> None:
    """Proxy, authorities and allowed hosts are the core's settings."""
    with answering(answer("200 OK", PEM)) as (proxy, heads):
        settings = Settings(proxy=proxy, allowed_hosts=("http://keys.example",))
        assert KeyServer("http://keys.example", settings).fetch(KID) == KEY.public_key()
    assert heads[0].startswith(b"GET http://keys.example/auth/webhooks/key/")


def test_attacks_reach_one_host_at_most(fetching: Callable[[str], FetchedKeys]) -> None:
    """The whole set of attacks against a service that has the key: none is taken, and no other host hears of it."""
    reached: list[object] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
            reached.append(arguments[:2] if event == "socket.getaddrinfo" else arguments[1])

    notes = [note]
    sys.addaudithook(lambda event, arguments: [one(event, arguments) for one in notes] and None)
    with answering(answer("200 OK", PEM)) as (url, heads):
        verifier = JwsVerifier(fetching(url))
        verifier.begin(delivery(token())).finish()
        for name, make in ATTACKS.items():
            if name == "kid another":  # this service has a key of every name
                continue
            with pytest.raises(WebhookRefused):
                verifier.begin(make()).finish()
    notes.clear()
    assert set(reached) == {("127.0.0.1", int(url.rpartition(":")[2]))}
    assert len(heads) == 1
    assert f"/auth/webhooks/key/{KID}?pem=true".encode() in heads[0]


class TestSandbox:
    def test_serves_keys(self, sandbox_server: SandboxServer, remote: Remote) -> None:
        """The sandbox serves its key in both forms, and refuses what the service refuses."""
        kid = remote.rotate_webhook_key()
        found = KeyServer(remote.url).fetch(kid)
        assert found is not None
        assert read_key(remote.get(f"/auth/webhooks/key/{kid}?pem=false").content) == found
        assert KeyServer(remote.url).fetch(KID) is None
        for path in ("/auth/webhooks/key/x", f"/auth/webhooks/key/{kid}?pem=1"):
            assert remote.get(path).status_code == 400

    def test_rotation(self, remote: Remote, sandbox_server: SandboxServer) -> None:
        """After a rotation both keys are served, unless the former ones are withdrawn."""
        first, second = remote.rotate_webhook_key(), remote.rotate_webhook_key()
        server = KeyServer(remote.url)
        assert server.fetch(first) is not None
        assert server.fetch(second) is not None
        third = remote.rotate_webhook_key(withdraw=True)
        assert [server.fetch(kid) is None for kid in (first, second, third)] == [True, True, False]

    def test_signs_with_the_newest_key(self, sandbox_server: SandboxServer, remote: Remote) -> None:
        """What the sandbox signs is verified with the key that it serves, and another library says the same."""
        kid = remote.rotate_webhook_key()
        found = KeyServer(remote.url).fetch(kid)
        assert found is not None
        signature = sandbox_server.store.webhook_keys.sign(BODY)
        keys = FetchedKeys(KeyServer(remote.url).fetch)
        JwsVerifier(keys).begin(delivery(signature)).finish()
        assert library_takes(signature, BODY, pem(found))
        assert not library_takes(signature, BODY + b" ", pem(found))
        keys.close()

    def test_faults_strike_keys(self, remote: Remote) -> None:
        """Faults can be ordered for the key endpoint."""
        kid = remote.rotate_webhook_key()
        remote.order(on="key", kind="status", status=502)
        with pytest.raises(NoAnswer):
            KeyServer(remote.url).fetch(kid)
        assert KeyServer(remote.url).fetch(kid) is not None
