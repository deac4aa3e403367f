"""What a triggerer holds for its triggers: one client for each loop and connection, however many triggers there are."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_provider import shared_clients
from airflow_provider.hooks import TransactionlinkHook
from airflow_provider.shared_clients import LIFETIME, borrowed, forget
from airflow_provider.triggers import TransactionlinkExecutionTrigger
from tests.airflow_versions import BaseSecretsBackend, forget_secrets_backends
from tests.builders import run_request
from tests.remote import TOKEN, Remote
from tl_orchestration import AsyncClient, Client, OrganizationToken

CONN_ID = "kyc_shared"


def connect(monkeypatch: pytest.MonkeyPatch, url: str, token: str = TOKEN) -> None:
    """Give Airflow the connection, by its environment."""
    connection = {"conn_type": "transactionlink", "host": url, "password": token}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(connection))


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Connections that were looked up. No client is left from other tests."""
    seen: list[str] = []
    look_up: Any = TransactionlinkHook.aget_connection

    async def counted(conn_id: str) -> object:
        seen.append(conn_id)
        return await look_up(conn_id)

    monkeypatch.setattr(TransactionlinkHook, "aget_connection", staticmethod(counted))
    monkeypatch.setattr(shared_clients, "_pools", type(shared_clients._pools)())
    return seen


def started(remote: Remote, count: int, definition: str) -> list[str]:
    """Ids of executions that run in the sandbox."""
    with Client(OrganizationToken(TOKEN), remote.url) as client:
        return [client.run(run_request(workflow_definition_id=definition)).id for _ in range(count)]


async def fired(execution_id: str, conn_id: str = CONN_ID) -> Any:
    """What a trigger for the execution reports."""
    trigger = TransactionlinkExecutionTrigger(
        transactionlink_conn_id=conn_id, execution_id=execution_id, poll_interval=0.2
    )
    (payload,) = [event.payload async for event in trigger.run()]
    return payload


class StalledBackend(BaseSecretsBackend):
    """A secrets backend as most are, without an asynchronous method, that is away for one connection."""

    conn_id = "kyc_stalled"
    url = ""
    asked = 0
    back = threading.Event()

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Connection | None:
        if conn_id != self.conn_id:
            return None
        type(self).asked += 1
        self.back.wait(60)
        return Connection(conn_id=conn_id, conn_type="transactionlink", host=self.url, password=TOKEN)


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> Iterator[type[StalledBackend]]:
    """That backend, in front of Airflow's own."""
    monkeypatch.setattr(shared_clients, "_pools", type(shared_clients._pools)())
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", f"{__name__}.StalledBackend")
    forget_secrets_backends()
    StalledBackend.url, StalledBackend.asked = remote.url, 0
    StalledBackend.back.clear()
    yield StalledBackend
    StalledBackend.back.set()
    forget_secrets_backends()


