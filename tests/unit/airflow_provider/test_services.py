"""
Connections of each service, from Airflow's form to an answer of the sandbox.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import Connection

from airflow_provider import connection_form, shared_clients
from airflow_provider.hooks import TransactionlinkHook, client_arguments
from airflow_provider.triggers import TransactionlinkExecutionTrigger
from tests.builders import run_request
from tests.unit.airflow_provider.services import CONN_ID, OPTIONS, RIGHT, SERVICES, WRONG, client_of, connect
from tl_orchestration import AsyncClient, Client, Execution, Status
from tl_orchestration.errors import AuthenticationError, InvalidSettings
from tl_orchestration.ledger import SqlLedger
from tl_orchestration.options import options_for

if TYPE_CHECKING:
    from tests.remote import Remote

HOSTS = {"transactionlink": "transactionlink.io", "transactionlink-legacy": "transactionlink.io", "b3os": "b3os.org"}


def connection(service: str, **fields: Any) -> Connection:
    extra = {"service": service, **fields.pop("extra", {})}
    return Connection(conn_id=CONN_ID, conn_type="transactionlink", extra=json.dumps(extra), **fields)


def started(client: Client, service: str, definition: str = "kyc-approve") -> Execution:
    options = options_for(service, OPTIONS[service], "options")
    return client.run(run_request(workflow_definition_id=definition, options=options))


@pytest.fixture(autouse=True)
def _quick(remote: Remote) -> None:
    remote.define("kyc-approve", duration=0.2)


@pytest.mark.parametrize("service", SERVICES)
def test_form_offers_the_service_and_the_core_its_host(service: str) -> None:
    """Whatever the form's list offers can be built, and without a host it is the vendor's own."""
    assert service in connection_form.FIELDS["service"]["schema"]["enum"]
    with Client(**client_arguments(connection(service, **RIGHT[service]))) as client:
        assert client.base_url == f"https://api.{HOSTS[service]}"


def test_form_shows_the_login() -> None:
    """The legacy service's key has a field, which says so."""
    assert "login" not in connection_form.HIDDEN
    assert "legacy" in connection_form.RELABELED["login"]
    assert set(connection_form.FIELDS["service"]["schema"]["enum"]) == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_connection_works_in_worker_and_triggerer(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str
) -> None:
    """Start, wait and result by the hook's clients; and the test button says what it has shown, starting nothing."""
    connect(monkeypatch, remote.url, service)
    works, said = TransactionlinkHook(CONN_ID).test_connection()
    assert (works, remote.starts()) == (True, [])
    assert f"{remote.url} accepts" in said

    with TransactionlinkHook(CONN_ID).get_client() as client:
        execution = started(client, service)

    async def look() -> Status:
        async with await TransactionlinkHook(CONN_ID).aget_client() as client:
            return (await client.wait(execution.handle)).status

    assert asyncio.run(look()) is Status.SUCCEEDED
    assert [start["execution_id"] for start in remote.starts()] == [execution.id]


@pytest.mark.parametrize("service", SERVICES)
def test_wrong_credential_is_told_by_the_test_button(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str
) -> None:
    """A refused credential is one sentence without the credential."""
    connect(monkeypatch, remote.url, service, **WRONG[service])
    works, said = TransactionlinkHook(CONN_ID).test_connection()
    assert not works
    assert "401" in said
    assert "PLANTED" not in said


@pytest.mark.parametrize("service", SERVICES)
def test_rotated_credential_takes_effect_in_a_client_that_exists(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str
) -> None:
    """A client whose credential is refused reads the connection anew; while it has not changed, the refusal stands."""
    connect(monkeypatch, remote.url, service, **WRONG[service])
    with TransactionlinkHook(CONN_ID).get_client() as client:
        connect(monkeypatch, remote.url, service)
        client.check()
    connect(monkeypatch, remote.url, service, **WRONG[service])
    with TransactionlinkHook(CONN_ID).get_client() as client, pytest.raises(AuthenticationError):
        client.check()


