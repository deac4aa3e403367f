"""
At most one start for each step, whatever is retried, by the sandbox's own account.
"""

from __future__ import annotations

import asyncio
import getpass
import os
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, runtime, task
from pydantic import SecretStr

from prefect_blocks import (
    TransactionlinkCredentials,
    TransactionlinkWorkflow,
    arun_workflow,
    run_workflow,
    verdicts,
)
from prefect_blocks.__main__ import main
from prefect_blocks.versions import load_block
from tests.builders import WORKSPACE_ID
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow
from tl_orchestration.errors import InvalidRequest, RequestChanged, StartOutcomeUnknown


def _load() -> TransactionlinkWorkflow:
    return load_block(TransactionlinkWorkflow, "kyc")


def test_flow_retry_goes_on_with_what_was_started(remote: Remote, workflow: MakeWorkflow) -> None:
    """A flow that fails after its steps and is retried gets the same two executions again, in the same order."""
    workflow()
    seen: list[list[str]] = []

    @flow(retries=1)
    def twice() -> None:
        runs = [_load().trigger({"n": n}) for n in range(2)]
        seen.append([run.execution_id for run in runs])
        for run in runs:
            run.wait_for_completion()
        if len(seen) == 1:
            raise RuntimeError("the flow fails once")

    twice()

    assert seen[0] == seen[1]
    assert len(set(seen[0])) == len(remote.starts()) == 2


def test_task_retry_goes_on_with_what_was_started(remote: Remote, workflow: MakeWorkflow) -> None:
    """A task that was called in the flow's body needs no step key, and its retry gets the same execution."""
    workflow()
    seen: list[str] = []

    @task(retries=2)
    def step() -> None:
        seen.append(_load().trigger().execution_id)
        if len(seen) in {1, 3}:
            raise RuntimeError("the task fails once")

    @flow
    def steps() -> None:
        step()
        step()

    steps()

    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert len(remote.starts()) == 2


@pytest.mark.parametrize("path", ["in a thread", "mapped", "gathered"])
def test_what_has_no_order_needs_a_step_key(remote: Remote, workflow: MakeWorkflow, path: str) -> None:
    """Where calls have no order, a default step key is refused before anything is sent."""
    workflow()

    @flow
    def unordered() -> Any:
        if path == "in a thread":
            return run_workflow.submit("kyc").result()
        return run_workflow.map(["kyc", "kyc"]).result()

    @flow
    async def gathered() -> None:
        await asyncio.gather(arun_workflow("kyc"), arun_workflow("kyc"))

    with pytest.raises(InvalidRequest, match="step_key"):
        asyncio.run(gathered()) if path == "gathered" else unordered()
    assert remote.count("POST /workflows") == 0


def test_mapped_steps_with_keys_are_started_once_each(remote: Remote, workflow: MakeWorkflow) -> None:
    """With a step key each, mapped steps outlive a retry of their flow."""
    workflow()
    returned: list[list[dict[str, Any]]] = []

    @task
    def check(n: int) -> dict[str, Any]:
        return run_workflow("kyc", {"n": n}, step_key=f"check-{n}")

    @flow(retries=1)
    def mapped() -> None:
        returned.append(check.map([1, 2, 3]).result())
        if len(returned) == 1:
            raise RuntimeError("the flow fails once")

    mapped()

    assert returned[0] == returned[1]
    assert len(remote.starts()) == 3


def test_async_flow_starts_once(remote: Remote, workflow: MakeWorkflow) -> None:
    """The asynchronous twins keep the same law, with a default step key in the flow's body."""
    workflow()
    returned: list[dict[str, Any]] = []

    @flow(retries=1)
    async def steps() -> None:
        returned.append(await arun_workflow("kyc", {"n": 1}))
        if len(returned) == 1:
            raise RuntimeError("the flow fails once")

    asyncio.run(steps())

    assert returned[0] == returned[1]
    assert returned[0]["status"] == "SUCCEEDED"
    assert len(remote.starts()) == 1


def test_lost_answer_is_not_repeated(remote: Remote, workflow: MakeWorkflow) -> None:
    """A start whose answer was lost ends the step, whatever retries it has, and a retry of the flow says it again."""
    workflow()
    remote.order("start", "lose")

    @flow(retries=1)
    def step() -> None:
        run_workflow.with_options(retries=3)("kyc")

    with pytest.raises(StartOutcomeUnknown):
        step()
    assert remote.count("POST /workflows") == 1
    assert len(remote.starts()) == 1


