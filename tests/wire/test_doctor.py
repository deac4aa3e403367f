"""`tl doctor` against a running sandbox, and against everything that can stand in its way."""

import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from tl_orchestration.cli.commands import tl
from tl_orchestration.cli.doctor import CHECKS
from tl_orchestration.sandbox import SandboxServer

CA = trustme.CA(organization_name="Intercepting Proxies Inc.")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names the sandbox, and nothing of the machine's own."""
    for name in list(os.environ):
        if name.startswith("TRANSACTIONLINK_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TRANSACTIONLINK_BASE_URL", sandbox.url)
    monkeypatch.setenv("TRANSACTIONLINK_TOKEN", "tot_sandbox")
    return monkeypatch


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    CA.cert_pem.write_to_path(str(file))
    return str(file)


class Site(BaseHTTPRequestHandler):
    """Answers 404, as the service does to the id that nobody has."""

    seconds_behind = 0.0

    def do_GET(self) -> None:
        body = b'{"errors": []}'
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(datetime.now(UTC).timestamp() - self.seconds_behind, usegmt=True)

    def log_message(self, *_: Any) -> None:
        pass


class Proxy(StreamRequestHandler):
    """A CONNECT proxy that wants a password, and connects every host to one port."""

    target = 0

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        if b"Basic dTpodW50ZXIy" not in head:  # u:hunter2
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.target)) as upstream:
            back = threading.Thread(target=pump, args=(upstream, self.connection))
            back.start()
            pump(self.connection, upstream)
            back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class ReusingServer(ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def serving(server: ThreadingHTTPServer | ThreadingTCPServer) -> Iterator[int]:
    """Run a server in a thread. Yields its port."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def tls_site(*names: str, needs_client: bool = False, **issue: Any) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(*names or ("localhost",), **issue).configure_cert(context)
    if needs_client:
        context.verify_mode = ssl.CERT_REQUIRED
        CA.configure_trust(context)
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    with serving(site) as port:
        yield port


def doctor(*arguments: str) -> Result:
    result = CliRunner().invoke(tl, ["doctor", *arguments], prog_name="tl")
    assert "Traceback" not in result.output
    return result


def findings(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and the checks by name; all of them, in their order, whatever happens."""
    result = doctor("--json", *arguments)
    document = json.loads(result.stdout)
    assert document["exit_code"] == result.exit_code
    assert document["ok"] == (result.exit_code == 0)
    assert tuple(check["name"] for check in document["checks"]) == CHECKS
    assert all(set(check) == {"name", "status", "detail", "advice"} for check in document["checks"])
    return result.exit_code, {check["name"]: check for check in document["checks"]}


def statuses(checks: dict[str, dict[str, str]]) -> str:
    """One letter per check."""
    return "".join(checks[name]["status"][0] for name in CHECKS)


def test_all_is_well_against_the_sandbox(sandbox: SandboxServer) -> None:
    """Every check passes but TLS, which loopback does without; nothing was started."""
    result = doctor()
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["skipped" if name == "tls" else "ok", name] for name in CHECKS
    ]
    assert "can_run" in result.stdout
    assert "tot_sandbox" not in result.output
    assert sandbox.store.starts == []


