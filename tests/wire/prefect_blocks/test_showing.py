"""
What people see in Prefect: events, labels, artifacts; and what clients a process makes for it all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client, runtime

from prefect_blocks import (
    TransactionlinkWorkflow,
    arun_workflow,
    await_for_all,
    clients,
    run_workflow,
    showing,
    wait_for_all,
    wait_for_executions,
)
from prefect_blocks.versions import load_block
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow, credentials_for
from tl_orchestration import AsyncClient, Client


def events_about(resource: str, count: int) -> list[dict[str, Any]]:
    """
    So many events of a resource, as the server has them; they reach it a moment later.
    """
    body = {"filter": {"any_resource": {"id": [resource]}, "event": {"prefix": ["transactionlink."]}}, "limit": 50}
    ends = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            found: list[dict[str, Any]] = client.request("POST", "/events/filter", json=body).json()["events"]
            if len(found) >= count:
                return found
            assert time.monotonic() < ends, f"{len(found)} of {count} events"
            time.sleep(0.2)


def label_of(flow_run_id: str, name: str) -> Any:
    """
    A label of a flow run; it is there a moment after the start.
    """
    ends = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while name not in (labels := client.read_flow_run(UUID(flow_run_id)).labels):
            assert time.monotonic() < ends, f"no label {name}"
            time.sleep(0.05)
    return labels[name]


def artifacts(flow_run_id: str) -> list[dict[str, Any]]:
    body = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    with get_client(sync_client=True) as client:
        found: list[dict[str, Any]] = client.request("POST", "/artifacts/filter", json=body).json()
    return [each for each in found if (each["key"] or "").startswith("transactionlink")]


def test_execution_is_seen_in_its_flow_run(remote: Remote, workflow: MakeWorkflow) -> None:
    """A label, a link artifact to where the credentials say, an event for start and end; a retry repeats none."""
    block = workflow()
    block.credentials.execution_url = "https://kyc.example/runs/{execution_id}"
    seen: list[str] = []

    @flow(retries=1)
    def step() -> None:
        seen.append(str(runtime.flow_run.id))
        run = block.trigger()
        run.wait_for_completion()
        run.status()
        if len(seen) == 1:
            raise RuntimeError("the flow fails once")

    step()

    identifier = remote.starts()[0]["execution_id"]
    found = events_about(f"transactionlink.execution.{identifier}", 2)
    assert sorted(event["event"] for event in found if "changed" not in event["event"]) == [
        "transactionlink.execution.ended",
        "transactionlink.execution.started",
    ]
    related = {each["prefect.resource.id"] for event in found for each in event["related"]}
    assert f"prefect.flow-run.{seen[0]}" in related
    assert label_of(seen[0], "transactionlink.execution.kyc-approve#1") == identifier
    assert {artifact["data"] for artifact in artifacts(seen[0])} == {
        f"[Execution {identifier}](https://kyc.example/runs/{identifier})"
    }


def test_many_executions_have_progress_and_a_summary(remote: Remote, workflow: MakeWorkflow) -> None:
    """One progress artifact and one table with counts and ids."""
    block = workflow()
    ids = [block.trigger().execution_id for _ in range(3)]
    seen: list[str] = []

    @flow
    def waits() -> None:
        seen.append(str(runtime.flow_run.id))
        wait_for_executions(ids, "sandbox", poll_interval=0.05)

    waits()

    found = {artifact["type"]: artifact["data"] for artifact in artifacts(seen[0])}
    assert found["progress"] == 100.0
    assert "| SUCCEEDED | 3 |" in found["markdown"]
    assert all(each in found["markdown"] for each in ids)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_waiting_for_all_has_one_progress_artifact(remote: Remote, workflow: MakeWorkflow, kind: str) -> None:
    """A flow that waits again for the same executions, as after a suspension, goes on with the artifact."""
    block = workflow()
    seen: list[str] = []

    @flow
    def waits() -> None:
        seen.append(str(runtime.flow_run.id))
        runs = [block.trigger() for _ in range(3)]
        assert [execution.id for execution in wait_for_all(runs)] == [run.execution_id for run in runs]
        wait_for_all(runs)

    @flow
    async def awaits() -> None:
        seen.append(str(runtime.flow_run.id))
        runs = [await block.atrigger() for _ in range(3)]
        assert [execution.id for execution in await await_for_all(runs)] == [run.execution_id for run in runs]
        await await_for_all(runs)

    waits() if kind == "sync" else asyncio.run(awaits())

    assert [(each["type"], each["data"]) for each in artifacts(seen[0])] == [("progress", 100.0)]


def test_showing_that_fails_fails_no_step(
    remote: Remote, workflow: MakeWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks on the way to Prefect's pages, the execution is started and waited for."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("PLANTED")

    monkeypatch.setattr(showing, "_client", broken)
    monkeypatch.setattr(showing, "_send", broken)
    workflow()

    @flow
    def step() -> dict[str, Any]:
        return run_workflow("kyc", step_key="kyc")

    assert step()["status"] == "SUCCEEDED"


def test_one_client_for_all_runs_of_a_flow(
    remote: Remote, workflow: MakeWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps of a flow run share a client, with the event loop theirs, which is closed when the loop ends."""
    workflow()
    made: list[Client | AsyncClient] = []
    closed: list[AsyncClient] = []

    def counted(init: Callable[..., None]) -> Callable[..., None]:
        def counting(self: Any, *arguments: Any, **fields: Any) -> None:
            made.append(self)
            init(self, *arguments, **fields)

        return counting

    for kind in (Client, AsyncClient):
        monkeypatch.setattr(kind, "__init__", counted(kind.__init__))
    close = AsyncClient.close

    async def noted(self: AsyncClient) -> None:
        closed.append(self)
        await close(self)

    monkeypatch.setattr(AsyncClient, "close", noted)

    @flow
    def steps() -> None:
        for _ in range(3):
            run = load_block(TransactionlinkWorkflow, "kyc").trigger()
            run.wait_for_completion()

    @flow
    async def asteps() -> None:
        for _ in range(3):
            await arun_workflow("kyc")

    steps()
    assert len(made) == 1
    asyncio.run(asteps())
    assert len(made) == 2
    assert closed == made[1:]


def test_other_credentials_have_another_client(remote: Remote) -> None:
    """A token that has been replaced is never used on, and few idle clients are kept."""
    with clients.borrowed(credentials_for(remote)) as one, clients.borrowed(credentials_for(remote)) as same:
        assert one is same
    with clients.borrowed(credentials_for(remote, "tot_other")) as other:
        assert other is not one
    for n in range(8):
        with clients.borrowed(credentials_for(remote, f"tot_{n}")):
            pass
    with clients.borrowed(credentials_for(remote)) as anew:
        assert anew is not one
