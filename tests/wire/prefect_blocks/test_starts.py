"""
At most one start for each step, whatever is retried, by the sandbox's own account.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prefect import flow, runtime, task

from prefect_blocks import TransactionlinkWorkflow, arun_workflow, run_workflow, verdicts
from prefect_blocks.versions import load_block
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


@pytest.mark.parametrize(("verdict", "starts"), [("adopt", 1), ("not started", 2)])
def test_a_person_decides_about_a_lost_start(remote: Remote, workflow: MakeWorkflow, verdict: str, starts: int) -> None:
    """The error names what to say; the next attempt of the flow run goes on with what was found, or starts."""
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
            told.append(str(error).partition(f"verdicts.adopt({here!r}, 'kyc', 'EXECUTION_ID'")[1])
            if verdict == "adopt":
                verdicts.adopt(here, "kyc", remote.starts()[0]["execution_id"], reason="seen in the dashboard")
            else:
                verdicts.not_started(here, "kyc", reason="not in the dashboard")
            raise

    step()

    assert len(told) == 1
    assert told[0]
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
