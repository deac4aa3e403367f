"""
User code for Prefect as a type checker has to accept it; never run.
"""

from __future__ import annotations

from typing import Any, assert_type

from prefect import flow
from pydantic import SecretStr

from prefect_blocks import (
    TransactionlinkCredentials,
    TransactionlinkWorkflow,
    TransactionlinkWorkflowRun,
    arun_workflow,
    run_workflow,
    wait_for_executions,
)
from prefect_blocks.tasks import Ended
from tl_orchestration import AsyncClient, Client, Execution, LegacyOptions

credentials = TransactionlinkCredentials(token=SecretStr("tot_…"), requests_per_second=5.0)
workflow = TransactionlinkWorkflow(
    credentials=credentials,
    workflow_definition_id="kyc-check",
    wait_mode="suspend",
    on_cancel="leave",
    result_fields={"decision": "decision"},
)
TransactionlinkWorkflow(credentials=credentials, workflow_definition_id="kyc", wait_mode="never")  # type: ignore[arg-type]
workflow.trigger(expires=5)  # type: ignore[call-arg]

assert_type(credentials.get_client(), Client)
assert_type(credentials.get_async_client(), AsyncClient)


@flow
def steps() -> str:
    run = workflow.trigger({"name": "…"}, step_key="kyc", options=LegacyOptions(case_id="case"))
    assert_type(run, TransactionlinkWorkflowRun)
    assert_type(run.wait_for_completion(), Execution)
    assert_type(run.fetch_result(), dict[str, Any])
    assert_type(run.cancel(), str)
    assert_type(workflow.attach("e-1").status(), str)
    outcome = run_workflow("kyc", {"name": "…"}, step_key="other")
    assert_type(outcome, dict[str, Any])
    assert_type(wait_for_executions([outcome, "e-1"], "credentials"), list[Ended])
    run_workflow.submit("kyc", step_key="third").result()
    return run.execution_id


@flow
async def asynchronous_steps() -> str:
    run = await workflow.atrigger(record_id="…")
    assert_type(run, TransactionlinkWorkflowRun)
    assert_type(await run.await_for_completion(), Execution)
    assert_type(await run.afetch_result(), dict[str, Any])
    assert_type(await run.astatus(), str)
    assert_type(await run.acancel(), str)
    assert_type(await arun_workflow("kyc"), dict[str, Any])
    return run.execution_id