def test_a_refused_port(environment: pytest.MonkeyPatch) -> None:
    """Where nobody listens TCP fails, and what comes after is skipped, not guessed."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment.setenv("TRANSACTIONLINK_BASE_URL", f"http://127.0.0.1:{port}")
    code, checks = findings()
    assert (code, statuses(checks)) == (35, "oooofsss")
    assert "refused" in checks["tcp"]["detail"]
    assert "tcp failed" in checks["credential"]["detail"]


@pytest.mark.parametrize(
    ("token", "code", "words"), [("tot_wrong", 30, "token"), ("tot_sandbox_no_view", 31, "can_view_workspace")]
)
def test_a_refused_token(environment: pytest.MonkeyPatch, token: str, code: int, words: str) -> None:
    """A wrong token and one that may not read are told apart, and the missing permission is named."""
    environment.setenv("TRANSACTIONLINK_TOKEN", token)
    found, checks = findings()
    assert (found, statuses(checks)) == (code, "ooooosof")
    assert words in checks["credential"]["detail"]
    assert token not in doctor().output


def test_no_token(environment: pytest.MonkeyPatch) -> None:
    """Without a token the network is looked at all the same, and only the credential is skipped."""
    environment.delenv("TRANSACTIONLINK_TOKEN")
    code, checks = findings()
    assert (code, statuses(checks)) == (2, "ofooosos")
    assert "TRANSACTIONLINK_TOKEN_FILE" in checks["token"]["detail"]
    assert "token failed" in checks["credential"]["detail"]


def test_settings_that_may_not_be_used(environment: pytest.MonkeyPatch) -> None:
    """A host outside the allow-list, an unknown service or a wrong file ends the checks before the network."""
    for variable, value in (
        ("BASE_URL", "https://example.com"),
        ("SERVICE", "unheard-of"),
        ("CA_BUNDLE", "/nowhere.pem"),
        ("PROXY", "socks5://proxy.example:1080"),
    ):
        with environment.context() as patch:
            patch.setenv(f"TRANSACTIONLINK_{variable}", value)
            code, checks = findings()
        assert (code, statuses(checks)) == (2, "fsssssss")


def test_an_unresolvable_host(environment: pytest.MonkeyPatch) -> None:
    """A name without an address is said to have none."""
    environment.setenv("TRANSACTIONLINK_ALLOWED_HOSTS", "something.invalid")
    environment.setenv("TRANSACTIONLINK_BASE_URL", "https://something.invalid")
    code, checks = findings()
    assert (code, statuses(checks)) == (35, "oofsssss")
    assert "something.invalid" in checks["dns"]["detail"]


def test_a_trusted_certificate(environment: pytest.MonkeyPatch, ca_file: str) -> None:
    """A good handshake is described: version, issuer, days left, and whose authorities were asked."""
    environment.setenv("TRANSACTIONLINK_CA_BUNDLE", ca_file)
    with tls_site(not_after=datetime.now(UTC) + timedelta(days=90, minutes=5)) as port:
        code, checks = findings("--base-url", f"https://localhost:{port}")
    assert (code, statuses(checks)) == (0, "oooooooo")
    detail = checks["tls"]["detail"]
    assert all(words in detail for words in ("TLSv1.3", "Intercepting Proxies Inc.", "90 days", ca_file))


def test_a_certificate_that_expires_soon(environment: pytest.MonkeyPatch, ca_file: str) -> None:
    """A certificate with few days left is a warning, which does not fail."""
    environment.setenv("TRANSACTIONLINK_CA_BUNDLE", ca_file)
    with tls_site(not_after=datetime.now(UTC) + timedelta(days=3, minutes=5)) as port:
        code, checks = findings("--base-url", f"https://localhost:{port}")
    assert (code, checks["tls"]["status"]) == (0, "warn")


def test_an_unknown_authority() -> None:
    """An authority that is not trusted is named, and taken for an intercepting proxy."""
    with tls_site() as port:
        code, checks = findings("--base-url", f"https://localhost:{port}")
    assert (code, statuses(checks)) == (35, "ooooofss")
    assert "Intercepting Proxies Inc." in checks["tls"]["detail"]
    assert "certifi" in checks["tls"]["detail"]
    assert "intercepting proxy" in checks["tls"]["advice"]
    assert "TRANSACTIONLINK_CA_BUNDLE" in checks["tls"]["advice"]


@pytest.mark.parametrize(
    ("site", "advice"),
    [
        ({"names": ["other.example"]}, "another host answers"),
        ({"not_before": datetime(2001, 1, 1, tzinfo=UTC), "not_after": datetime(2002, 1, 1, tzinfo=UTC)}, "clock"),
        ({"needs_client": True}, "TRANSACTIONLINK_CLIENT_CERT"),
    ],
)
def test_other_failures_of_tls(
    environment: pytest.MonkeyPatch, ca_file: str, site: dict[str, Any], advice: str
) -> None:
    """A wrong name, a wrong time and a missing client certificate each get advice of their own."""
    environment.setenv("TRANSACTIONLINK_CA_BUNDLE", ca_file)
    with tls_site(*site.pop("names", ()), **site) as port:
        code, checks = findings("--base-url", f"https://localhost:{port}")
    assert (code, statuses(checks)) == (35, "ooooofss")
    assert advice in checks["tls"]["advice"]
    assert "CA_BUNDLE" not in checks["tls"]["advice"]


def test_a_client_certificate(environment: pytest.MonkeyPatch, ca_file: str, tmp_path: Path) -> None:
    """A service that asks for a client certificate is content with the one in the settings."""
    file = tmp_path / "client.pem"
    CA.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(str(file))
    environment.setenv("TRANSACTIONLINK_CA_BUNDLE", ca_file)
    environment.setenv("TRANSACTIONLINK_CLIENT_CERT", str(file))
    with tls_site(needs_client=True) as port:
        code, checks = findings("--base-url", f"https://localhost:{port}")
    assert (code, statuses(checks)) == (0, "oooooooo")


def test_https_where_http_is_spoken(sandbox: SandboxServer) -> None:
    """A port that speaks plain HTTP is a failed handshake, not an untrusted certificate."""
    code, checks = findings("--base-url", sandbox.url.replace("http:", "https:"))
    assert (code, statuses(checks)) == (35, "ooooofss")
    assert "speaks https" in checks["tls"]["advice"]


@pytest.mark.parametrize(("behind", "words"), [(3600, "ahead of the service"), (-3600, "behind the service")])
def test_a_wrong_clock(behind: float, words: str) -> None:
    """A clock that differs from the service's is a warning, with the direction."""
    site = ThreadingHTTPServer(("127.0.0.1", 0), type("Slow", (Site,), {"seconds_behind": behind}))
    with serving(site) as port:
        code, checks = findings("--base-url", f"http://127.0.0.1:{port}")
    assert (code, checks["clock"]["status"]) == (0, "warn")
    assert re.search(rf"\b3[56]\d\d s {words}$", checks["clock"]["detail"])
    assert "NTP" in checks["clock"]["advice"]


