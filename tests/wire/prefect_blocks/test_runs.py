"""
Runs: what they say, what they hand on, and when they cancel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client, runtime, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State as PrefectState
from prefect.client.schemas.objects import StateType
from prefect.exceptions import TerminationSignal
from pydantic import SecretStr

from prefect_blocks import TransactionlinkCredentials, TransactionlinkWorkflow, TransactionlinkWorkflowRun
from prefect_blocks.__main__ import main
from prefect_blocks.cancelling import cancel_executions_of, cancel_remote_executions
from prefect_blocks.ledger import FlowRunInputLedger, recorded
from prefect_blocks.notes import NotingLedger, kept
from prefect_blocks.versions import load_block
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow, credentials_for
from tl_orchestration import RunRequest
from tl_orchestration.errors import (
    ExecutionFailed,
    InvalidRequest,
    LedgerError,
    ResultNotReady,
    ResultShapeChanged,
    WaitTimeout,
)
from tl_orchestration.ledger import Event, State

Wait = Callable[[TransactionlinkWorkflowRun], Any]


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """
    Which of the twins.
    """
    return str(request.param)


def do(kind: str, run: TransactionlinkWorkflowRun, verb: str) -> Any:
    """Call a verb of a run, or its asynchronous twin."""
    if kind == "sync":
        return getattr(run, verb)()
    return asyncio.run(getattr(run, f"a{verb}")())


def test_verbs_say_how_it_stands(remote: Remote, workflow: MakeWorkflow, kind: str) -> None:
    """Status, wait, result and cancel give the same from both twins."""
    block = workflow("kyc-approve")
    run = block.trigger()

    assert do(kind, run, "wait_for_completion").id == run.execution_id
    assert do(kind, run, "status") == "SUCCEEDED"
    assert do(kind, run, "fetch_result")["decision"] == "approve"
    assert do(kind, run, "outcome") == {"execution_id": run.execution_id, "status": "SUCCEEDED", "fields": {}}
    slow = workflow("kyc-slow").trigger()
    assert do(kind, slow, "cancel") == "CANCELLED"
    assert [cancel["execution_id"] for cancel in remote.cancels()] == [slow.execution_id]


def test_outcome_has_what_the_block_names(remote: Remote, workflow: MakeWorkflow, kind: str) -> None:
    """Fields by their paths, the whole result only where the block says ``full``."""
    block = workflow(result="full", result_fields={"decision": "decision"})
    run = block.trigger()
    with pytest.raises(ResultNotReady):
        do(kind, workflow("kyc-slow").trigger(), "outcome")

    do(kind, run, "wait_for_completion")
    outcome = do(kind, run, "outcome")

    assert outcome["fields"] == {"decision": "approve"}
    assert outcome["result"] == do(kind, run, "fetch_result")


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"fail_when": "decision == 'approve'"}, ExecutionFailed), ({"fail_when": "renamed == 'X'"}, ResultShapeChanged)],
)
def test_verdict_fails_closed(remote: Remote, workflow: MakeWorkflow, fields: dict[str, Any], error: Any) -> None:
    """A verdict that holds fails the step, and so does one that cannot be read."""
    run = workflow(**fields).trigger()
    run.wait_for_completion()

    with pytest.raises(error):
        run.outcome()


def test_failing_polls_do_not_fail_the_wait(remote: Remote, workflow: MakeWorkflow, kind: str) -> None:
    """A service that is in trouble for some polls does not fail a healthy execution."""
    run = workflow("kyc-approve").trigger()
    remote.order("status", "status", status=503, times=2)
    remote.order("status", "drop", times=1)

    assert do(kind, run, "wait_for_completion").id == run.execution_id


@pytest.mark.parametrize(("on_cancel", "cancels"), [("cancel", 1), ("leave", 0)])
def test_deadline_cancels_what_is_ours(
    remote: Remote, workflow: MakeWorkflow, kind: str, on_cancel: str, cancels: int
) -> None:
    """The deadline of an own execution cancels it, unless the block says to leave it."""
    run = workflow("kyc-slow", timeout=0.5, on_cancel=on_cancel).trigger()

    with pytest.raises(WaitTimeout):
        do(kind, run, "wait_for_completion")
    assert len(remote.cancels()) == cancels


def test_attached_run_owns_nothing(remote: Remote, workflow: MakeWorkflow, kind: str) -> None:
    """The end of a wait for somebody else's execution leaves it alone."""
    block = workflow("kyc-slow")
    run = block.attach(block.trigger().execution_id, timeout=0.3)

    with pytest.raises(WaitTimeout):
        do(kind, run, "wait_for_completion")
    assert remote.cancels() == []


