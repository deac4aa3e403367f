"""
When a flow run of a deployment is suspended and when it keeps its process, pass by pass, against a Prefect server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow, get_client, runtime, task
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_blocks import submitted, suspending, twins, wait_for_all
from prefect_blocks.automations import TIMER, create_automations, delete_automations, timer_span
from prefect_blocks.submitted import Watch
from prefect_blocks.workflow import _said
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow
from tests.wire.prefect_blocks.deployed import DeployedRun
from tl_orchestration import Patience

Timer = Callable[[timedelta], None]


@pytest.fixture
def timer() -> Iterator[Timer]:
    """
    Makes the timer; the server has none before and after.
    """
    delete_automations()
    yield lambda span: void(create_automations(wake_after=span))
    delete_automations()


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    """
    A sentence is said once in a process, and so in each test.
    """
    _said.clear()


def void(_: object) -> None:
    pass


def polls(remote: Remote) -> int:
    return remote.count("GET /workflows/{id}")


@pytest.mark.parametrize("attached", [False, True])
def test_grace_is_given_once(remote: Remote, workflow: MakeWorkflow, timer: Timer, *, attached: bool) -> None:
    """A pass that goes on with what an earlier one has waited for looks once, and is suspended again."""
    block = workflow("kyc-slow", suspend_after=1.0)
    elsewhere = block.trigger().execution_id if attached else None
    timer(timedelta(minutes=5))

    @flow
    def body() -> None:
        run = block.trigger() if elsewhere is None else block.attach(elsewhere)
        run.wait_for_completion()

    run = DeployedRun(body)
    seen: list[int] = []
    for _ in range(3):
        before = polls(remote)
        assert run.go().name == "Suspended"
        seen.append(polls(remote) - before)

    assert seen[0] >= 5
    assert max(seen[1:]) <= 2  # trigger() asks, and the look
    assert len(remote.starts()) == 1


@pytest.mark.parametrize("there_is", ["none", "a disabled one"])
def test_without_a_timer_the_process_is_kept(
    remote: Remote, workflow: MakeWorkflow, timer: Timer, caplog: pytest.LogCaptureFixture, there_is: str
) -> None:
    """Nobody would wake the flow run: it polls to the end, and its log says which command makes the timer."""
    if there_is != "none":
        timer(timedelta(minutes=5))
        with get_client(sync_client=True) as client:
            for automation in client.read_automations_by_name(TIMER):
                client.pause_automation(automation.id)
    block = workflow("kyc-approve", suspend_after=0)
    remote.define("kyc-approve", duration=1.0)
    caplog.set_level("INFO")

    @flow
    def body() -> None:
        block.trigger().wait_for_completion()

    run = DeployedRun(body)

    assert run.go().name == "Completed"
    assert "Suspended" not in run.states()
    assert caplog.text.count("python -m prefect_blocks automations create") == 1


def test_insisting_without_a_timer_starts_nothing(remote: Remote, workflow: MakeWorkflow, timer: Timer) -> None:
    """wait_mode="suspend" fails before the start; what an earlier pass has started is gone on with."""
    block = workflow("kyc-slow", suspend_after=0, wait_mode="suspend")

    @flow
    def body() -> None:
        block.trigger().wait_for_completion()

    refused = DeployedRun(body).go()
    assert refused.name == "Failed"
    assert "automations create" in str(refused.message)
    assert remote.starts() == []

    timer(timedelta(minutes=5))
    run = DeployedRun(body)
    assert run.go().name == "Suspended"
    delete_automations()
    remote.force(remote.starts()[0]["execution_id"], status="COMPLETED")
    assert run.go().name == "Completed"


def test_insisting_on_a_wait_that_cannot_be(remote: Remote, workflow: MakeWorkflow, timer: Timer) -> None:
    """In an async flow, a synchronous trigger is refused where it insists on a suspension, which is asynchronous."""
    block = workflow("kyc-slow", wait_mode="suspend")
    timer(timedelta(minutes=5))

    @flow
    async def body() -> None:
        block.trigger().wait_for_completion()

    run = DeployedRun(body)
    run.go()

    assert run.states()[-1] == "Failed"
    assert remote.starts() == []


def test_trigger_alone_says_nothing_about_waiting(workflow: MakeWorkflow, caplog: pytest.LogCaptureFixture) -> None:
    """A task that starts and does not wait keeps no process."""
    block = workflow("kyc-slow")
    caplog.set_level("INFO")

    @flow
    def body() -> None:
        task(lambda: void(block.trigger(step_key="alone").execution_id))()

    body()

    assert "keeps the process" not in caplog.text


def test_deadline_that_comes_before_the_timer(remote: Remote, workflow: MakeWorkflow, timer: Timer) -> None:
    """The flow run is not suspended beyond its deadline: it polls, and cancels at the deadline."""
    block = workflow("kyc-slow", suspend_after=0, timeout=2)
    timer(timedelta(hours=1))

    @flow
    def body() -> None:
        block.trigger().wait_for_completion()

    run = DeployedRun(body)
    began = time.time()
    state = run.go()

    assert state.name == "Failed"
    assert "WaitTimeout" in str(state.message)
    assert "Suspended" not in run.states()
    cancelled = remote.cancels()
    assert [cancel["execution_id"] for cancel in cancelled] == [remote.starts()[0]["execution_id"]]
    assert time.time() >= began + 2


def test_expiry_that_the_service_tells(remote: Remote, workflow: MakeWorkflow, timer: Timer) -> None:
    """An attached run learns its expiry from a poll, and is not suspended beyond it."""
    block = workflow("kyc-slow", suspend_after=0, expires_in=1800)
    execution_id = block.trigger().execution_id
    timer(timedelta(hours=1))
    hindered: list[float | None] = []

    @flow
    def body() -> None:
        run = block.attach(execution_id)
        assert run.handle.expires_at is None
        run._learn(block.attach(execution_id)._poll().here())
        hindered.append(suspending.Suspension(void)._hindered([run]))

    body()

    (seconds,) = hindered
    assert seconds is not None
    assert 1700 < seconds < 1900


def test_deadline_of_one_is_told_after_a_suspension(
    remote: Remote, workflow: MakeWorkflow, timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the deadline has cancelled in an earlier pass raises as if it had been in this one."""
    monkeypatch.setattr(suspending, "SLICE", 0.5)
    late = workflow("kyc-slow", suspend_after=0, timeout=2)
    longer = workflow("kyc-slow", suspend_after=0)
    timer(timedelta(minutes=5))

    @flow
    def body() -> None:
        wait_for_all([late.trigger(step_key="late"), longer.trigger(step_key="longer")])

    run = DeployedRun(body)
    assert run.go().name == "Suspended"
    ids = [start["execution_id"] for start in remote.starts()]
    assert [cancel["execution_id"] for cancel in remote.cancels()] == ids[:1]
    remote.force(ids[1], status="COMPLETED")

    state = run.go()

    assert state.name == "Failed"
    assert f"WaitTimeout: Execution {ids[0]} has not ended" in str(state.message)


