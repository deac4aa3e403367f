"""
Runs and tasks outside of any flow, against the sandbox: what they say of an execution, and what they may do to it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal
from pydantic import SecretStr

from prefect_blocks import TransactionlinkCredentials, TransactionlinkWorkflow, TransactionlinkWorkflowRun, tasks, twins
from tests.remote import NOBODY, TOKEN, Remote
from tests.unit.prefect_blocks.prefect_server import PrefectServer
from tl_orchestration import Handle
from tl_orchestration.errors import (
    ExecutionFailed,
    InvalidRequest,
    NotFound,
    ResultNotReady,
    ServerError,
    WaitTimeout,
)


@pytest.fixture
def credentials(remote: Remote) -> TransactionlinkCredentials:
    """
    Of the sandbox.
    """
    return TransactionlinkCredentials(token=SecretStr(TOKEN), base_url=remote.url)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """
    What runs log, which the other tests do without.
    """
    caplog.set_level(logging.INFO)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).disabled = False
    return caplog


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """
    Which of the twins.
    """
    return str(request.param)


def started(
    remote: Remote, credentials: TransactionlinkCredentials, definition: str = "kyc-approve", **fields: Any
) -> TransactionlinkWorkflowRun:
    """An execution of a script's own."""
    if definition != "kyc-slow":
        remote.define(definition, duration=0.02)
    settings: dict[str, Any] = {"poll_interval": 0.02, **fields}
    block = TransactionlinkWorkflow(credentials=credentials, workflow_definition_id=definition, **settings)
    return block.trigger()


def do(kind: str, owner: Any, verb: str, *arguments: Any, **named: Any) -> Any:
    """Call something by name, or its asynchronous twin."""
    if kind == "sync":
        return getattr(owner, verb)(*arguments, **named)
    return asyncio.run(getattr(owner, f"a{verb}")(*arguments, **named))


def test_outcome_before_and_after_the_end(remote: Remote, credentials: TransactionlinkCredentials, kind: str) -> None:
    """It is asked for where nobody has seen the end yet, and not again where somebody has."""
    slow = started(remote, credentials, "kyc-slow")
    with pytest.raises(ResultNotReady, match="wait for it first"):
        do(kind, slow, "outcome")
    run = started(remote, credentials, result="full", result_fields={"decision": "decision"})
    do(kind, run, "wait_for_completion")
    polls = remote.count("GET /workflows/{id}")

    said = do(kind, run, "outcome")

    assert remote.count("GET /workflows/{id}") == polls
    assert said["fields"] == {"decision": "approve"}
    assert said["result"] == do(kind, run, "fetch_result")
    another = run.workflow.attach(run.execution_id)
    assert do(kind, another, "outcome") == said
    assert remote.count("GET /workflows/{id}") == polls + 1


def test_ending_without_success(remote: Remote, credentials: TransactionlinkCredentials, kind: str) -> None:
    """Wait and outcome raise, status says it; the event and the line in the log come once for each change."""
    run = started(remote, credentials, "kyc-fail")

    with pytest.raises(ExecutionFailed):
        do(kind, run, "wait_for_completion")
    assert do(kind, run, "status") == "FAILED"
    with pytest.raises(ExecutionFailed):
        do(kind, run, "outcome")


def test_script_without_a_server_needs_none(remote: Remote, credentials: TransactionlinkCredentials) -> None:
    """Prefect would start a server of its own for the first event."""
    from prefect.server.api.server import SubprocessASGIServer

    def servers() -> list[object]:
        return [server.server_process for server in SubprocessASGIServer._instances.values()]

    before = servers()
    started(remote, credentials).wait_for_completion()
    assert servers() == before