# -- the end of the process --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """
    SIGTERM as Prefect's engine takes it.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        raise TerminationSignal(signal=number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def told_to_stop(
    ready: Callable[[], object], flow_run: list[UUID], *, decided: bool, stop: Callable[[], object]
) -> None:
    """
    From another thread: once ``ready``, cancel the flow run if so decided, then stop it.
    """

    def act() -> None:
        ready()
        if decided:
            with get_client(sync_client=True) as client:
                cancelling = PrefectState(type=StateType.CANCELLING, name="Cancelling")
                client.set_flow_run_state(flow_run[0], cancelling, force=True)
        stop()

    threading.Thread(target=act, daemon=True).start()


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


CASES = [
    pytest.param("trigger", True, "cancel", 1, id="a person cancels"),
    pytest.param("trigger", False, "cancel", 0, id="the worker goes away"),
    pytest.param("trigger", True, "leave", 0, id="the block says leave"),
    pytest.param("attach", True, "cancel", 0, id="attached"),
]


@pytest.mark.parametrize(("how", "decided", "on_cancel", "cancels"), CASES)
def test_stop_while_waiting(
    remote: Remote, workflow: MakeWorkflow, how: str, decided: bool, on_cancel: str, cancels: int
) -> None:
    """SIGTERM cancels the execution only where a person cancelled the flow run and the execution is its own."""
    block, flow_run = workflow("kyc-slow", on_cancel=on_cancel), []
    foreign = block.trigger().execution_id if how == "attach" else ""

    @flow
    def waits() -> None:
        flow_run.append(UUID(str(runtime.flow_run.id)))
        run = block.attach(foreign) if foreign else block.trigger()
        told_to_stop(lambda: remote.wait_for("GET /workflows/{id}", 2), flow_run, decided=decided, stop=sigterm)
        run.wait_for_completion()

    with terminated(), pytest.raises(TerminationSignal):
        waits()
    assert len(remote.cancels()) == cancels


@pytest.mark.parametrize(("decided", "cancels"), [(True, 1), (False, 0)])
def test_cancelled_coroutine_while_waiting(remote: Remote, workflow: MakeWorkflow, decided: bool, cancels: int) -> None:
    """An asynchronous flow that is cancelled asks the same question."""
    block, flow_run = workflow("kyc-slow"), []

    @flow
    async def waits() -> None:
        flow_run.append(UUID(str(runtime.flow_run.id)))
        run = await block.atrigger()
        here, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert here is not None
        told_to_stop(
            lambda: remote.wait_for("GET /workflows/{id}", 2),
            flow_run,
            decided=decided,
            stop=lambda: loop.call_soon_threadsafe(here.cancel),
        )
        await run.await_for_completion()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(waits())
    assert len(remote.cancels()) == cancels


@pytest.mark.parametrize(("decided", "cancels"), [(True, 1), (False, 0)])
def test_stop_while_starting(
    remote: Remote, workflow: MakeWorkflow, let_go: threading.Event, decided: bool, cancels: int
) -> None:
    """A start that is under way is not cut off: its id is recorded, and cancelled where a person decided so."""
    block, flow_run = workflow("kyc-slow"), []
    remote.order("start", "hold", seconds=60)

    def stop() -> None:
        sigterm()
        time.sleep(0.5)
        let_go.set()

    @flow
    def starts() -> None:
        flow_run.append(UUID(str(runtime.flow_run.id)))
        told_to_stop(lambda: remote.wait_for("POST /workflows", 1), flow_run, decided=decided, stop=stop)
        block.trigger()

    with terminated(), pytest.raises(TerminationSignal):
        starts()
    assert len(remote.cancels()) == cancels
    (step,) = recorded(flow_run[0])
    assert step.entry.execution_id == remote.starts()[0]["execution_id"]
    assert step.entry.state in ({State.SETTLED, State.CANCEL_REQUESTED} if decided else {State.STARTED})