@pytest.mark.parametrize(("verdict", "starts"), [("adopt", 1), ("not-started", 2)])
def test_a_person_decides_about_a_lost_start(
    remote: Remote, workflow: MakeWorkflow, capsys: pytest.CaptureFixture[str], verdict: str, starts: int
) -> None:
    """
    The error names the command; the next attempt of the flow run goes on with what was found, or starts. Who said so,
    and why, is shown.
    """
    workflow()
    remote.order("start", "lose")
    told: list[str] = []
    said: list[dict[str, Any]] = []

    @flow(retries=1)
    def step() -> None:
        here = str(runtime.flow_run.id)
        try:
            said.append(run_workflow("kyc", step_key="kyc"))
        except StartOutcomeUnknown as error:
            found = [remote.starts()[0]["execution_id"]] if verdict == "adopt" else []
            command = " ".join([verdict, here, "kyc", *(["EXECUTION_ID"] if found else []), "--reason TEXT"])
            told.append(str(error).partition(command)[1])
            why = ["--reason", "looked in the dashboard", "--actor", "jo"]
            assert main([verdict, here, "kyc", *found, *why]) == 0
            assert main([verdict, here, "kyc", *found, *why]) == 1
            assert main(["show", here, "kyc"]) == 0
            assert main(["show", here]) == 0
            assert main(["show", here, "other"]) == 1
            raise

    step()

    assert len(told) == 1
    assert told[0]
    shown = capsys.readouterr().out
    assert '"looked in the dashboard" by jo' in shown
    assert "INTENT" in shown
    assert len(remote.starts()) == starts
    assert said[0]["execution_id"] == remote.starts()[-1]["execution_id"]


def test_changed_request_is_refused(remote: Remote, workflow: MakeWorkflow) -> None:
    """A retry that asks for something else is told so, and nothing more is started."""
    workflow()
    tries: list[int] = []

    @flow(retries=1)
    def step() -> None:
        tries.append(len(tries))
        run_workflow("kyc", {"n": len(tries)}, step_key="kyc")
        raise RuntimeError("the flow fails")

    with pytest.raises(RequestChanged):
        step()
    assert len(remote.starts()) == 1


def test_actor_without_a_name(
    remote: Remote, workflow: MakeWorkflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container whose user has no name, a verdict is given all the same."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1001")

    block = workflow()
    remote.order("start", "lose")
    here: list[str] = []

    @flow
    def step() -> None:
        here.append(str(runtime.flow_run.id))
        block.trigger(step_key="kyc")

    with pytest.raises(StartOutcomeUnknown):
        step()
    monkeypatch.setattr(getpass, "getuser", nameless)
    verdicts.not_started(here[0], "kyc", reason="not in the dashboard")

    assert main(["show", here[0], "kyc"]) == 0
    assert f"by user {os.getuid()}" in capsys.readouterr().out


def test_changed_request_names_a_way_out_of_a_flow(remote: Remote, workflow: MakeWorkflow) -> None:
    """A parameter that is new on each pass, such as a time, is refused in words that fit a flow."""
    block = workflow()
    passes: list[int] = []

    @flow(retries=1)
    def timed() -> None:
        passes.append(len(passes))
        block.trigger({"requestedAt": len(passes)})
        raise RuntimeError("the flow fails")

    with pytest.raises(RequestChanged, match=r"each pass must ask for the same: .* persisted, .* another step_key"):
        timed()
    assert len(remote.starts()) == 1


def test_block_that_names_another_definition_meanwhile_starts_nothing_beside(
    remote: Remote, workflow: MakeWorkflow, sandbox: TransactionlinkCredentials
) -> None:
    """The execution of the former definition would be left to nobody; with a step key a second start is meant."""
    workflow()
    remote.define("kyc-reject", duration=0.05)
    edited = TransactionlinkWorkflow(credentials=sandbox, workflow_definition_id="kyc-reject", poll_interval=0.05)
    started: list[str] = []
    refused: list[RequestChanged] = []

    @flow(retries=2)
    def step() -> None:
        block = edited if started else _load()
        try:
            started.append(block.trigger(step_key="new" if refused else None).execution_id)
        except RequestChanged as error:
            refused.append(error)
            raise
        if not refused:
            raise RuntimeError("the flow fails once")

    step()

    assert [start["definition"] for start in remote.starts()] == ["kyc-approve", "kyc-reject"]
    assert refused[0].execution_id == started[0]
    for words in ("kyc-approve#1", started[0], "kyc-reject#1", "Nothing was sent", "restore it", "step_key"):
        assert words in str(refused[0])