def test_cancel_by_the_flow_is_an_ending(remote: Remote, workflow: MakeWorkflow, timer: Timer) -> None:
    """An execution that the flow itself has cancelled before its deadline is in the list."""
    block = workflow("kyc-slow", suspend_after=0)
    ended: list[str] = []

    @flow
    def body() -> None:
        run = block.trigger()
        run.cancel()
        ended.extend(execution.status.value for execution in wait_for_all([run]))

    body()

    assert ended == ["CANCELLED"]


def test_not_suspended_while_the_service_does_not_answer(remote: Remote, workflow: MakeWorkflow, timer: Timer) -> None:
    """Each suspension would begin the budget for failures anew: a revoked token would never fail the flow run."""
    block = workflow("kyc-slow")
    timer(timedelta(minutes=5))
    hindered: list[float | None] = []

    @flow
    def body() -> None:
        run = block.trigger()
        suspension = suspending.Suspension(void)
        remote.order("status", "status", status=401, times=3)
        assert twins.run(run.look(0.05)) is None
        hindered.append(suspension._hindered([run]))
        assert twins.run(run.look(1.0)) is None
        hindered.append(suspension._hindered([run]))

    body()

    assert hindered == [suspending._UNANSWERED, None]
    assert Patience().error_budget < suspending._UNANSWERED