def test_no_answer_is_no_decision(remote: Remote, workflow: MakeWorkflow) -> None:
    """Where the server cannot be asked, the execution is left for the next attempt."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from prefect_blocks import decisions

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert not decisions.somebody_decided(UUID(int=1))
    assert not decisions.somebody_decided(UUID(int=1))


@pytest.mark.parametrize("where", ["task", "flow", "async flow"])
@pytest.mark.parametrize("holds", [False, True], ids=["while waiting", "while starting"])
def test_time_out_of_prefect_is_a_decision(remote: Remote, workflow: MakeWorkflow, where: str, *, holds: bool) -> None:
    """``timeout_seconds`` of a task or a flow cancels what it has started, without asking anybody."""
    block, limit = workflow("kyc-slow"), 4.0  # long enough for a start where much else goes on
    if holds:
        remote.order("start", "hold", seconds=limit + 1)

    @task(timeout_seconds=limit)
    def step() -> None:
        block.trigger(step_key="kyc").wait_for_completion()

    @flow
    def with_task() -> None:
        step()

    @flow(timeout_seconds=limit)
    def timed() -> None:
        block.trigger(step_key="kyc").wait_for_completion()

    @flow(timeout_seconds=limit)
    async def atimed() -> None:
        run = await block.atrigger(step_key="kyc")
        await run.await_for_completion()

    with pytest.raises(TimeoutError):
        asyncio.run(atimed()) if where == "async flow" else {"task": with_task, "flow": timed}[where]()
    assert len(remote.starts()) == 1
    assert [cancel["execution_id"] for cancel in remote.cancels()] == [remote.starts()[0]["execution_id"]]


def test_time_out_of_the_flow_around_a_subflow(remote: Remote, workflow: MakeWorkflow, kind: str) -> None:
    """The limit of the outer flow has passed, that of the subflow which waits has not: a decision all the same."""
    block = workflow("kyc-slow")

    @flow(timeout_seconds=600)
    def inner() -> None:
        block.trigger(step_key="kyc").wait_for_completion()

    @flow(timeout_seconds=600)
    async def ainner() -> None:
        run = await block.atrigger(step_key="kyc")
        await run.await_for_completion()

    @flow(timeout_seconds=12)
    def outer() -> None:
        inner()

    @flow(timeout_seconds=12)
    async def aouter() -> None:
        await ainner()

    with pytest.raises(TimeoutError):
        outer() if kind == "sync" else asyncio.run(aouter())
    assert [cancel["execution_id"] for cancel in remote.cancels()] == [remote.starts()[0]["execution_id"]]


# -- credentials and keys ----------------------------------------------------------------------------------------------


def test_rotated_token_is_read_from_its_block(remote: Remote, workflow: MakeWorkflow) -> None:
    """A refused token is read again from the saved block, by its name, while an execution is waited for."""
    block = workflow("kyc-approve")
    credentials_for(remote, "tot_rotated-away").save("rotated", overwrite=True)
    loaded = load_block(TransactionlinkCredentials, "rotated")
    credentials_for(remote).save("rotated", overwrite=True)

    with loaded.get_client() as client:
        assert client.poll(block.trigger().execution_id).raw_status


@pytest.fixture
def keyed(remote: Remote, tmp_path: Path, sandbox: TransactionlinkCredentials) -> MakeWorkflow:
    """
    Makes workflow blocks whose credentials, saved as ``keyed``, name a SQL ledger.
    """
    credentials_for(remote, ledger_url=f"sqlite:///{tmp_path}/ledger.db").save("keyed", overwrite=True)
    credentials = load_block(TransactionlinkCredentials, "keyed")

    def make(definition: str = "kyc-approve", **fields: Any) -> TransactionlinkWorkflow:
        return TransactionlinkWorkflow(
            credentials=credentials, workflow_definition_id=definition, **{"poll_interval": 0.05, **fields}
        )

    return make


def test_business_key_is_found_from_another_flow_run(remote: Remote, keyed: MakeWorkflow) -> None:
    """A key names one execution over all flow runs, in the SQL ledger of the credentials."""
    block = keyed()

    @flow
    def onboard() -> str:
        return block.trigger(key="customer-7").execution_id

    assert onboard() == onboard()
    assert len(remote.starts()) == 1


def test_only_the_flow_run_that_started_a_key_cancels_it(remote: Remote, keyed: MakeWorkflow) -> None:
    """The hook finds what was started with a key; a flow run that has found it there leaves it alone."""
    block = keyed("kyc-slow")
    owners: list[tuple[str, bool]] = []

    @flow(retries=1)
    def onboard() -> None:
        owners.append((str(runtime.flow_run.id), block.trigger(key="customer-7").owned))
        if len(owners) == 1:
            raise RuntimeError("the flow fails once")

    onboard()
    onboard()

    assert [owned for _, owned in owners] == [True, True, False]
    assert cancel_executions_of(UUID(owners[2][0])) == []
    assert remote.cancels() == []
    (outcome,) = cancel_executions_of(UUID(owners[0][0]))
    assert (outcome.step, outcome.what) == ("customer-7", "cancelled")
    assert len(remote.cancels()) == 1


def test_suspect_is_cancelled_with_its_step(remote: Remote, workflow: MakeWorkflow) -> None:
    """After a restart that followed a start of unknown fate, both executions are ended, where both ids are known."""
    block = workflow("kyc-slow")
    suspect, own = (block.trigger().execution_id for _ in range(2))
    here: list[UUID] = []

    @flow
    def steps() -> None:
        here.append(UUID(str(runtime.flow_run.id)))

    steps()
    ledger = FlowRunInputLedger(here[0], credentials="sandbox").for_namespace("transactionlink@" + remote.url[7:])
    entry = ledger.claim("kyc", Event(state=State.INTENT, at=1.0), None)
    entry = ledger.append("kyc", Event(state=State.UNKNOWN, at=2.0, execution_id=suspect))
    ledger.claim("kyc", Event(state=State.INTENT, at=3.0), entry)
    ledger.append("kyc", Event(state=State.STARTED, at=4.0, execution_id=own))

    outcomes = cancel_executions_of(here[0])

    assert [(outcome.execution_id, outcome.what) for outcome in outcomes] == [
        (own, "cancelled"),
        (suspect, "cancelled"),
    ]
    assert {cancel["execution_id"] for cancel in remote.cancels()} == {suspect, own}
    (step,) = recorded(here[0])
    assert step.entry.cancel_requested


def test_note_of_another_start_cancels_nothing(remote: Remote, keyed: MakeWorkflow) -> None:
    """A flow run that has meant to start what somebody else then started does not take it for its own."""
    block = keyed("kyc-slow")
    here: list[UUID] = []

    @flow
    def loses() -> None:
        here.append(UUID(str(runtime.flow_run.id)))
        ledger = NotingLedger(
            block.credentials.sql_ledger(), here[0], credentials="keyed", on_cancel="cancel"
        ).for_namespace("transactionlink@" + remote.url[7:])
        started = ledger.read("customer-8")
        with pytest.raises(LedgerError, match="claimed"):
            ledger.claim("customer-8", Event(state=State.INTENT, at=1.0), None)
        assert started is not None

    @flow
    def wins() -> None:
        block.trigger(key="customer-8")

    wins()
    loses()

    assert len(kept(here[0])) == 1
    assert cancel_executions_of(here[0]) == []
    assert remote.cancels() == []


def test_subflow_is_shown_alone(keyed: MakeWorkflow, capsys: pytest.CaptureFixture[str]) -> None:
    """What `cancel` of a flow run ends is what `show` of it tells, also of a subflow, and with business keys."""
    block = keyed()
    started: dict[str, str] = {}
    runs: dict[str, str] = {}

    @flow
    def child() -> None:
        runs["child"] = str(runtime.flow_run.id)
        started["below"] = block.trigger(step_key="below").execution_id
        block.trigger(key="customer-10")

    @flow
    def parent() -> None:
        runs["parent"] = str(runtime.flow_run.id)
        started["above"] = block.trigger(step_key="above").execution_id
        block.trigger(key="customer-11")
        child()

    parent()

    assert main(["show", runs["child"]]) == 0
    step, key = capsys.readouterr().out.splitlines()
    assert started["below"] in step
    assert "customer-10" in key
    assert "credentials keyed" in key
    assert main(["show", runs["child"], "below"]) == 0
    assert started["below"] in capsys.readouterr().out
    assert main(["show", runs["parent"]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_note_that_prefect_does_not_take_starts_nothing(remote: Remote, keyed: MakeWorkflow) -> None:
    """An execution that nobody could cancel is not started: the error is one that a retry may mend."""
    block = keyed()
    ledger = NotingLedger(block.credentials.sql_ledger(), uuid4(), credentials="keyed", on_cancel="cancel")

    with block.credentials.get_client(ledger=ledger) as client, pytest.raises(LedgerError, match="Nothing was sent"):
        client.run(RunRequest("kyc-approve"), key="customer-9")
    assert remote.starts() == []


def test_subflow_is_cancelled_alone(remote: Remote, sandbox: TransactionlinkCredentials) -> None:
    """
    What a subflow has started, or has gone on with under another id after a retry of its parent, ends with it; what its
    parent and other subflows have started does not. Hooks find it, too.
    """
    remote.define("kyc-slow")
    block = TransactionlinkWorkflow(credentials=sandbox, workflow_definition_id="kyc-slow")
    seen: dict[str, str] = {}
    runs: dict[str, list[UUID]] = {}

    @flow
    def child(name: str) -> None:
        runs.setdefault(name, []).append(UUID(str(runtime.flow_run.id)))
        grandchild(f"below {name}")
        seen[name] = block.trigger(step_key=name).execution_id

    @flow
    def grandchild(name: str) -> None:
        seen[name] = block.trigger(step_key=name).execution_id

    @flow(retries=1)
    def parent() -> None:
        runs.setdefault("parent", []).append(UUID(str(runtime.flow_run.id)))
        seen["parent"] = block.trigger(step_key="parent").execution_id
        child("one")
        child("two")
        if len(runs["parent"]) == 1:
            raise RuntimeError("the flow fails once")

    parent()

    assert len(remote.starts()) == 5
    with get_client(sync_client=True) as client:
        found = [client.read_flow_run(ids[-1]) for ids in runs.values()]
    cancel_executions_of(runs["one"][-1])
    assert {cancel["execution_id"] for cancel in remote.cancels()} == {seen["one"], seen["below one"]}
    crashed = PrefectState[Any](type=StateType.CRASHED)
    cancel_remote_executions(child, next(run for run in found if run.id == runs["two"][-1]), crashed)
    assert {cancel["execution_id"] for cancel in remote.cancels()} == set(seen.values()) - {seen["parent"]}
    cancel_executions_of(runs["parent"][-1])
    assert {cancel["execution_id"] for cancel in remote.cancels()} == set(seen.values())


def test_subflow_whose_note_is_not_taken_starts_nothing(
    remote: Remote, workflow: MakeWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the note nobody would find the execution when the subflow is cancelled."""
    block = workflow()

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError("the server is away")

    @flow
    def child() -> None:
        monkeypatch.setattr(SyncPrefectClient, "create_flow_run_input", refuses)
        block.trigger(step_key="kyc")

    @flow
    def parent() -> None:
        child()

    with pytest.raises(LedgerError, match="does not take the note that step kyc"):
        parent()
    assert remote.starts() == []


def test_service_that_cannot_cancel_fails_no_cleanup(remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    """The legacy service has no cancel, and no retry can mend that: the execution is left, and the log says so."""
    legacy: dict[str, Any] = {"service": "transactionlink-legacy", "key": "sandbox-key"}
    secret = SecretStr("sandbox-secret")
    TransactionlinkCredentials(secret=secret, base_url=remote.url, **legacy).save("legacy", overwrite=True)
    saved = load_block(TransactionlinkCredentials, "legacy")
    remote.define("kyc-slow")
    block = TransactionlinkWorkflow(credentials=saved, workflow_definition_id="kyc-slow")
    here: list[UUID] = []

    @flow
    def starts() -> None:
        here.append(UUID(str(runtime.flow_run.id)))
        block.trigger()

    starts()

    (outcome,) = cancel_executions_of(here[0])
    assert outcome.what == "left"
    assert "The legacy API cannot cancel" in caplog.text


def test_unknown_argument_is_refused(remote: Remote, workflow: MakeWorkflow) -> None:
    """A misspelt argument starts nothing."""
    with pytest.raises(InvalidRequest, match="'stepkey'"):
        workflow().trigger(stepkey="kyc")  # type: ignore[call-arg]
    assert remote.starts() == []