def test_each_change_is_told_once(
    remote: Remote, credentials: TransactionlinkCredentials, said: pytest.LogCaptureFixture
) -> None:
    """Whichever verb sees it."""
    run = started(remote, credentials)
    run.wait_for_completion()
    run.status()
    run.cancel()

    lines = [line for line in said.messages if line == f"Execution {run.execution_id} is SUCCEEDED."]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("on_cancel", "own", "cancels"), [("cancel", True, 1), ("leave", True, 0), ("cancel", False, 0)]
)
def test_deadline(
    remote: Remote, credentials: TransactionlinkCredentials, kind: str, on_cancel: str, *, own: bool, cancels: int
) -> None:
    """It cancels what is the run's own, unless the block says leave."""
    run = started(remote, credentials, "kyc-slow", timeout=0.2, on_cancel=on_cancel)
    run.handle = Handle(execution_id=run.execution_id, deadline=run.handle.deadline, owned=own)

    with pytest.raises(WaitTimeout):
        do(kind, run, "wait_for_completion")
    assert len(remote.cancels()) == cancels


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_look_is_short_and_cancels_nothing(
    remote: Remote, credentials: TransactionlinkCredentials, seconds: float
) -> None:
    """None while it runs, and the execution once it has ended, whatever its ending."""
    slow = started(remote, credentials, "kyc-slow")
    ended = started(remote, credentials, "kyc-fail")
    with pytest.raises(ExecutionFailed):
        ended.wait_for_completion()

    assert twins.run(slow.look(seconds)) is None
    found = twins.run(ended.look(seconds))
    assert found is not None
    assert found.id == ended.execution_id
    assert remote.cancels() == []


def test_look_to_the_end(remote: Remote, credentials: TransactionlinkCredentials) -> None:
    """Without a limit, or where the deadline is nearer than the limit, the deadline is kept."""
    for seconds in (None, 60.0):
        slow = started(remote, credentials, "kyc-slow", timeout=0.2)
        with pytest.raises(WaitTimeout):
            twins.run(slow.look(seconds))
    assert len(remote.cancels()) == 2


@pytest.mark.parametrize(("state", "cancels"), [("CANCELLING", 1), ("RUNNING", 0)])
def test_cancel_if_decided(
    remote: Remote,
    credentials: TransactionlinkCredentials,
    prefect_server: PrefectServer,
    said: pytest.LogCaptureFixture,
    state: str,
    cancels: int,
) -> None:
    """Told to stop, a run asks for its flow run; an attached one and one whose block says leave do not."""
    flow_run = prefect_server.flow_run(state)
    own = started(remote, credentials, "kyc-slow")
    left = started(remote, credentials, "kyc-slow", on_cancel="leave")
    for run in (own, left, own.workflow.attach(left.execution_id)):
        TransactionlinkWorkflowRun(run.workflow, run.handle, flow_run_id=flow_run).cancel_if_decided()

    assert [cancel["execution_id"] for cancel in remote.cancels()] == [own.execution_id] * cancels
    assert (f"Execution {own.execution_id} was cancelled." in said.text) is bool(cancels)
    assert left.cancel_quickly() is None