def test_announced_before_and_after(workflow: MakeWorkflow, timer: Timer) -> None:
    """The second announcement is for a timer that has fired before the suspension."""
    block = workflow("kyc-slow", suspend_after=0)
    timer(timedelta(minutes=5))

    @flow
    def body() -> None:
        block.trigger().wait_for_completion()

    run = DeployedRun(body)
    assert run.go().name == "Suspended"

    wanted = {"event": {"name": [suspending.WAITING]}, "resource": {"id": [f"prefect.flow-run.{run.id}"]}}
    ends = time.monotonic() + 10
    with get_client(sync_client=True) as client:
        while True:
            found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
            if len(found) == 2 or time.monotonic() > ends:
                break
            time.sleep(0.1)
    assert len(found) == 2


# -- beside tasks ------------------------------------------------------------------------------------------------------


def here() -> FlowRunContext:
    context = FlowRunContext.get()
    assert context is not None
    return context


@task
def busy(seconds: float) -> None:
    time.sleep(seconds)


def test_queued_tasks_are_seen_at_once() -> None:
    """Neither a task that has just been submitted nor one in the queue is known to the server."""
    looks: list[bool | None] = []
    runner: Any = ThreadPoolTaskRunner(max_workers=1)

    @flow(task_runner=runner)
    def body() -> None:
        watch = Watch()
        futures = [busy.submit(0.2) for _ in range(4)]
        while not all(future.state.is_final() for future in futures):
            looks.append(watch.none_go_on(here()))
        ends = time.monotonic() + 60
        while not (ended := watch.none_go_on(here())) and time.monotonic() < ends:
            time.sleep(0.1)
        looks.append(ended)

    body()

    assert set(looks[:-1]) == {False}
    assert looks[-1] is True


@task
async def abusy(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_none_is_believed_at_the_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what an async flow runs beside its wait, the server learns a moment later."""
    monkeypatch.setattr(submitted, "QUIET", 0.3)
    looks: list[bool | None] = []

    @flow
    async def body() -> None:
        watch = Watch()
        for _ in range(2):
            looks.append(await asyncio.to_thread(watch.none_go_on, here()))
            await asyncio.sleep(0.3)

    asyncio.run(body())

    assert looks == [None, True]


def test_task_beside_an_async_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the server knows it; and then two more looks are needed."""
    monkeypatch.setattr(submitted, "QUIET", 0.0)
    looks: list[bool | None] = []

    @flow
    async def body() -> None:
        watch = Watch()
        beside = asyncio.create_task(abusy(30.0))
        while False not in looks:
            looks.append(await asyncio.to_thread(watch.none_go_on, here()))
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)
        assert watch.quiet_since is None

    asyncio.run(body())

    assert looks[-1] is False


@task
def fails() -> None:
    raise OSError("upstream")


def test_task_that_never_ran() -> None:
    """What waited for a task that failed stays unfinished for ever, and keeps no process."""
    looks: list[bool | None] = []
    names: list[str | None] = []

    @flow
    def body() -> None:
        upstream = fails.submit()
        after = busy.submit(0, wait_for=[upstream], return_state=False)
        after.wait()
        ends = time.monotonic() + 60
        with get_client(sync_client=True) as client:
            while "NotReady" not in names and time.monotonic() < ends:
                with contextlib.suppress(ObjectNotFound):
                    names[:] = [client.read_task_run(after.task_run_id).state_name]
        looks.append(Watch().none_go_on(here()))

    body(return_state=True)

    assert names == ["NotReady"]
    assert looks == [True]


@pytest.mark.parametrize(("later", "none"), [(1.0, True), (-60.0, False)])
def test_task_run_of_a_killed_process(later: float, *, none: bool) -> None:
    """One that was pending when its process was killed is no task of this process."""
    looks: list[bool | None] = []

    @flow
    def body() -> None:
        busy(0)
        with get_client(sync_client=True) as client:
            client.create_task_run(busy, runtime.flow_run.id, "left", state=Pending())
        context = here().model_copy(update={"start_time": datetime.now(UTC) + timedelta(seconds=later)})
        looks.append(Watch().none_go_on(context))

    body()

    assert looks == [none]


def test_span_of_the_timer(timer: Timer) -> None:
    """As it stands on the server."""
    assert timer_span() is None
    assert suspending.unheard() is not None
    timer(timedelta(seconds=77))
    assert timer_span() == timedelta(seconds=77)
    assert suspending.unheard() is None
