"""
Flows that the tests serve. Each says the pid of its process, so that a test can kill it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import prefect
from prefect import flow, get_run_logger, pause_flow_run, runtime, suspend_flow_run, task
from prefect.cache_policies import NO_CACHE

from prefect_blocks import TransactionlinkWorkflow, cancel_remote_executions, run_workflow, wait_for_all
from tests.e2e.canary import DOCUMENT_NUMBER, FIRST_NAME

APPLICANT = {"firstName": FIRST_NAME, "documentNumber": DOCUMENT_NUMBER}


FULL_DISK = "local-file-system/full-disk"
"""
A result storage that answers every write with an error; saved by the tests.
"""


def say(text: str) -> None:
    get_run_logger().info(text)


def loaded(block: str) -> TransactionlinkWorkflow:
    workflow: Any = TransactionlinkWorkflow.load(block)  # typed as a coroutine, too
    assert isinstance(workflow, TransactionlinkWorkflow)
    return workflow


def hello() -> None:
    say(f"pid {os.getpid()} of attempt {runtime.flow_run.run_count}")


@flow(on_cancellation=[cancel_remote_executions])
def in_body(block: str) -> dict[str, Any]:
    hello()
    run = loaded(block).trigger(APPLICANT)
    say(f"waits for {run.execution_id}")
    run.wait_for_completion()
    return run.outcome()


@flow
async def in_async_body(block: str) -> dict[str, Any]:
    hello()
    workflow: Any = await TransactionlinkWorkflow.aload(block)
    run = await workflow.atrigger(APPLICANT)
    say(f"waits for {run.execution_id}")
    await run.await_for_completion()
    return dict(await run.aoutcome())


@flow
def without_hook(block: str) -> dict[str, Any]:
    hello()
    run = loaded(block).trigger(APPLICANT)
    say(f"waits for {run.execution_id}")
    run.wait_for_completion()
    return run.outcome()


@flow(on_crashed=[cancel_remote_executions])
def ended_by_a_crash(block: str) -> dict[str, Any]:
    hello()
    return run_workflow(block, APPLICANT)


@flow(retries=1, retry_delay_seconds=0)
def flow_fails_once(block: str) -> dict[str, Any]:
    hello()
    run = loaded(block).trigger(APPLICANT)
    run.wait_for_completion()
    if runtime.flow_run.run_count == 1:
        raise OSError("the flow fails after its check")
    return run.outcome()


@flow(retries=1, retry_delay_seconds=90, on_cancellation=[cancel_remote_executions])
def waits_for_its_retry(block: str) -> dict[str, Any]:
    hello()
    run = loaded(block).trigger(APPLICANT)
    say(f"goes on with {run.execution_id}")
    if runtime.flow_run.run_count == 1:
        raise OSError("the flow fails after its start")
    run.wait_for_completion()
    return run.outcome()


@flow(on_cancellation=[cancel_remote_executions])
def paused_in_its_process(block: str) -> dict[str, Any]:
    hello()
    run = loaded(block).trigger(APPLICANT)
    pause_flow_run(timeout=600, key="a-look")
    run.wait_for_completion()
    return run.outcome()


@task(retries=1, retry_delay_seconds=0, cache_policy=NO_CACHE)
def fails_once(block: str) -> dict[str, Any]:
    run = loaded(block).trigger(APPLICANT, step_key="check")
    if runtime.task_run.run_count == 1:
        raise OSError("the task fails after its start")
    run.wait_for_completion()
    return run.outcome()


@flow
def task_fails_once(block: str) -> dict[str, Any]:
    hello()
    return fails_once(block)


@flow
def fails_until_retried(block: str) -> dict[str, Any]:
    hello()
    result = run_workflow(block, APPLICANT)
    if runtime.flow_run.run_count == 1:
        raise OSError("the flow fails after its check")
    return result


@flow(on_cancellation=[cancel_remote_executions])
def submitted(block: str, count: int) -> list[dict[str, Any]]:
    hello()
    futures = [run_workflow.submit(block, APPLICANT, step_key=f"customer-{number}") for number in range(count)]
    return [future.result() for future in futures]


@flow
def several(block: str, count: int) -> list[str]:
    hello()
    workflow = loaded(block)
    runs = [workflow.trigger(APPLICANT) for _ in range(count)]
    say(f"waits for {len(runs)} executions")
    return [execution.id for execution in wait_for_all(runs)]


@flow
def several_blocks(blocks: list[str]) -> list[str]:
    hello()
    runs = [loaded(block).trigger(APPLICANT, step_key=block) for block in blocks]
    say(f"waits for {len(runs)} executions")
    ended = [execution.status.value for execution in wait_for_all(runs)]
    say(f"ended as {' '.join(ended)}")
    return ended


@flow
def killed_at_its_start(block: str, key: str) -> dict[str, Any]:
    """The link comes when the start is on record, and before anything else happens."""
    hello()
    run = loaded(block).trigger(APPLICANT, key=key, on_link=lambda _: os.kill(os.getpid(), signal.SIGKILL))
    say(f"goes on with {run.execution_id}, owned: {run.owned}")
    return {"execution_id": run.execution_id}


@task
def busy(seconds: float) -> None:
    time.sleep(seconds)


@flow
def beside_a_task(block: str, seconds: float) -> dict[str, Any]:
    hello()
    if runtime.flow_run.run_count == 1 and not _suspended_before():
        busy.submit(seconds)
    run = loaded(block).trigger(APPLICANT)
    say(f"waits for {run.execution_id}")
    run.wait_for_completion()
    return run.outcome()


def _suspended_before() -> bool:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(runtime.flow_run.id)
    return any(state.name == "Suspended" for state in states)


@flow
def approval(block: str) -> dict[str, Any]:
    hello()
    run = loaded(block).trigger(APPLICANT)
    run.wait_for_completion()
    suspend_flow_run(timeout=600, key="approval")
    say("approved")
    return run.outcome()


@flow
def inner(block: str) -> dict[str, Any]:
    run = loaded(block).trigger(APPLICANT, step_key="inner")
    run.wait_for_completion()
    return run.outcome()


@flow
def in_subflow(block: str) -> dict[str, Any]:
    hello()
    return inner(block)


@task(persist_result=True, cache_policy=NO_CACHE, retries=1)
def unstorable(block: str) -> dict[str, Any]:
    run = loaded(block).trigger(APPLICANT, step_key="check")
    run.wait_for_completion()
    return run.outcome()


@flow(retries=1)
def result_cannot_be_stored(block: str) -> str:
    hello()
    state = unstorable.with_options(result_storage=FULL_DISK)(block, return_state=True)
    say(f"the task is {state.type.value}")
    if state.is_failed() and runtime.flow_run.run_count == 1:
        raise OSError("the storage is full")
    return str(state.type.value)


@flow(persist_result=True)
def persisted(block: str) -> dict[str, Any]:
    hello()
    return run_workflow.with_options(persist_result=True)(block, APPLICANT)


@flow
def slow_to_suspend(block: str, goes_on: str) -> dict[str, Any]:
    """The server takes its time with the suspension, which was announced before: until there is a file."""
    hello()
    suspend = prefect.suspend_flow_run

    def slowly(**how: Any) -> Any:
        say("is about to be suspended")
        while not Path(goes_on).exists():
            time.sleep(0.1)
        return suspend(**how)

    prefect.suspend_flow_run = slowly  # type: ignore[assignment]
    run = loaded(block).trigger(APPLICANT)
    run.wait_for_completion()
    return run.outcome()


@flow
def continuation(execution_id: str) -> str:
    say(f"goes on with {execution_id}")
    return execution_id