def test_a_proxy_on_the_way(environment: pytest.MonkeyPatch, ca_file: str) -> None:
    """With a proxy it is the proxy that is looked up and connected to, TLS goes through it, no password is shown."""
    environment.setenv("TRANSACTIONLINK_ALLOWED_HOSTS", "service.invalid")
    environment.setenv("TRANSACTIONLINK_CA_BUNDLE", ca_file)
    with tls_site("service.invalid") as target:
        proxy = ReusingServer(("127.0.0.1", 0), type("ToTarget", (Proxy,), {"target": target}))
        with serving(proxy) as port:
            environment.setenv("TRANSACTIONLINK_PROXY", f"http://u:hunter2@127.0.0.1:{port}")
            code, checks = findings("--base-url", "https://service.invalid")
            assert (code, statuses(checks)) == (0, "oooooooo")
            assert checks["proxy"]["detail"].startswith(f"http://127.0.0.1:{port} from TRANSACTIONLINK_PROXY")
            assert f"port {port}" in checks["tcp"]["detail"]
            assert "hunter2" not in json.dumps(checks)
            environment.setenv("TRANSACTIONLINK_PROXY", f"http://u:hunter3@127.0.0.1:{port}")
            code, checks = findings("--base-url", "https://service.invalid")
    assert (code, statuses(checks)) == (35, "ooooofss")
    assert "407" in checks["tls"]["detail"]
    assert "TRANSACTIONLINK_PROXY" in checks["tls"]["advice"]
    assert "hunter3" not in json.dumps(checks)
