"""
The watcher of an asset, over a real inbox and the sandbox, with an asset's state that answers as Airflow's does.
"""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider import completions, event_trigger, shared_clients
from airflow_provider.event_trigger import TransactionlinkWorkflowEventTrigger
from tests.unit.airflow_provider.services import CONN_ID, client_of, connect
from tl_orchestration import RunRequest
from tl_orchestration.webhooks.inbox import Arrival, Inbox

if TYPE_CHECKING:
    from pathlib import Path

    from tests.remote import Remote


class AssetState:
    """``aget`` and ``aset`` of JSON values, as Airflow has them for an asset."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = json.dumps(value)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(f"sqlite:///{tmp_path}/inbox.db")


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, remote: Remote, inbox: Inbox) -> None:
    connect(monkeypatch, remote.url, "transactionlink", {"inbox_url": str(inbox.database.address)})
    monkeypatch.setattr(event_trigger, "_INTERVAL", 0.05)
    monkeypatch.setattr(completions, "UNDER_WAY", 0.2)


def watcher(state: AssetState | None = None, **arguments: Any) -> TransactionlinkWorkflowEventTrigger:
    """As the triggerer makes it, from what was stored of it."""
    first = TransactionlinkWorkflowEventTrigger(transactionlink_conn_id=CONN_ID, **arguments)
    path, stored = first.serialize()
    assert path == f"{type(first).__module__}.{type(first).__name__}"
    trigger = TransactionlinkWorkflowEventTrigger(**json.loads(json.dumps(stored)))
    trigger.asset_state_store = SimpleNamespace(_by_name={"asset": state or AssetState()})  # type: ignore[assignment]
    return trigger


def ended(remote: Remote, definition: str = "kyc-approve") -> str:
    remote.define(definition, duration=0)
    with client_of("transactionlink", remote.url) as client:
        return client.wait(client.run(RunRequest(definition))).id


def announce(inbox: Inbox, *execution_ids: str) -> None:
    now = time.time()
    digests = [f"{time.monotonic_ns()}-{number}" for number in range(len(execution_ids))]
    inbox.put(
        Arrival("transactionlink", one, "", digest, now) for one, digest in zip(execution_ids, digests, strict=True)
    )


async def watched(trigger: TransactionlinkWorkflowEventTrigger, count: int, rest: float = 0.0) -> list[dict[str, Any]]:
    """The payloads of so many events, and of those that come in the time after them."""
    found: list[dict[str, Any]] = []
    enough = asyncio.Event()

    async def collect() -> None:
        async for event in trigger.run():
            found.append(json.loads(json.dumps(event.payload)))
            if len(found) >= count:
                enough.set()

    task = asyncio.create_task(collect())
    await asyncio.wait([task, asyncio.create_task(enough.wait())], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(rest)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    for shared in shared_clients._pools.pop(asyncio.get_running_loop()).clients.values():
        await shared.client.close()
    return found


def test_completion_is_an_event_of_ids_and_states(remote: Remote, inbox: Inbox) -> None:
    """One event for an execution that is announced three times; none for one that goes on or that nobody knows."""
    execution_id = ended(remote)
    with client_of("transactionlink", remote.url) as client:
        going_on = client.run(RunRequest("kyc-slow")).id
    announce(inbox, execution_id, going_on, "nobody", execution_id, execution_id)
    (payload,) = asyncio.run(watched(watcher(), 1, rest=0.3))
    assert payload == {
        "format": 1,
        "execution_id": execution_id,
        "status": "SUCCEEDED",
        "service": "transactionlink",
        "workflow_definition_id": payload["workflow_definition_id"],
    }
    assert remote.cancels() == []


def test_other_definitions_are_passed_over(remote: Remote, inbox: Inbox) -> None:
    """Only what the watcher was asked for."""
    other, wanted = ended(remote, "kyc-reject"), ended(remote)
    announce(inbox, other, wanted)
    found = asyncio.run(watched(watcher(workflow_definition_id="kyc-approve"), 1, rest=0.3))
    assert [one["execution_id"] for one in found] == [wanted]


def test_definition_that_is_not_told_holds_nothing_back(
    remote: Remote, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The legacy API tells no definition: a watcher that asks for one reports all, and one warning says why."""
    connect(monkeypatch, remote.url, "transactionlink-legacy", {"inbox_url": str(inbox.database.address)})
    remote.define("kyc-approve", duration=0)
    with client_of("transactionlink-legacy", remote.url) as client:
        ids = [client.wait(client.run(RunRequest("kyc-approve"))).id for _ in range(2)]
    announce(inbox, *ids)
    found = asyncio.run(watched(watcher(workflow_definition_id="kyc-approve"), 2))
    assert {one["execution_id"]: one["workflow_definition_id"] for one in found} == dict.fromkeys(ids)
    assert capsys.readouterr().out.count("workflow_definition_id='kyc-approve' holds nothing back") == 1