def test_steps_may_follow_those_of_an_earlier_pass(remote: Remote, workflow: MakeWorkflow) -> None:
    """Calls in the same order find their steps, in a loop too, and what an earlier pass has not come to may start."""
    workflow()
    remote.define("kyc-reject", duration=0.05)
    passes: list[list[str]] = []

    @flow(retries=2)
    def longer() -> None:
        block = _load()
        seen: list[str] = []
        other = block.model_copy(update={"workflow_definition_id": "kyc-reject"})
        passes.append(seen)
        for _ in range(len(passes) + 1):
            seen.append(block.trigger().execution_id)
        if len(passes) > 1:
            seen.append(other.trigger().execution_id)
        if len(passes) < 2:
            raise RuntimeError("the flow fails once")

    longer()

    first, second = passes
    assert second[:2] == first
    assert len(remote.starts()) == len(set(second)) == 4


def test_refused_start_keeps_no_place(
    remote: Remote, workflow: MakeWorkflow, sandbox: TransactionlinkCredentials
) -> None:
    """A block that named a definition that there is not can be mended before the retry."""
    workflow()
    names = ["no-such-definition", "kyc-approve"]

    @flow(retries=1)
    def mended() -> str:
        block = TransactionlinkWorkflow(credentials=sandbox, workflow_definition_id=names.pop(0), poll_interval=0.05)
        return block.trigger().execution_id

    assert mended() == remote.starts()[0]["execution_id"]


def test_failed_one_makes_room_where_it_may_be_started_anew(
    remote: Remote, workflow: MakeWorkflow, sandbox: TransactionlinkCredentials
) -> None:
    """With retry_failed, a definition that has failed can be replaced by another; without, its step stays."""
    workflow("kyc-fail")
    remote.define("kyc-reject", duration=0.05)

    def replaced(*, retry_failed: bool) -> str:
        names = ["kyc-fail", "kyc-reject"]

        @flow(retries=1)
        def step() -> str:
            block = TransactionlinkWorkflow(
                credentials=sandbox,
                workflow_definition_id=names.pop(0),
                poll_interval=0.05,
                retry_failed=retry_failed,
            )
            run = block.trigger()
            run.wait_for_completion()
            return run.execution_id

        return step()

    assert replaced(retry_failed=True) == remote.starts()[1]["execution_id"]
    with pytest.raises(RequestChanged):
        replaced(retry_failed=False)
    assert len(remote.starts()) == 3


def test_task_that_may_be_skipped_needs_a_step_key(remote: Remote, workflow: MakeWorkflow) -> None:
    """Where Prefect takes a persisted result instead of running the task, the calls after it would be counted wrong."""
    block = workflow()

    @task(persist_result=True)
    def check() -> None:
        block.trigger()

    @flow
    def step() -> None:
        check()

    with pytest.raises(InvalidRequest, match="whose result Prefect persists"):
        step()
    assert remote.starts() == []


@pytest.mark.parametrize("key", [None, "kyc"])
def test_edited_credentials_start_nothing_beside(
    remote: Remote, workflow: MakeWorkflow, sandbox: TransactionlinkCredentials, key: str | None
) -> None:
    """A workspace that is added between two passes, or another host, is told, and the step is not started there."""
    block = workflow()
    elsewhere = sandbox.model_copy(update={"workspace_id": WORKSPACE_ID})
    edited = block.model_copy(update={"credentials": elsewhere})
    refused: list[RequestChanged] = []

    @flow(retries=1)
    def step() -> None:
        try:
            (edited if remote.starts() else block).trigger(step_key=key)
        except RequestChanged as error:
            refused.append(error)
            raise
        raise RuntimeError("the flow fails")

    with pytest.raises(RequestChanged, match=f"lead to transactionlink@.*/{WORKSPACE_ID}"):
        step()
    assert remote.count("POST /workflows") == 1
    assert refused[0].execution_id == remote.starts()[0]["execution_id"]


