"""
The trigger's own waiting, in an event loop over the sandbox; what Airflow does with it is shown end to end.
"""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from airflow_provider import shared_clients, waiting_trigger
from airflow_provider.events import Ending
from airflow_provider.triggers import TransactionlinkExecutionTrigger
from tests.remote import Remote
from tl_orchestration import Client, OrganizationToken, Pacing, Patience, RunRequest
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.pacing import SAFETY_NET
from tl_orchestration.sandbox import SandboxServer
from tl_orchestration.webhooks.inbox import Arrival, Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def service() -> Iterator[SandboxServer]:
    with SandboxServer() as server:
        yield server


def connect(monkeypatch: pytest.MonkeyPatch, service: SandboxServer, **fields: Any) -> None:
    chosen = {"conn_type": "transactionlink", "host": service.url, "password": "tot_sandbox", **fields}
    monkeypatch.setenv("AIRFLOW_CONN_KYC", json.dumps(chosen))


def started(service: SandboxServer) -> str:
    with Client(OrganizationToken("tot_sandbox"), service.url) as client:
        return client.run(RunRequest("kyc-approve")).id


def trigger(execution_id: str, **changes: Any) -> TransactionlinkExecutionTrigger:
    arguments: dict[str, Any] = {"transactionlink_conn_id": "kyc", "execution_id": execution_id, "poll_interval": 0.1}
    return TransactionlinkExecutionTrigger(**arguments | changes)


class Pauses:
    """An ``asyncio`` in which time passes by sleeping alone, and soon."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def get_running_loop(self) -> Any:
        return SimpleNamespace(time=lambda: self.passed)

    async def sleep(self, seconds: float) -> None:
        self.passed += max(seconds, 0.0)
        await asyncio.sleep(0.01)


async def events(*waiting: TransactionlinkExecutionTrigger) -> list[dict[str, Any]]:
    async def one(chosen: TransactionlinkExecutionTrigger) -> dict[str, Any]:
        (event,) = [event async for event in chosen.run()]
        payload: dict[str, Any] = event.payload
        return payload

    said = await asyncio.gather(*(one(chosen) for chosen in waiting))
    for shared in [shared for pool in shared_clients._pools.values() for shared in pool.clients.values()]:
        await shared.client.close()
    return said


def test_ended_execution_fires_one_event(service: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One event, with the id, the literal and the times that were given; then nothing more."""
    connect(monkeypatch, service)
    execution_id = started(service)

    (said,) = asyncio.run(events(trigger(execution_id, deadline=4e9)))

    assert (said["ending"], said["execution_id"], said["raw_status"]) == (Ending.ENDED, execution_id, "COMPLETED")
    assert said["deadline"] == 4e9


