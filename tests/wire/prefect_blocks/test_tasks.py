"""
Tasks: what they return, when they are retried, and what Prefect keeps of them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client, task
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL
from prefect.states import exception_to_failed_state
from pydantic import SecretStr

from prefect_blocks import (
    TransactionlinkCredentials,
    TransactionlinkWorkflow,
    acancel_execution,
    aget_result,
    arun_workflow,
    await_for_execution,
    await_for_executions,
    cancel_execution,
    get_result,
    load_result,
    run_workflow,
    wait_for_execution,
    wait_for_executions,
)
from prefect_blocks.tasks import may_be_retried
from prefect_blocks.versions import load_block
from tests.remote import NOBODY, TOKEN, Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow, credentials_for
from tl_orchestration import Execution, LegacyOptions
from tl_orchestration.errors import AuthenticationError, ExecutionFailed, InvalidRequest, NoAnswer

DEFINITIONS = ["kyc-approve", "kyc-fail", "kyc-slow"]


def test_each_task_by_block_names(remote: Remote, workflow: MakeWorkflow) -> None:
    """Start and wait, wait, fetch and cancel take names of saved blocks, and return ids, states and named fields."""
    block = workflow(result_fields={"decision": "decision"})
    slow = block.model_copy(update={"workflow_definition_id": "kyc-slow"}).trigger().execution_id
    said: dict[str, Any] = {}

    @flow
    def steps() -> None:
        said["run"] = run_workflow("kyc")
        said["wait"] = wait_for_execution(said["run"], "kyc")
        said["result"] = get_result(said["run"], "sandbox")
        said["cancel"] = cancel_execution(slow, "sandbox")

    steps()

    assert said["run"] == said["wait"]
    assert said["run"]["fields"] == {"decision": "approve"}
    assert said["result"]["decision"] == "approve"
    assert said["cancel"] == {"execution_id": slow, "status": "CANCELLED", "fields": {}}


def test_legacy_execution_about_a_case_keeps_its_version(remote: Remote) -> None:
    """What one task returns lets the others, and load_result, ask in the version that the execution was started in."""
    credentials = TransactionlinkCredentials(
        service="transactionlink-legacy", key="sandbox-key", secret=SecretStr("sandbox-secret"), base_url=remote.url
    )
    remote.define("kyc-approve", duration=0.05)
    block = TransactionlinkWorkflow(credentials=credentials, workflow_definition_id="kyc-approve", poll_interval=0.05)
    said: dict[str, Any] = {}

    @flow
    def steps() -> None:
        options = LegacyOptions(first_name="Ada", last_name="Lovelace", personal_number="38001019999")
        said["run"] = run_workflow(block, options=options)
        said["wait"] = wait_for_execution(said["run"], block)
        said["many"] = wait_for_executions([said["run"]], credentials)[0]
        said["results"] = [get_result(said[each], credentials) for each in ("run", "wait", "many")]
        said["loaded"] = load_result(said["run"], credentials)

    steps()

    assert said["run"] == said["wait"]
    assert said["run"]["api_version"] == said["many"]["api_version"] == 1
    for result in (*said["results"], said["loaded"]):
        assert result["partyDetails"]["personal"]["firstName"] == "Ada"
    with pytest.raises(InvalidRequest, match="api_version"):
        load_result({"execution_id": NOBODY, "api_version": "1"}, credentials)


def test_each_asynchronous_twin(remote: Remote, workflow: MakeWorkflow) -> None:
    """The twins return the same."""
    block = workflow(result_fields={"decision": "decision"})
    slow = block.model_copy(update={"workflow_definition_id": "kyc-slow"}).trigger().execution_id
    said: dict[str, Any] = {}

    @flow
    async def steps() -> None:
        said["run"] = await arun_workflow("kyc")
        said["wait"] = await await_for_execution(said["run"], "kyc")
        said["all"] = await await_for_executions([said["run"]], "sandbox")
        said["result"] = await aget_result(said["run"], "sandbox")
        said["cancel"] = await acancel_execution(slow, "sandbox")

    asyncio.run(steps())

    assert said["run"] == said["wait"]
    assert said["all"] == [{"execution_id": said["run"]["execution_id"], "status": "SUCCEEDED"}]
    assert said["result"]["decision"] == "approve"
    assert said["cancel"] == {"execution_id": slow, "status": "CANCELLED", "fields": {}}


def test_many_executions_are_waited_for_together(remote: Remote, workflow: MakeWorkflow) -> None:
    """Whatever their endings, in the order given, by a few threads for all of them; none is cancelled."""
    blocks = {name: workflow().model_copy(update={"workflow_definition_id": name}) for name in DEFINITIONS}
    ids = [blocks[name].trigger().execution_id for name in DEFINITIONS[:2] * 10]
    slow = blocks["kyc-slow"].trigger().execution_id
    threads: list[int] = []

    @flow
    def waits() -> list[Any]:
        before = threading.active_count()
        remote_count = threading.Timer(0.2, lambda: threads.append(threading.active_count() - before))
        remote_count.start()
        ended: list[Any] = wait_for_executions([*ids, NOBODY, slow], "sandbox", timeout=3, poll_interval=0.1)
        return ended

    ended = waits()

    assert [each.get("status") for each in ended[:20]] == ["SUCCEEDED", "FAILED"] * 10
    assert [each.get("error") for each in ended[20:]] == ["NotFound", "WaitTimeout"]
    assert [each["execution_id"] for each in ended] == [*ids, NOBODY, slow]
    assert threads[0] < 10
    assert remote.cancels() == []


def test_synchronous_task_in_an_asynchronous_flow(remote: Remote, workflow: MakeWorkflow) -> None:
    """A synchronous task works where an event loop runs in the same thread, and blocks are loaded there, too."""
    workflow()

    @flow
    async def mixed() -> tuple[Any, Any]:
        ran = run_workflow("kyc")
        return ran, wait_for_executions([ran], "sandbox", poll_interval=0.1)

    ran, ended = asyncio.run(mixed())

    assert ended == [{"execution_id": ran["execution_id"], "status": "SUCCEEDED"}]


@pytest.mark.parametrize(("execution_id", "again"), [(None, False), ("e-1", True)])
def test_refused_credential_of_a_wait_is_tried_again(execution_id: str | None, *, again: bool) -> None:
    """The execution goes on, and by the next try the block may have its new token; a start is not tried again."""
    error = AuthenticationError("refused", execution_id=execution_id)
    state = asyncio.run(exception_to_failed_state(error))
    task_run: Any = None
    assert may_be_retried(None, task_run, state) is again


@pytest.mark.parametrize(
    ("case", "error", "again", "starts"),
    [
        ("refused", AuthenticationError, False, 0),
        ("ended", ExecutionFailed, False, 1),
        ("ended, retry_failed", ExecutionFailed, True, 2),
        ("not reached", NoAnswer, True, 0),
    ],
)
def test_retries_where_a_retry_can_mend(
    remote: Remote, workflow: MakeWorkflow, case: str, error: type[Exception], again: bool, starts: int
) -> None:
    """Prefect retries what a retry can mend, and nothing that the service has refused or judged."""
    block = workflow("kyc-fail", retry_failed=case == "ended, retry_failed")
    if case in {"refused", "not reached"}:
        refused = credentials_for(remote, "tot_wrong")
        away = credentials_for(remote, base_url="http://127.0.0.1:1")
        block = block.model_copy(update={"credentials": refused if case == "refused" else away})
    tried: list[str] = []

    @task(retries=1, retry_condition_fn=run_workflow.retry_condition_fn)
    def counted() -> None:
        tried.append(case)
        run_workflow.fn(block, step_key="kyc")

    @flow
    def steps() -> None:
        counted()

    with pytest.raises(error):
        steps()
    assert len(tried) == 1 + again
    assert len(remote.starts()) == starts


def test_task_run_is_named_by_definition_and_execution(remote: Remote, workflow: MakeWorkflow) -> None:
    """In Prefect's pages, a task run says which definition and which execution."""
    workflow()

    @flow
    def steps() -> Any:
        return run_workflow("kyc", return_state=True).state_details.task_run_id

    task_run_id: Any = steps()

    with get_client(sync_client=True) as client:
        name = client.read_task_run(task_run_id).name
    assert name == f"run kyc-approve {remote.starts()[0]['execution_id']}"