@pytest.mark.parametrize(
    ("service", "fields", "sentence"),
    [
        ("transactionlink", {}, "has no token"),
        ("transactionlink", {"login": "PLANTED", "password": "tot_PLANTED"}, "has a login, which the service"),
        ("transactionlink", {"password": "b3sk_PLANTED"}, "is a key of B3OS, and its service is transactionlink:"),
        ("transactionlink-legacy", {}, "has no API secret. Put the API key into its login field"),
        ("transactionlink-legacy", {"password": "PLANTED"}, "has no API key. Put it into the login field"),
        ("transactionlink-legacy", {"login": "PLANTED"}, "has no API secret"),
        ("transactionlink-legacy", {"login": "PLANTED", "password": "tot_PLANTED"}, "is an organization token, and"),
        ("b3os", {}, "has no key. Put a B3OS key"),
        ("b3os", {"password": "tot_PLANTED"}, "is an organization token, and its service is b3os"),
        ("b3os", {"password": "Bearer tot_PLANTED"}, "is an organization token, and its service is b3os"),
        (
            "b3os",
            {"login": "PLANTED", "password": "b3sk_PLANTED"},
            "has a login, which the service b3os has no use for",
        ),
        ("b3os", {"password": "b3sk_PLANTED", "extra": {"organization_id": "org 1"}}, "organization_id must be"),
    ],
)
def test_credential_of_the_wrong_kind_is_refused_unsent(service: str, fields: dict[str, Any], sentence: str) -> None:
    """Login and password that are not those of the service are refused in one sentence, which quotes neither."""
    with pytest.raises(InvalidSettings) as caught:
        client_arguments(connection(service, **fields))
    assert sentence in str(caught.value)
    assert "PLANTED" not in str(caught.value)
    assert "organization_id" in sentence or repr(CONN_ID) in str(caught.value)


def test_organization_is_sent(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """A B3OS key with another organization than its own is refused by the service: so the field has reached it."""
    connect(monkeypatch, remote.url, "b3os", {"organization_id": "org_other"})
    with TransactionlinkHook(CONN_ID).get_client() as client, pytest.raises(Exception, match="403"):
        started(client, "b3os")


@pytest.mark.parametrize("service", SERVICES)
def test_trigger_waits_by_the_shared_client(monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str) -> None:
    """The trigger fires with the facts of its service, which the task needs to go on."""
    connect(monkeypatch, remote.url, service)
    monkeypatch.setattr(shared_clients, "_pools", type(shared_clients._pools)())
    with client_of(service, remote.url) as client:
        handle = started(client, service).handle
    trigger = TransactionlinkExecutionTrigger(
        transactionlink_conn_id=CONN_ID,
        execution_id=handle.execution_id,
        poll_interval=0.1,
        service=handle.service,
        api_version=handle.api_version,
    )

    async def fire() -> Any:
        async with shared_clients.borrowed(CONN_ID, {}) as client:
            polled = trigger._handle(client)
        assert (polled.service, polled.api_version) == (handle.service, handle.api_version)
        (event,) = [event.payload async for event in trigger.run()]
        for shared in shared_clients._pools.pop(asyncio.get_running_loop()).clients.values():
            await shared.client.close()
        return event

    said = asyncio.run(fire())
    assert (said["ending"], said["service"]) == ("ended", service)
    assert said["api_version"] == (1 if service == "transactionlink-legacy" else None)


def test_edited_organization_replaces_the_shared_client(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """Any change of the connection counts after its lifetime, also one beside the key."""
    connect(monkeypatch, remote.url, "b3os")
    monkeypatch.setattr(shared_clients, "_pools", type(shared_clients._pools)())

    async def main() -> tuple[AsyncClient, AsyncClient]:
        async with shared_clients.borrowed(CONN_ID, {}) as client:
            (pool,) = shared_clients._pools.values()
            for shared in pool.clients.values():
                shared.read_at -= shared_clients.LIFETIME + 1
            connect(monkeypatch, remote.url, "b3os", {"organization_id": "org_sandbox"})
            async with shared_clients.borrowed(CONN_ID, {}) as later:
                await later.close()
                return client, later

    client, later = asyncio.run(main())
    assert client is not later


class TestLedgerOfKeys:
    URL = "sqlite:///PLANTED.db"

    def found(self, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]) -> str:
        connect(monkeypatch, "http://127.0.0.1:1", "b3os", extra)
        ledger = TransactionlinkHook(CONN_ID).sql_ledger()
        assert isinstance(ledger, SqlLedger)
        return ledger.database.address

    def test_connection_goes_before_the_configuration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The connection's field, else Airflow's configuration; its file is not made by looking."""
        monkeypatch.setenv("AIRFLOW__TRANSACTIONLINK__LEDGER_URL", "sqlite:///configured.db")
        assert self.found(monkeypatch, {}) == "sqlite:///configured.db"
        assert self.found(monkeypatch, {"ledger_url": self.URL}) == self.URL

    def test_none_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both places are named."""
        monkeypatch.delenv("AIRFLOW__TRANSACTIONLINK__LEDGER_URL", raising=False)
        with pytest.raises(InvalidSettings, match=r"ledger_url\) nor \[transactionlink\] ledger_url of airflow.cfg"):
            self.found(monkeypatch, {})

    def test_unusable_one_is_not_quoted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may hold a password."""
        with pytest.raises(InvalidSettings) as caught:
            self.found(monkeypatch, {"ledger_url": "mysql://user:PLANTED@host/db"})
        assert "PLANTED" not in str(caught.value)
