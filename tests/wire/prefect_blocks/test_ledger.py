"""
The ledger in the inputs of a flow run, on a real Prefect server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow, get_client
from prefect.settings import PREFECT_API_URL

from prefect_blocks.ledger import FlowRunInputLedger, recorded
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import Event, Ledger, State
from tl_orchestration.ledger.conformance import LedgerConformance

RACER = """
import sys
from uuid import UUID
from prefect_blocks import TransactionlinkWorkflow
from prefect_blocks.ledger import FlowRunInputLedger
from tl_orchestration import RunRequest

block = TransactionlinkWorkflow.load("kyc", _sync=True)
with block.credentials.get_client(ledger=FlowRunInputLedger(UUID(sys.argv[1]))) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    print(client.run(RunRequest("kyc-approve"), key="step").id)
"""


@flow
def _empty() -> None:
    """A flow to have runs of."""


@pytest.fixture(scope="module")
def flow_run_id() -> UUID:
    """
    A flow run that nobody executes.
    """
    with get_client(sync_client=True) as client:
        return client.create_flow_run(_empty).id


class TestFlowRunInputLedger(LedgerConformance):
    """The suite that ships."""

    racers = 4

    @pytest.fixture(autouse=True)
    def _where(self, flow_run_id: UUID) -> None:
        self._flow_run_id = flow_run_id

    def ledger(self) -> Ledger:
        return FlowRunInputLedger(self._flow_run_id)

    def another(self, ledger: Ledger) -> Ledger:
        return FlowRunInputLedger(self._flow_run_id)


def _intent(at: float = 1.0) -> Event:
    return Event(state=State.INTENT, at=at)


def test_two_processes_start_once(remote: Remote, workflow: MakeWorkflow, flow_run_id: UUID) -> None:
    """Of two processes that are at the same step of a flow run, one starts, and the other goes on with that."""
    workflow()
    command = [sys.executable, "-W", "ignore", "-c", RACER, str(flow_run_id)]
    environment = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value()}
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = {racer.communicate(timeout=60)[0] for racer in racers}
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()

    assert [start["execution_id"] for start in remote.starts()] == [next(iter(said)).strip()]
    assert len(said) == 1


def test_steps_of_a_flow_run_are_listed(flow_run_id: UUID) -> None:
    """Each step comes once, with its newest entry and by what to cancel it, among whatever other inputs there are."""
    with get_client(sync_client=True) as client:
        of = client.create_flow_run(_empty).id
        client.create_flow_run_input(of, "tl-note", json.dumps("somebody else's"))
        client.create_flow_run_input(of, "approval", json.dumps({}))
    ledger = FlowRunInputLedger(of, credentials="sandbox", on_cancel="leave").for_namespace("service@host")
    ledger.claim("first#1", _intent(), None)
    ledger.append("first#1", Event(state=State.STARTED, at=2.0, execution_id="e-1"))
    ledger.claim("First-1", _intent(), None)

    found = {step.step: step for step in recorded(of)}

    assert list(found) == ["first#1", "First-1"]
    assert found["first#1"].entry == ledger.read("first#1")
    assert found["first#1"].entry.execution_id == "e-1"
    assert {(step.namespace, step.credentials, step.on_cancel) for step in found.values()} == {
        ("service@host", "sandbox", "leave")
    }


def test_services_do_not_share_keys(flow_run_id: UUID) -> None:
    """The same key at another service, host or workspace is another step."""
    ledger = FlowRunInputLedger(flow_run_id)
    ledger.for_namespace("one").claim("shared", _intent(), None)

    assert ledger.for_namespace("other").read("shared") is None


def test_own_write_whose_answer_was_lost_is_not_anothers(flow_run_id: UUID) -> None:
    """Prefect's client repeats a write that was answered 502; that the write is then in its own way is no lost race."""

    class Losing(httpx.HTTPTransport):
        lost = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.url.path.endswith("/input") and not self.lost:
                self.lost += 1
                return httpx.Response(502, request=request)
            return response

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.context import SyncClientContext

    losing = Losing()
    with SyncClientContext(httpx_settings=None) as context:
        assert isinstance(context.client, SyncPrefectClient)
        context.client._client._transport = losing
        entry = FlowRunInputLedger(flow_run_id).claim("lost-answer", _intent(), None)

    assert losing.lost == 1
    assert FlowRunInputLedger(flow_run_id).read("lost-answer") == entry


def test_unknown_flow_run_is_no_empty_ledger() -> None:
    """What cannot be written is an error that says where, never a step that may start."""
    nowhere = uuid4()

    with pytest.raises(LedgerError, match=str(nowhere)):
        FlowRunInputLedger(nowhere).claim("step", _intent(), None)