def test_restart_misses_nothing_and_repeats_nothing(remote: Remote, inbox: Inbox) -> None:
    """What was announced meanwhile comes, what was reported before does not; the state has ids and numbers only."""
    state, first = AssetState(), ended(remote)
    announce(inbox, first)
    assert len(asyncio.run(watched(watcher(state), 1, rest=0.6))) == 1
    kept = json.loads(next(iter(state.values.values())))
    assert kept["reported"] == [first]
    meanwhile = ended(remote)
    announce(inbox, first, meanwhile)
    found = asyncio.run(watched(watcher(state), 1, rest=0.3))
    assert [one["execution_id"] for one in found] == [meanwhile]


def test_inbox_that_was_made_anew_is_read_from_its_beginning(remote: Remote, inbox: Inbox) -> None:
    """Its numbers are lower than the place that was kept, beyond which nothing would ever come."""
    state, execution_id = AssetState(), ended(remote)
    kept = {"format": 1, "cursor": "5000", "reported": []}
    state.values["transactionlink_completions"] = json.dumps(kept)
    announce(inbox, execution_id)
    (payload,) = asyncio.run(watched(watcher(state), 1))
    assert payload["execution_id"] == execution_id


def test_event_that_may_be_lost_comes_again(remote: Remote, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A triggerer that dies right after an event may have taken it along, so the next one reports it."""
    monkeypatch.setattr(completions, "UNDER_WAY", 60.0)
    state, execution_id = AssetState(), ended(remote)
    announce(inbox, execution_id)
    for _ in range(2):
        (payload,) = asyncio.run(watched(watcher(state), 1, rest=0.2))
        assert payload["execution_id"] == execution_id


def test_service_that_is_away_loses_nothing(
    remote: Remote, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked again until it answers, and one warning says so."""
    monkeypatch.setattr(completions, "_FIRST_PAUSE", 0.05)
    execution_id = ended(remote)
    remote.order("status", "status", status=503, times=8)
    announce(inbox, execution_id)
    (payload,) = asyncio.run(watched(watcher(), 1))
    assert payload["execution_id"] == execution_id
    assert capsys.readouterr().out.count("Completions are looked for again") == 1


def test_watcher_without_an_inbox_waits_for_one(
    remote: Remote, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what is missing, and goes on once the connection names one."""
    monkeypatch.setattr(event_trigger, "_PAUSE", 0.1)
    connect(monkeypatch, remote.url, "transactionlink")
    announce(inbox, execution_id := ended(remote))

    async def main() -> list[dict[str, Any]]:
        task = asyncio.create_task(watched(watcher(), 1))
        await asyncio.sleep(0.4)
        connect(monkeypatch, remote.url, "transactionlink", {"inbox_url": str(inbox.database.address)})
        return await task

    (payload,) = asyncio.run(main())
    assert payload["execution_id"] == execution_id
    assert (
        capsys.readouterr().out.count("neither connection 'KYC_service' (inbox_url) nor [transactionlink] inbox_url")
        == 1
    )