def test_signal_in_a_wait(
    remote: Remote,
    credentials: TransactionlinkCredentials,
    prefect_server: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait hands the signal on after the cancel."""
    run = started(remote, credentials, "kyc-slow")
    own = TransactionlinkWorkflowRun(run.workflow, run.handle, flow_run_id=prefect_server.flow_run("CANCELLING"))

    def ended(*_: object, **__: object) -> None:
        raise TerminationSignal(15)

    monkeypatch.setattr("tl_orchestration.Client.wait", ended)
    with pytest.raises(TerminationSignal):
        own.wait_for_completion()
    assert len(remote.cancels()) == 1


# -- tasks -------------------------------------------------------------------------------------------------------------


def ask(kind: str, name: str, *arguments: Any, **named: Any) -> Any:
    """The function of a task, or of its asynchronous twin."""
    if kind == "sync":
        return getattr(tasks, name).fn(*arguments, **named)
    return asyncio.run(getattr(tasks, f"a{name}").fn(*arguments, **named))


def test_tasks_take_ids_and_outcomes(remote: Remote, credentials: TransactionlinkCredentials, kind: str) -> None:
    """Run, wait, fetch, cancel, by blocks; an execution is named by its id, or by what a task returned."""
    block = started(remote, credentials, result_fields={"decision": "decision"}).workflow
    ran = ask(kind, "run_workflow", block, {"n": 1})

    assert remote.starts()[-1]["parameters"] == {"n": 1}
    assert ran["fields"] == {"decision": "approve"}
    assert ask(kind, "wait_for_execution", ran["execution_id"], block) == ran
    assert ask(kind, "wait_for_execution", ran, block, timeout=5) == ran
    assert ask(kind, "get_result", ran, credentials)["decision"] == "approve"
    slow = started(remote, credentials, "kyc-slow")
    with pytest.raises(WaitTimeout):
        ask(kind, "wait_for_execution", slow.execution_id, block, timeout=0.1)
    assert remote.cancels() == []
    said = ask(kind, "cancel_execution", slow.execution_id, credentials)
    assert said == {"execution_id": slow.execution_id, "status": "CANCELLED", "fields": {}}


def test_many_are_told_one_by_one(remote: Remote, credentials: TransactionlinkCredentials, kind: str) -> None:
    """In the order given; one that cannot be found, or outlasts the time-out, fails no other."""
    ended = [started(remote, credentials, definition).execution_id for definition in ("kyc-approve", "kyc-fail")]
    slow = started(remote, credentials, "kyc-slow").execution_id
    many = [*ended, NOBODY, {"execution_id": slow}]

    said = ask(kind, "wait_for_executions", many, credentials, timeout=1, poll_interval=0.05)

    assert said == [
        {"execution_id": ended[0], "status": "SUCCEEDED"},
        {"execution_id": ended[1], "status": "FAILED"},
        {"execution_id": NOBODY, "error": "NotFound"},
        {"execution_id": slow, "error": "WaitTimeout"},
    ]
    assert remote.cancels() == []
    with pytest.raises(InvalidRequest, match="positive number of seconds"):
        ask(kind, "wait_for_executions", many, credentials, poll_interval=-1)


@pytest.mark.parametrize(
    ("execution", "said"), [(7, "by its id"), ({}, "by its id"), ("a/b", "letters, digits"), ("", "letters, digits")]
)
def test_what_names_no_execution_is_refused(
    remote: Remote, credentials: TransactionlinkCredentials, execution: Any, said: str
) -> None:
    """Before anything is sent."""
    for name in ("get_result", "cancel_execution"):
        with pytest.raises(InvalidRequest, match=said):
            ask("sync", name, execution, credentials)
    assert remote.count("GET /workflows/{id}") == 0


def test_forbidden_result_is_not_returned(remote: Remote, credentials: TransactionlinkCredentials, kind: str) -> None:
    """Where the credentials keep whole results out of what tasks return."""
    credentials.forbid_full_result = True

    with pytest.raises(InvalidRequest, match=rf"execution {NOBODY}\. Call prefect_blocks\.load_result"):
        ask(kind, "get_result", NOBODY, credentials)


@pytest.mark.parametrize("fields", [{"result": "full"}, {"result_fields": {"all": "to_string(@)"}}])
def test_forbidden_result_starts_nothing(
    remote: Remote, credentials: TransactionlinkCredentials, kind: str, fields: dict[str, Any]
) -> None:
    """Also where the block has changed since it was made and checked."""
    block = TransactionlinkWorkflow(credentials=credentials, workflow_definition_id="kyc-approve")
    credentials.forbid_full_result = True

    with pytest.raises(InvalidRequest, match="forbids"):
        do(kind, block.model_copy(update=fields), "trigger")
    assert remote.count("POST /workflows") == 0


@pytest.mark.parametrize("retry_failed", [True, False])
def test_ending_is_retried_where_the_block_says_so(
    remote: Remote, credentials: TransactionlinkCredentials, kind: str, *, retry_failed: bool
) -> None:
    """Of this one error only: its class stays as it was."""
    block = started(remote, credentials, "kyc-fail").workflow
    block.retry_failed = retry_failed

    with pytest.raises(ExecutionFailed) as failed:
        ask(kind, "run_workflow", block)
    assert failed.value.retryable is retry_failed
    assert not ExecutionFailed.retryable


@pytest.mark.parametrize(
    ("error", "again"), [(NotFound("x"), False), (ServerError("x"), True), (KeyError("k"), True), (None, True)]
)
def test_retry_condition(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, *, again: bool) -> None:
    """What a retry can mend, and whatever is not ours to judge."""
    monkeypatch.setattr("prefect_blocks.versions.exception_of", lambda _: error)

    assert tasks.may_be_retried(None, None, None) is again  # type: ignore[arg-type]  # neither is looked at


@pytest.mark.parametrize(
    ("about", "shown"),
    [
        ("e-1", "e-1"),
        ({"execution_id": "e-1"}, "e-1"),
        ({}, "execution"),
        (["e-1", "e-2"], "2 executions"),
        (("e-1",), "1 executions"),
        (None, "None"),
    ],
)
def test_names_of_task_runs(about: Any, shown: str) -> None:
    """A task run says what it is about."""
    assert tasks._shown(about) == shown


def test_name_of_a_block_is_its_definition(credentials: TransactionlinkCredentials) -> None:
    """It needs no saved name."""
    block = TransactionlinkWorkflow(credentials=credentials, workflow_definition_id="kyc")
    assert tasks._shown(block) == "kyc"
