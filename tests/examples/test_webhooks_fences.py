"""
Every fence about webhooks runs as it stands, against PostgreSQL, the sandbox and Airflow's own reading of its settings.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import sys
from pathlib import Path

import httpx
import pytest

from dev.services import free_port
from tests.fences import PROJECT, Page, bash, placed, running, until_it_answers
from tests.postgres import Postgres
from tests.remote import TOKEN, Remote
from tests.webhooks import BODY, ID, KEY, KID, pem_of, token
from tests.wire.webhooks.conftest import serving
from tl_orchestration import Client, OrganizationToken, RunRequest
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.webhooks.inbox import Inbox
from tl_orchestration.webhooks.keys import FetchedKeys
from tl_orchestration.webhooks.public_key import KeyServer

WEBHOOKS = Page("how-to/webhooks.md")
SANDBOX, RECEIVER = "http://127.0.0.1:8321", "http://127.0.0.1:8322"
OWNER, WRITER, READER = (f"postgresql+psycopg://{name}@db.internal/kyc" for name in ("owner", "receiver", "runner"))
DATABASE, SERVE, INGEST, PIN, TRY_SANDBOX, TRY_RECEIVER, TRY_RUN = range(1, 8)
UNTIL_DELIVERED = f"""python -c 'import httpx, time
sandbox = httpx.Client(base_url="{SANDBOX}/_sandbox", trust_env=False)
while not any(attempt["status"] == 204 for attempt in sandbox.get("/webhooks/deliveries").json()):
    time.sleep(0.1)'"""


def test_table_rights_and_receiver(postgres: Postgres, tmp_path: Path) -> None:
    """The owner makes the table; a receiver with the rights of the page is ready to write."""
    name = postgres.empty_database()
    bash(placed(WEBHOOKS.fence("bash", DATABASE), {OWNER: f"'{postgres.url(name)}'"}), tmp_path)
    postgres.role_url(name, "runner", "SELECT 1")
    postgres.role_url(name, "receiver", WEBHOOKS.fence("sql"))
    receiver = postgres.role_url(name, "receiver", "SELECT 1")
    port = free_port()
    with running(placed(WEBHOOKS.fence("bash", SERVE), {WRITER: f"'{receiver}'", "8322": str(port)}), tmp_path):
        until_it_answers(f"http://127.0.0.1:{port}/healthz")
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200


def test_handed_over(tmp_path: Path) -> None:
    """What a queue's own program prints is in the inbox."""
    (tmp_path / f"{KID}.pem").write_text(pem_of(KEY))
    line = {"headers": {"JWS-SIGNATURE": token()}, "body_base64": base64.b64encode(BODY).decode()}
    (tmp_path / "line").write_text(json.dumps(line))
    inbox = f"sqlite:///{tmp_path}/inbox.db"
    keys = {"TRANSACTIONLINK_LEDGER_URL": inbox, "TRANSACTIONLINK_WEBHOOKS_KEYS": str(tmp_path)}
    bash(f"queue-reader() {{ cat line; }}\n{WEBHOOKS.fence('bash', INGEST)}", tmp_path, keys)
    assert ID in bash("tl webhooks list", tmp_path, keys)


def test_pinned_keys(remote: Remote, tmp_path: Path) -> None:
    """A key is fetched into the folder, and the receiver starts with it."""
    kid, port = remote.rotate_webhook_key(), free_port()
    places = {
        "070725bf-4d95-4a0c-8b0b-5d4c1b5c7c11": kid,
        "/etc/tl/keys": str(tmp_path),
        "webhooks serve": f"webhooks serve --port {port}",
    }
    env = {"TRANSACTIONLINK_BASE_URL": remote.url, "TRANSACTIONLINK_LEDGER_URL": f"sqlite:///{tmp_path}/inbox.db"}
    with running(placed(WEBHOOKS.fence("bash", PIN), places), tmp_path, env):
        until_it_answers(f"http://127.0.0.1:{port}/healthz")
    assert (tmp_path / f"{kid}.pem").exists()


def test_waits_listen(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits end, beside a receiver that writes into their inbox."""
    monkeypatch.setattr(Transactionlink, "default_base_url", remote.url)
    names: dict[str, object] = {"__name__": "fence"}
    exec(compile(WEBHOOKS.fence("python", 0), "fence", "exec"), names)  # noqa: S102 -- our own page
    wait_for = names["wait_for"]
    assert callable(wait_for)
    url = f"sqlite:///{tmp_path}/inbox.db"
    keys = FetchedKeys(KeyServer(remote.url).fetch)
    with contextlib.closing(Inbox(url)) as inbox, serving(inbox, keys) as receiver:
        remote.deliver_to({"url": f"{receiver}/webhooks/transactionlink"})
        with Client(OrganizationToken(TOKEN)) as client:
            ids = [client.run(RunRequest("kyc-approve")).id for _ in range(2)]
        found = asyncio.run(wait_for(TOKEN, ids, url))
    assert [(one.id, one.status.value) for one in found] == [(one, "SUCCEEDED") for one in ids]


def test_try_it(tmp_path: Path) -> None:
    """The sandbox delivers to the receiver, and what has happened to the execution is listed."""
    sandbox, receiver = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    port, other = (url.rpartition(":")[2] for url in (sandbox, receiver))
    (tmp_path / "sandbox.toml").write_text(placed(WEBHOOKS.fence("toml"), {RECEIVER: receiver}))
    serve = placed(
        WEBHOOKS.fence("bash", TRY_RECEIVER), {SANDBOX: sandbox, "webhooks serve": f"webhooks serve --port {other}"}
    )
    start = placed(WEBHOOKS.fence("bash", TRY_SANDBOX), {"tl sandbox": f"tl sandbox --port {port}"})
    with running(start, tmp_path), running(serve, tmp_path):
        until_it_answers(sandbox)
        until_it_answers(f"{receiver}/healthz")
        places = {"sleep 4": UNTIL_DELIVERED, SANDBOX: sandbox}
        said = bash(placed(WEBHOOKS.fence("bash", TRY_RUN), places), tmp_path)
    ran, listed = said.split("SUCCEEDED", 1)
    execution_id = re.search(r"execution +(\S+)", ran)
    assert execution_id is not None
    assert execution_id[1] in listed


READ_SETTINGS = {
    0: "from airflow_provider import inboxes; print(inboxes.url_of(), inboxes.safety_net().cap)",
    1: "from airflow_provider import receiving; print(len(receiving.applications()), receiving.receiver())",
}


@pytest.mark.parametrize(("number", "read"), [(0, f"{READER} 120.0\n"), (1, "1 <")])
def test_settings_of_airflow(tmp_path: Path, number: int, read: str) -> None:
    """Airflow reads from its configuration file what is meant."""
    (tmp_path / f"{KID}.pem").write_text(pem_of(KEY))
    settings = WEBHOOKS.fence("ini", number).replace("/etc/tl/keys", str(tmp_path))
    (tmp_path / "airflow.cfg").write_text(settings)
    env = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW_CONFIG": f"{tmp_path}/airflow.cfg"}
    assert bash(f'"{sys.executable}" -c "{READ_SETTINGS[number]}"', tmp_path, env).startswith(read)


def test_asset_is_the_examples_own() -> None:
    """The asset of the page is that of the example DAG, which runs on a real Airflow."""
    example = (PROJECT / "example_dags/airflow/kyc_completed.py").read_text()
    imports, _, asset = WEBHOOKS.fence("python", 1).rpartition("\n\ncompleted = ")
    assert f"\ncompleted = {asset}" in example
    assert imports.splitlines()[-1] in example