class Closings:
    """Which clients were closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clients: list[AsyncClient] = []
        close = AsyncClient.close

        async def noted(client: AsyncClient) -> None:
            self.clients.append(client)
            await close(client)

        monkeypatch.setattr(AsyncClient, "close", noted)


def test_triggers_share_client_and_look_up(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, look_ups: list[str]
) -> None:
    """A hundred triggers of one connection look it up once and poll through one client."""
    connect(monkeypatch, remote.url)
    ids = started(remote, 100, "kyc-approve")
    clients: set[AsyncClient] = set()

    async def main() -> list[Any]:
        waits = [asyncio.create_task(fired(execution_id)) for execution_id in ids]
        await asyncio.to_thread(remote.wait_for, "GET /workflows/{id}", 1)
        (pool,) = shared_clients._pools.values()
        clients.update(shared.client for shared in pool.clients.values())
        reports = await asyncio.gather(*waits)
        await close_all()
        return reports

    reports = asyncio.run(main())
    assert [("ended", execution_id) for execution_id in ids] == [(r["ending"], r["execution_id"]) for r in reports]
    assert look_ups == [CONN_ID]
    assert len(clients) == 1


def test_cancelled_trigger_disturbs_no_other(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, look_ups: list[str]
) -> None:
    """Airflow cancels a trigger that it moves: the others of the connection go on, nothing is cancelled remotely."""
    connect(monkeypatch, remote.url)
    remote.define("kyc-approve", duration=60)
    ids = started(remote, 40, "kyc-approve")

    async def main() -> tuple[list[Any], list[Any]]:
        waits = [asyncio.create_task(fired(execution_id)) for execution_id in ids]
        await asyncio.to_thread(remote.wait_for, "GET /workflows/{id}", 1)
        for task in waits[::2]:
            task.cancel()
        await asyncio.to_thread(remote.advance, 61)
        gone = await asyncio.gather(*waits[::2], return_exceptions=True)
        reports = await asyncio.gather(*waits[1::2])
        await close_all()
        assert {asyncio.current_task()} == asyncio.all_tasks()
        return gone, reports

    gone, reports = asyncio.run(main())
    assert [asyncio.CancelledError] * 20 == [type(one) for one in gone]
    assert [report["ending"] for report in reports] == ["ended"] * 20
    assert remote.cancels() == []
    assert look_ups == [CONN_ID]


def test_stalled_look_up_keeps_no_other_connection_waiting(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, stalled: type[StalledBackend]
) -> None:
    """While a secrets backend hangs, triggers of other connections poll and fire; later its own do as well."""
    connect(monkeypatch, remote.url)
    ids = started(remote, 3, "kyc-approve")

    async def main() -> list[Any]:
        waits = [asyncio.create_task(fired(execution_id, stalled.conn_id)) for execution_id in ids[:2]]
        await asyncio.sleep(0.1)
        first = await fired(ids[2])
        assert not any(wait.done() for wait in waits)
        stalled.back.set()
        reports = [first, *await asyncio.gather(*waits)]
        await close_all()
        return reports

    assert [report["ending"] for report in asyncio.run(main())] == ["ended"] * 3
    assert stalled.asked == 1


def test_cancelled_trigger_leaves_its_look_up_to_the_others(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, stalled: type[StalledBackend]
) -> None:
    """The trigger that began a look-up is moved away: whoever waits for the same connection has it all the same."""
    (execution_id,) = started(remote, 1, "kyc-approve")

    async def main() -> Any:
        first, second = (asyncio.create_task(fired(execution_id, stalled.conn_id)) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        stalled.back.set()
        report = await second
        await close_all()
        return report

    assert asyncio.run(main())["ending"] == "ended"
    assert stalled.asked == 1


def test_loops_do_not_share(monkeypatch: pytest.MonkeyPatch, remote: Remote, look_ups: list[str]) -> None:
    """Another event loop looks the connection up for itself and gets a client of its own."""
    connect(monkeypatch, remote.url)

    async def main() -> AsyncClient:
        async with borrowed(CONN_ID, {}) as client, borrowed(CONN_ID, {}) as again:
            assert client is again
        return client

    assert asyncio.run(main()) is not asyncio.run(main())
    assert look_ups == [CONN_ID] * 2


def test_status_maps_do_not_mix(monkeypatch: pytest.MonkeyPatch, remote: Remote, look_ups: list[str]) -> None:
    """Tasks that teach other status words get another client."""
    connect(monkeypatch, remote.url)

    async def main() -> None:
        async with borrowed(CONN_ID, {}) as client, borrowed(CONN_ID, {"ON_HOLD": "WAITING"}) as other:
            assert client is not other

    asyncio.run(main())


@pytest.mark.parametrize("edited", [False, True])
def test_connection_is_read_again(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, look_ups: list[str], *, edited: bool
) -> None:
    """After its lifetime a connection is read again; only an edited one gives a new client, the old one ends unused."""
    connect(monkeypatch, remote.url)
    closings = Closings(monkeypatch)

    async def main() -> None:
        async with borrowed(CONN_ID, {}) as client:
            (pool,) = shared_clients._pools.values()
            for shared in pool.clients.values():
                shared.read_at -= LIFETIME + 1
            if edited:
                connect(monkeypatch, remote.url, "tot_sandbox_no_run")
            async with borrowed(CONN_ID, {}) as later:
                assert edited is (later is not client)
            assert client not in closings.clients
        assert edited is (client in closings.clients)
        assert later not in closings.clients
        await close_all()

    asyncio.run(main())
    assert look_ups == [CONN_ID] * 2


def test_forgotten_client_ends_with_its_last_user(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, look_ups: list[str]
) -> None:
    """After a refused credential the next trigger has a new client; the old one is closed once nobody uses it."""
    connect(monkeypatch, remote.url)
    closings = Closings(monkeypatch)

    async def main() -> None:
        async with borrowed(CONN_ID, {}) as client:
            async with borrowed(CONN_ID, {}) as same:
                forget(same)
            assert closings.clients == []
            async with borrowed(CONN_ID, {}) as fresh:
                assert fresh is not client
        assert [client] == closings.clients

    asyncio.run(main())
    assert look_ups == [CONN_ID] * 2


async def close_all() -> None:
    """Close the clients of this loop, so that no connection outlives it."""
    for shared in shared_clients._pools.pop(asyncio.get_running_loop()).clients.values():
        await shared.client.close()
