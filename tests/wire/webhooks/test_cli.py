"""`tl webhooks`: serving, taking what a gateway hands over, pinning, looking and forgetting."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.remote import Remote
from tests.webhooks import BODY, HEADER, ID, KEY, KID, UNENCODED, pem_of, token, unencoded
from tests.wire.webhooks.conftest import SECRET, until
from tl_orchestration.cli.commands import tl
from tl_orchestration.cli.outcomes import INTERRUPTED, SUCCESS, UNEXPECTED, USAGE
from tl_orchestration.errors import WebhookRefused
from tl_orchestration.sandbox import SandboxServer
from tl_orchestration.webhooks import handed_over
from tl_orchestration.webhooks.inbox import Inbox

PATH = "/webhooks/transactionlink"
KEY_REQUESTS = "GET /auth/webhooks/key/{kid}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pinned key, and an inbox that does not exist yet."""
    for name in list(os.environ):
        if name.startswith("TRANSACTIONLINK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TRANSACTIONLINK_LEDGER_URL", f"sqlite:///{tmp_path / 'inbox.db'}")
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / f"{KID}.pem").write_text(pem_of(KEY))
    monkeypatch.setenv("TRANSACTIONLINK_WEBHOOKS_KEYS", str(keys))
    return tmp_path


def run(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(tl, ["webhooks", *arguments], input=given)


def answer(*arguments: str, given: bytes | None = None) -> Any:
    """What a command prints with --json."""
    return json.loads(run(*arguments, "--json", given=given).stdout)


def line(body: bytes = BODY, headers: dict[str, str] | None = None) -> bytes:
    """A delivery as a queue hands it over."""
    return json.dumps({"headers": headers or {}, "body_base64": base64.b64encode(body).decode()}).encode() + b"\n"


class Counted(io.BytesIO):
    """A stream that notes how much was asked of it at once."""

    largest = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        """As the base class's."""
        assert size is not None
        assert size > 0
        self.largest = max(self.largest, size)
        return super().readline(size)


class TestIngest:
    def test_lines(self) -> None:
        """Genuine lines are taken, others are named by their number, and the exit code says that there were some."""
        good = line(headers={"JWS-Signature": token()})
        pairs = json.dumps({"headers": [["jws-signature", token(body=b"x")]], "body_base64": "eA=="}).encode()
        given = good + b"\n" + line() + b"not JSON\n" + line(BODY + b" ", {"JWS-Signature": token()}) + pairs
        assert answer("ingest", "-", given=given) == {"taken": 2, "refused": [2, 3, 4], "undecided": []}
        assert run("ingest", "-", given=given).exit_code == UNEXPECTED
        assert run("ingest", "-", given=good).exit_code == SUCCESS
        hints = answer("list")["hints"]
        assert {hint["execution_id"] for hint in hints} == {ID, None}

    def test_refusal_shows_nothing(self) -> None:
        """Neither body nor signature is printed."""
        result = run("ingest", "-", given=line(headers={"JWS-Signature": token(body=b"other")}))
        assert "Delivery 1 was refused: The signature does not fit the body." in result.output
        assert "eyJ" not in result.output
        assert ID not in result.output

    def test_key_that_cannot_be_had(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        """While a key cannot be asked for, nobody knows: said apart from what is refused, so that it comes again."""
        monkeypatch.delenv("TRANSACTIONLINK_WEBHOOKS_KEYS")
        given = line(headers={"JWS-Signature": token()}) + line()
        nobody = ("--base-url", "http://127.0.0.1:1")
        assert answer("ingest", "-", *nobody, given=given) == {"taken": 0, "refused": [2], "undecided": [1]}
        result = run("ingest", "-", *nobody, given=given)
        assert result.exit_code == UNEXPECTED
        assert "Hand it over again." in result.output
        many = b"".join(line(headers={"JWS-Signature": token({**HEADER, "kid": str(uuid4())})}) for _ in range(5))
        found = answer("ingest", "-", "--base-url", remote.url, given=many)
        assert (len(found["refused"]), len(found["undecided"])) == (2, 3)

    def test_kept_while_the_pipe_is_open(self, folder: Path) -> None:
        """A queue that delivers seldom: each line is in the inbox when it has come, not at the end of the pipe."""
        command = [sys.executable, "-m", "tl_orchestration.cli", "webhooks", "ingest", "-"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
            try:
                assert process.stdin is not None
                process.stdin.write(line(headers={"JWS-Signature": token()}))
                process.stdin.flush()
                inbox = Inbox(f"sqlite:///{folder / 'inbox.db'}")
                until(lambda: inbox.latest())
                inbox.close()
                assert process.poll() is None
                process.stdin.close()
                assert process.wait(60) == SUCCESS
            finally:
                process.kill()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_told_while_the_pipe_is_open(self, number: signal.Signals) -> None:
        """What is refused is told at once; a signal ends the reading, keeps what came, and prints the counts."""
        command = [sys.executable, "-m", "tl_orchestration.cli", "webhooks", "ingest", "-", "--json"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                assert process.stdin is not None
                assert process.stderr is not None
                assert process.stdout is not None
                process.stdin.write(line(headers={"JWS-Signature": token()}) + line())
                process.stdin.flush()
                assert process.stderr.readline().startswith(b"Delivery 2 was refused: ")
                process.send_signal(number)
                assert process.wait(60) == INTERRUPTED
                assert json.loads(process.stdout.read()) == {"taken": 1, "refused": [2], "undecided": []}
            finally:
                process.kill()
        assert answer("list")["hints"][0]["execution_id"] == ID

    def test_unencoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Signatures over the body as it is are taken where that is said, and refused elsewhere."""
        given = line(headers={"JWS-Signature": unencoded(UNENCODED)})
        assert answer("ingest", "-", given=given)["refused"] == [1]
        assert answer("ingest", "-", "--unencoded", given=given)["taken"] == 1
        monkeypatch.setenv("TRANSACTIONLINK_WEBHOOKS_UNENCODED", "1")
        assert answer("ingest", "-", given=given)["taken"] == 1
        monkeypatch.setenv("TRANSACTIONLINK_WEBHOOKS_UNENCODED", "what")
        assert run("ingest", "-", given=given).exit_code == USAGE

    def test_endless_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line that is too long is never in memory as a whole, is refused, and those around it are taken."""
        good = line(headers={"JWS-Signature": token()})
        monkeypatch.setattr(handed_over, "LARGEST_LINE", len(good))
        for long in (b"x" * len(good) + b"\n", b"x" * (10 * len(good)) + b"\n"):
            given = Counted(good + long + good + b"x" * (3 * len(good)))
            found = list(handed_over.from_lines(given))
            assert [isinstance(one, WebhookRefused) for one in found] == [False, True, False, True]
            assert given.largest <= len(good) + 1

    def test_parts(self, folder: Path) -> None:
        """A single delivery can be handed over as two files, its headers as they arrived."""
        (folder / "body").write_bytes(BODY)
        (folder / "headers").write_bytes(f"Host: x\r\nJWS-SIGNATURE: {token()}\r\n\r\n".encode())
        assert answer("ingest", str(folder / "headers"), "--body", str(folder / "body"))["taken"] == 1

    def test_b3os(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """B3OS's deliveries need its secret, from the environment or a file with one on each line."""
        signature = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
        given = line(headers={"x-b3os-signature": signature})
        assert run("ingest", "-", "--service", "b3os", given=given).exit_code == USAGE
        monkeypatch.setenv("TRANSACTIONLINK_WEBHOOKS_B3OS_SECRET", SECRET)
        assert answer("ingest", "-", "--service", "b3os", given=given)["taken"] == 1
        (folder / "secrets").write_text(f"new\n{SECRET}\n")
        monkeypatch.setenv("TRANSACTIONLINK_WEBHOOKS_B3OS_SECRET_FILE", str(folder / "secrets"))
        assert run("ingest", "-", "--service", "b3os", given=given).exit_code == USAGE
        monkeypatch.delenv("TRANSACTIONLINK_WEBHOOKS_B3OS_SECRET")
        assert answer("ingest", "-", "--service", "b3os", given=given)["taken"] == 1
        assert SECRET not in run("ingest", "-", "--service", "b3os", "-v", given=given).output


class TestKey:
    def test_fetches_for_pinning(
        self, remote: Remote, sandbox_server: SandboxServer, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key is fetched once, with its fingerprint, and is good for pinning."""
        kid = remote.rotate_webhook_key()
        found = answer("key", kid, "--base-url", remote.url, "--into", str(folder / "keys"))
        assert found["kid"] == kid
        assert re.fullmatch(r"[0-9a-f]{64}", found["sha256"])
        assert found["pem"] in run("key", kid, "--base-url", remote.url).output
        signature = sandbox_server.store.webhook_keys.sign(BODY)
        before = remote.count(KEY_REQUESTS)
        assert answer("ingest", "-", given=line(headers={"jws-signature": signature}))["taken"] == 1
        assert remote.count(KEY_REQUESTS) == before

    @pytest.mark.parametrize("kid", ["..", "x", KID])
    def test_no_such_key(self, remote: Remote, kid: str) -> None:
        """A name that is none, or that the service does not know, is a usage error."""
        assert run("key", kid, "--base-url", remote.url).exit_code == USAGE


def test_purge() -> None:
    """Rows are forgotten by age and by number."""
    for number in range(3):
        body = json.dumps({"workflowId": f"e{number}"}).encode()
        run("ingest", "-", given=line(body, {"JWS-SIGNATURE": token(body=body)}))
    assert answer("purge", "--most", "1") == {"purged": 2}
    assert answer("list")["hints"][0]["execution_id"] == "e2"


def test_serve(folder: Path) -> None:
    """It serves without any token, below a path that a proxy adds, until it is told to end, and ends in good order."""
    command = [sys.executable, "-m", "tl_orchestration.cli", "webhooks", "serve", "--port", "0", "--root-path", "/kyc"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", told)
            assert found is not None, told
            with httpx.Client(base_url=found[0], trust_env=False, timeout=30) as http:
                assert http.get("/healthz").status_code == 200
                for path in (PATH, f"/kyc{PATH}"):
                    assert http.post(path, content=BODY, headers={"JWS-SIGNATURE": token()}).status_code == 204
                assert http.post("/webhooks/b3os", content=BODY).status_code == 404
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in {0, -signal.SIGTERM, 143}
            rest = process.stderr.read()
            assert "Traceback" not in rest
        finally:
            process.kill()
    assert answer("list")["hints"][0]["execution_id"] == ID


def test_serve_refuses_before_it_listens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No inbox, no usable key, or a host that may not be asked: said at once, by exit code 2."""
    monkeypatch.setenv("TRANSACTIONLINK_WEBHOOKS_KEYS", str(folder))
    assert run("serve").exit_code == USAGE
    monkeypatch.delenv("TRANSACTIONLINK_WEBHOOKS_KEYS")
    assert run("serve", "--base-url", "https://evil.example").exit_code == USAGE
    monkeypatch.delenv("TRANSACTIONLINK_LEDGER_URL")
    assert run("serve").exit_code == USAGE
