"""
The receiver in the API server, asked as Airflow mounts it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from airflow_provider import receiving
from airflow_provider.provider_info import get_provider_info
from tests.webhooks import BODY, ID, KEY, KID, UNENCODED, pem_of, token, unencoded
from tl_orchestration.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from pathlib import Path

ON = "AIRFLOW__TRANSACTIONLINK__RECEIVE_WEBHOOKS"
PATH = "/webhooks/transactionlink"


def answers(*deliveries: tuple[bytes, dict[str, str]], path: str = PATH) -> list[int]:
    """Status codes that one application of the plugin answers with."""
    (mounted,) = receiving.applications()
    assert mounted["url_prefix"] == "/transactionlink"

    async def main() -> list[int]:
        transport = httpx.ASGITransport(app=mounted["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as anybody:
            return [(await anybody.post(path, content=body, headers=sent)).status_code for body, sent in deliveries]

    return asyncio.run(main())


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Inbox:
    """Of an Airflow that receives, with a pinned key."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / f"{KID}.pem").write_text(pem_of(KEY))
    monkeypatch.setenv(ON, "True")
    monkeypatch.setenv("AIRFLOW__TRANSACTIONLINK__WEBHOOK_KEYS", str(keys))
    monkeypatch.setenv("AIRFLOW__TRANSACTIONLINK__INBOX_URL", f"sqlite:///{tmp_path}/inbox.db")
    return Inbox(f"sqlite:///{tmp_path}/inbox.db")


def test_off_unless_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow lets anybody reach an application of a plugin, so there is none by itself."""
    monkeypatch.delenv(ON, raising=False)
    assert receiving.applications() == []
    assert get_provider_info()["config"]["transactionlink"]["options"]["receive_webhooks"]["default"] == "False"


def test_only_what_is_signed_is_kept(inbox: Inbox) -> None:
    """A genuine delivery is a row; a forged one and one without a signature are not."""
    signed, forged = {"JWS-SIGNATURE": token()}, {"JWS-SIGNATURE": token(body=b"{}")}
    assert answers((BODY, signed), (BODY, forged), (BODY, {})) == [204, 401, 401]
    assert [hint.execution_id for hint in inbox.latest()] == [ID]


def test_unencoded_where_it_is_said(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures over the body as it is are refused, unless the configuration takes them."""
    signed = {"JWS-SIGNATURE": unencoded(UNENCODED)}
    assert answers((BODY, signed)) == [401]
    monkeypatch.setenv("AIRFLOW__TRANSACTIONLINK__WEBHOOK_UNENCODED", "True")
    assert answers((BODY, signed)) == [204]


def test_b3os_needs_its_secret(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one its path does not exist; with one, what does not prove itself is refused."""
    assert answers((b"{}", {}), path="/webhooks/b3os") == [404]
    monkeypatch.setenv("AIRFLOW__TRANSACTIONLINK__WEBHOOK_B3OS_SECRETS", "whsec_a whsec_b")
    assert answers((b"{}", {"x-b3os-signature": "0" * 64}), path="/webhooks/b3os") == [401]
    assert inbox.latest() == []


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("INBOX_URL", "", "receive_webhooks needs [transactionlink] inbox_url"),
        ("WEBHOOK_KEYS", "/there/is/no/such/file", "Webhooks cannot be received"),
    ],
)
def test_mistake_is_said_and_the_vendor_delivers_again(
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    option: str,
    value: str,
    why: str,
) -> None:
    """503, which the vendor answers with another delivery, and what is wrong is in the log of the API server."""
    monkeypatch.setenv(f"AIRFLOW__TRANSACTIONLINK__{option}", value)
    assert answers(*[(BODY, {"JWS-SIGNATURE": token()})] * 3) == [503] * 3
    assert caplog.text.count(why) == 1  # anybody can make it say so
