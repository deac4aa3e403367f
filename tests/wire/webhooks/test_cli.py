"""`tl webhooks`: serving, taking what a gateway hands over, pinning, looking and forgetting."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.remote import Remote
from tests.webhooks import BODY, ID, KEY, KID, pem_of, token
from tests.wire.webhooks.conftest import SECRET
from tl_orchestration.cli.commands import tl
from tl_orchestration.cli.outcomes import SUCCESS, UNEXPECTED, USAGE
from tl_orchestration.sandbox import SandboxServer

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


class TestIngest:
    def test_lines(self) -> None:
        """Genuine lines are taken, others are named by their number, and the exit code says that there were some."""
        good = line(headers={"JWS-Signature": token()})
        pairs = json.dumps({"headers": [["jws-signature", token(body=b"x")]], "body_base64": "eA=="}).encode()
        given = good + b"\n" + line() + b"not JSON\n" + line(BODY + b" ", {"JWS-Signature": token()}) + pairs
        assert answer("ingest", "-", given=given) == {"taken": 2, "refused": [2, 3, 4]}
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
            with httpx.Client(base_url=found[0], trust_env=False) as http:
                assert http.get("/healthz").status_code == 200
                for path in (PATH, f"/kyc{PATH}"):
                    assert http.post(path, content=BODY, headers={"JWS-SIGNATURE": token()}).status_code == 204
                assert http.post("/webhooks/b3os", content=BODY).status_code == 404
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in {0, -signal.SIGTERM, 143}
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
