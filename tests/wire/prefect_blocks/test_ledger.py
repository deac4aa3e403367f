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
from tl_orchestration.errors import LedgerError, RequestChanged
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


def test_key_is_one_step_wherever_its_credentials_lead_to(flow_run_id: UUID) -> None:
    """What was started at another service, host or workspace is neither taken for nothing nor for this one's."""
    ledger = FlowRunInputLedger(flow_run_id)
    elsewhere = ledger.for_namespace("service@one")
    elsewhere.claim("shared", _intent(), None)

    with pytest.raises(RequestChanged, match=r"an execution at service@one, .* lead to service@other/w"):
        ledger.for_namespace("service@other/w").read("shared")
    elsewhere.append("shared", Event(state=State.STARTED, at=2.0, execution_id="e-1"))
    with pytest.raises(RequestChanged, match="e-1 at service@one") as caught:
        ledger.for_namespace("service@other/w").read("shared")
    assert (caught.value.execution_id, caught.value.retryable) == ("e-1", False)


def test_refused_start_elsewhere_stands_in_nobodys_way(flow_run_id: UUID) -> None:
    """Credentials that were wrong can be mended; what was made at the wrong place is not used at the right one."""
    ledger = FlowRunInputLedger(flow_run_id, counted=True)
    wrong, right = ledger.for_namespace("service@wrong"), ledger.for_namespace("service@right")
    wrong.claim("mended", Event(state=State.INTENT, at=1.0, progress={"case_id": "c-1"}), None)
    wrong.append("mended", Event(state=State.REJECTED, at=2.0))

    found = right.read("mended")

    assert found is not None
    assert (found.state, dict(found.progress)) == (State.REJECTED, {})
    right.claim("mended", _intent(3.0), found)
    assert right.read("mended") is not None
    (step,) = [one for one in recorded(flow_run_id) if one.step == "mended"]
    assert (step.namespace, step.counted) == ("service@right", True)


def test_whoever_adds_to_a_step_leaves_it_where_it_belongs(flow_run_id: UUID) -> None:
    """What credentials that were edited since add is recorded, and the step keeps its place and the kind of its key."""
    FlowRunInputLedger(flow_run_id, counted=True).for_namespace("service@one").claim("kept#1", _intent(), None)
    FlowRunInputLedger(flow_run_id).for_namespace("service@other").append(
        "kept#1", Event(state=State.STARTED, at=2.0, execution_id="e-1")
    )

    (step,) = [one for one in recorded(flow_run_id) if one.step == "kept#1"]

    assert (step.namespace, step.counted, step.entry.execution_id) == ("service@one", True, "e-1")


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