def test_edited_credentials_start_nothing_beside_a_key(
    remote: Remote, workflow: MakeWorkflow, sandbox: TransactionlinkCredentials, tmp_path: Path
) -> None:
    """The same with a business key, which is in the SQL ledger of the credentials. A refused start holds nobody up."""
    credentials = sandbox.model_copy(update={"ledger_url": SecretStr(f"sqlite:///{tmp_path}/ledger.db")})
    elsewhere = credentials.model_copy(update={"workspace_id": WORKSPACE_ID})
    block = workflow().model_copy(update={"credentials": credentials})
    edited = block.model_copy(update={"credentials": elsewhere})
    passes: list[TransactionlinkWorkflow] = []
    told: list[RequestChanged] = []

    @flow(retries=2)
    def step() -> None:
        passes.append(block if len(passes) == 1 else edited)
        try:
            passes[-1].trigger(key="case-1")
        except RequestChanged as error:
            told.append(error)
            raise
        raise RuntimeError("the flow fails")

    remote.order("start", "status", status=400)
    with pytest.raises(RequestChanged, match=f"with key case-1 at .* lead to transactionlink@.*/{WORKSPACE_ID}"):
        step()
    assert [len(passes), remote.count("POST /workflows")] == [3, 2]
    assert [error.execution_id for error in told] == [start["execution_id"] for start in remote.starts()]


@pytest.mark.parametrize(("status", "times"), [(503, 5), (401, 3)])
def test_wake_up_without_an_answer_goes_on_with_the_wait(
    remote: Remote, workflow: MakeWorkflow, status: int, times: int
) -> None:
    """A pass that cannot ask about its execution waits for it nevertheless, for as long as a wait's budget lasts."""
    block = workflow()
    passes: list[str] = []

    @flow(retries=1)
    def step() -> None:
        run = block.trigger()
        passes.append(run.execution_id)
        if len(passes) == 1:
            remote.order("poll", "status", status=status, times=times)
            raise RuntimeError("the flow fails once")
        assert run.wait_for_completion().id == run.execution_id

    step()

    assert passes[0] == passes[1]
    assert len(remote.starts()) == 1


def test_subflow_of_a_retried_flow_goes_on(remote: Remote, workflow: MakeWorkflow) -> None:
    """Prefect may make another subflow run when the parent is retried; the step is found again by its key."""
    workflow()
    seen: list[str] = []
    ids: set[str] = set()

    @flow
    def child() -> None:
        ids.add(str(runtime.flow_run.id))
        seen.append(_load().trigger(step_key="kyc").execution_id)
        if len(seen) == 1:
            raise RuntimeError("the subflow fails once")

    @flow(retries=1)
    def parent() -> None:
        child()

    parent()

    assert len(ids) == 2
    assert seen[0] == seen[1]
    assert len(remote.starts()) == 1


def test_subflow_needs_a_step_key(remote: Remote, workflow: MakeWorkflow) -> None:
    """A count of calls in a subflow would not outlive a retry of the parent, so it is refused before the start."""
    workflow()

    @flow
    def child() -> None:
        _load().trigger()

    @flow
    def parent() -> None:
        child()

    with pytest.raises(InvalidRequest, match="subflow"):
        parent()
    assert remote.starts() == []


@pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted:UserWarning")
def test_task_outside_of_a_flow_is_retried_without_a_second_start(remote: Remote, workflow: MakeWorkflow) -> None:
    """A task that is run without a flow has no flow run to keep its step; its retries go on nevertheless."""
    workflow()
    seen: list[str] = []

    @task(retries=1)
    def step() -> None:
        seen.append(_load().trigger().execution_id)
        if len(seen) == 1:
            raise RuntimeError("the task fails once")

    step()

    assert seen[0] == seen[1]
    assert len(remote.starts()) == 1


def test_script_has_no_ledger(remote: Remote, workflow: MakeWorkflow) -> None:
    """Outside of flows and tasks each trigger is a start."""
    block = workflow()

    assert block.trigger().execution_id != block.trigger().execution_id
    assert len(remote.starts()) == 2