def test_nothing_personal_is_left_in_prefect(
    remote: Remote, workflow: MakeWorkflow, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    Token, parameters, link and result are in no table, event, artifact, log line, label or result file of Prefect under
    defaults, nor where results, also those of failed tasks, are persisted.
    """
    workflow("kyc-review", result_fields={"decision": "decision"})
    canary = "Canary-7731"
    links: list[str] = []

    def take(execution: Execution) -> None:
        assert execution.link is not None
        links.append(execution.link.reveal())

    @flow
    def steps() -> None:
        parameters = {"first_name": canary, "lastName": canary, "firstName": canary}
        block = load_block(TransactionlinkWorkflow, "kyc")
        waiting = block.trigger(parameters, step_key="review", on_link=take)
        remote.force(waiting.execution_id, status="COMPLETED", result={"decision": "approve", "name": canary})
        wait_for_execution.with_options(persist_result=True).submit(waiting.execution_id, "kyc").result()
        wait_for_executions([waiting.execution_id] * 2, "sandbox")
        failing = run_workflow.with_options(persist_result=True)
        failing.submit("kyc", parameters, step_key="failing", expires_in=1).result(raise_on_failure=False)
        get_result(waiting.execution_id, "sandbox")

    steps()

    assert links
    assert links[0].startswith("http")
    said = "".join(capfd.readouterr())
    database = str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).removeprefix("sqlite+aiosqlite:///")
    files = [file for file in Path(os.environ["PREFECT_HOME"]).rglob("*") if file.is_file()]
    files += list(Path(database).parent.glob("*"))
    assert Path(database) in files
    for secret in (canary, links[0]):
        assert secret not in said
        assert [file.name for file in files if secret.encode() in file.read_bytes()] == []
    assert TOKEN.encode() + b'"' not in b"".join(file.read_bytes() for file in files)