def test_event_leaves_the_scheduler_time(service: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An execution that has ended already is told later: the scheduler must have heard of the worker's end first."""
    connect(monkeypatch, service)
    monkeypatch.setattr(waiting_trigger, "DWELL", 1.5)
    execution_id = started(service)
    with Client(OrganizationToken("tot_sandbox"), service.url) as client:
        client.wait(execution_id, patience=Patience(pacing=Pacing.every(0.1)))
    began = time.monotonic()

    (said,) = asyncio.run(events(trigger(execution_id)))

    assert said["ending"] == Ending.ENDED
    assert time.monotonic() - began >= 1.5


def test_rotated_token_does_not_kill_what_waits(service: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused credential has the connection read anew: once it is right, the wait goes on to its end."""
    monkeypatch.setattr(waiting_trigger, "_CREDENTIAL_PAUSE", 0.2)
    connect(monkeypatch, service, password="tot_revoked")
    execution_id = started(service)

    async def rotate() -> list[dict[str, Any]]:
        waiting = asyncio.create_task(events(trigger(execution_id)))
        await asyncio.sleep(0.7)
        assert not waiting.done()
        connect(monkeypatch, service)
        return await waiting

    (said,) = asyncio.run(rotate())

    assert said["ending"] == Ending.ENDED


def test_token_that_stays_wrong_ends_the_wait(service: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the budget the wait fails, and says what with, without the token."""
    monkeypatch.setattr(waiting_trigger, "_CREDENTIAL_PAUSE", 0.1)
    monkeypatch.setattr(waiting_trigger, "_CREDENTIAL_BUDGET", 0.3)
    connect(monkeypatch, service, password="tot_revoked")

    (said,) = asyncio.run(events(trigger(started(service))))

    assert (said["ending"], said["error"], said["status_code"]) == (Ending.FAILED, "AuthenticationError", 401)
    assert "tot_" not in json.dumps(said)


def test_deadline_holds_while_the_token_is_refused(service: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience with a credential ends with the deadline: its task has to decide."""
    connect(monkeypatch, service, password="tot_revoked")

    (said,) = asyncio.run(events(trigger(started(service), deadline=time.time() + 0.5)))

    assert said["ending"] == Ending.DEADLINE


def test_connection_that_is_slow_to_fail_is_not_read_for_ever(
    service: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an attempt takes, only an answer of the service begins the budget anew."""
    monkeypatch.setattr(waiting_trigger, "_CREDENTIAL_PAUSE", 0.05)
    monkeypatch.setattr(waiting_trigger, "_CREDENTIAL_BUDGET", 0.3)
    connect(monkeypatch, service)
    execution_id = started(service)
    looks = []

    async def slowly(*_: object) -> None:
        looks.append(time.monotonic())
        await asyncio.sleep(0.2)
        raise InvalidSettings("The secrets backend is away.")

    monkeypatch.setattr(shared_clients, "_current", slowly)

    (said,) = asyncio.run(asyncio.wait_for(events(trigger(execution_id)), 60))

    assert (said["ending"], said["error"]) == (Ending.FAILED, "InvalidSettings")
    assert len(looks) <= 4


def test_another_refusal_has_a_budget_of_its_own(service: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the token was accepted again, the next rotation may take as long as the last one."""
    clock = Pauses()
    monkeypatch.setattr(waiting_trigger, "asyncio", clock)
    connect(monkeypatch, service)
    with Remote(service.url) as remote:
        remote.define("kyc-approve", duration=None)
        execution_id = started(service)

        async def rotated_twice() -> list[dict[str, Any]]:
            waiting = asyncio.create_task(events(trigger(execution_id)))
            for _ in range(2):
                polls = remote.count("GET /workflows/{id}")
                remote.order("status", "status", status=401, times=40)
                await asyncio.to_thread(remote.wait_for, "GET /workflows/{id}", polls + 44)
            remote.force(execution_id, status="COMPLETED")
            return await waiting

        (said,) = asyncio.run(rotated_twice())
        remote.reset()

    assert said["ending"] == Ending.ENDED
    assert clock.passed > waiting_trigger._CREDENTIAL_BUDGET


def test_whatever_goes_wrong_is_an_event(service: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger never dies of an exception: the task is told its class, and decides."""
    connect(monkeypatch, service)

    (said,) = asyncio.run(events(trigger(started(service), poll_interval="often")))

    assert (said["ending"], said["error"]) == (Ending.FAILED, "TypeError")


def test_many_triggers_share_one_client(service: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty waits on one connection look it up once."""
    from airflow_provider.hooks import TransactionlinkHook

    connect(monkeypatch, service)
    looked_up = []
    original = TransactionlinkHook.alook_up

    async def counted(hook: TransactionlinkHook, *arguments: Any) -> Any:
        looked_up.append(hook.transactionlink_conn_id)
        return await original(hook, *arguments)

    monkeypatch.setattr(TransactionlinkHook, "alook_up", counted)

    said = asyncio.run(events(*(trigger(started(service)) for _ in range(50))))

    assert [event["ending"] for event in said] == [Ending.ENDED] * 50
    assert looked_up == ["kyc"]


def patience_of(monkeypatch: pytest.MonkeyPatch, chosen: TransactionlinkExecutionTrigger) -> Patience:
    """How patiently a trigger has its client wait."""
    seen: list[Patience] = []

    async def noted(_: TransactionlinkExecutionTrigger, patience: Patience) -> None:
        seen.append(patience)

    monkeypatch.setattr(TransactionlinkExecutionTrigger, "_wait_once", noted)
    asyncio.run(chosen._wait())
    return seen[0]


def test_webhook_ends_a_wait_between_two_slow_polls(
    monkeypatch: pytest.MonkeyPatch, service: SandboxServer, tmp_path: Path
) -> None:
    """The inbox that the connection names is listened to: the end is seen long before the safety net's next poll."""
    inbox = Inbox(f"sqlite:///{tmp_path}/inbox.db")
    connect(monkeypatch, service, extra={"inbox_url": f"sqlite:///{tmp_path}/inbox.db"})
    with Client(OrganizationToken("tot_sandbox"), service.url) as client:
        execution_id = client.run(RunRequest("kyc-slow")).id

    async def main() -> Any:
        with Remote(service.url) as remote:
            polls = remote.count("GET /workflows/{id}")
            waiting = asyncio.create_task(events(trigger(execution_id, poll_interval=None)))
            await asyncio.to_thread(remote.wait_for, "GET /workflows/{id}", polls + 1)
        async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=30) as sandbox:
            await sandbox.post(f"/_sandbox/executions/{execution_id}", json={"status": "COMPLETED"})
        await asyncio.sleep(1.5)
        assert not waiting.done()
        await asyncio.to_thread(inbox.put, [Arrival("transactionlink", execution_id, "", "d", time.time())])
        return await waiting

    (said,) = asyncio.run(main())
    assert said["ending"] == Ending.ENDED


def test_inbox_that_cannot_be_used_is_said_once_and_polls_go_on(
    monkeypatch: pytest.MonkeyPatch, service: SandboxServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As if there were none."""
    connect(monkeypatch, service, extra={"inbox_url": "mysql://nowhere/inbox"})
    (said,) = asyncio.run(events(trigger(started(service), poll_interval=None)))
    assert said["ending"] == Ending.ENDED
    assert caplog.text.count("polled without the inbox of webhooks") == 1


def test_interval_of_the_task_holds_with_webhooks_too(monkeypatch: pytest.MonkeyPatch, service: SandboxServer) -> None:
    """A fixed interval is the author's word; else the safety net is the core's, or what airflow.cfg says."""
    connect(monkeypatch, service)
    assert patience_of(monkeypatch, trigger("e1", poll_interval=7.0)).safety_net == Pacing.every(7.0)
    assert patience_of(monkeypatch, trigger("e1", poll_interval=None)).safety_net == SAFETY_NET
    monkeypatch.setenv("AIRFLOW__TRANSACTIONLINK__SAFETY_NET", "45")
    assert patience_of(monkeypatch, trigger("e1", poll_interval=None)).safety_net == Pacing.every(45.0)
    monkeypatch.setenv("AIRFLOW__TRANSACTIONLINK__SAFETY_NET", "soon")
    assert patience_of(monkeypatch, trigger("e1", poll_interval=None)).safety_net == SAFETY_NET
