"""
When a flow run of a deployment is suspended and when it keeps its process, pass by pass, against a Prefect server.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import prefect
import pytest
from prefect import flow, get_client, runtime, task
from prefect.client.schemas.objects import State, StateDetails, StateType

from prefect_blocks import announcing, suspending, twins, wait_for_all
from prefect_blocks.automations import SHORTEST, TIMER, create_automations, delete_automations, timer_span
from prefect_blocks.twins import Twofold
from prefect_blocks.workflow import _said
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow
from tests.wire.prefect_blocks.deployed import DeployedRun
from tl_orchestration import Patience
from tl_orchestration.errors import WaitTimeout

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
    remote.define("kyc-approve", duration=None)
    caplog.set_level("INFO")

    def end() -> None:
        ends = time.monotonic() + 60
        while "automations create" not in caplog.text and time.monotonic() < ends:
            time.sleep(0.1)
        time.sleep(0.5)  # for what must not come
        remote.force(remote.starts()[0]["execution_id"], status="COMPLETED")

    @flow
    def body() -> None:
        run = block.trigger()
        threading.Thread(target=end).start()
        run.wait_for_completion()

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

    assert len(told(run.id, 2)) == 2


# -- a wait that ends without a suspension -----------------------------------------------------------------------------


def told(flow_run_id: UUID, least: int) -> list[str]:
    """What the timer was told about a flow run, the first event first, once it is that much."""
    names = [announcing.WAITING, announcing.WAITS_NO_MORE]
    wanted = {"event": {"name": names}, "resource": {"id": [f"prefect.flow-run.{flow_run_id}"]}, "order": "ASC"}
    ends = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
            if len(found) >= least or time.monotonic() > ends:
                return [event["event"] for event in found]
            time.sleep(0.1)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """
    Lets Prefect fail every suspension of ours; meanwhile the given thing happens.
    """
    monkeypatch.setattr(suspending, "SLICE", 0.2)

    def refuse(meanwhile: Callable[[], object]) -> None:
        suspend = prefect.suspend_flow_run

        def away(**how: Any) -> Any:
            if not how["key"].startswith("transactionlink-"):
                return suspend(**how)
            meanwhile()
            raise httpx.ConnectError("away")

        monkeypatch.setattr(prefect, "suspend_flow_run", away)

    return refuse


def test_timer_leaves_an_approval_alone(
    remote: Remote, workflow: MakeWorkflow, timer: Timer, refusing: Callable[[Callable[[], object]], None]
) -> None:
    """
    A flow run that has announced, was not suspended, and went on to wait for a person: that is for the person to end.
    """
    block = workflow("kyc-slow", suspend_after=0, timeout=7200)
    timer(SHORTEST)
    refusing(lambda: remote.force(remote.starts()[0]["execution_id"], status="COMPLETED"))

    @flow
    def body() -> None:
        block.trigger().wait_for_completion()
        prefect.suspend_flow_run(timeout=3600, key="a-persons-approval")

    approval, witness = DeployedRun(body), DeployedRun(body)
    assert approval.go().name == "Suspended"
    with get_client(sync_client=True) as client:
        # Its span ends after a later look of the server's at all spans, which is every five seconds.
        announcing.announce(client, witness.id, at=datetime.now(UTC) + timedelta(seconds=7))
        details = StateDetails(pause_key=announcing.pause_key(1), pause_reschedule=True)
        client.set_flow_run_state(
            witness.id, State(type=StateType.PAUSED, name="Suspended", state_details=details), force=True
        )
    ends = time.monotonic() + 60
    while witness.states()[-1] == "Suspended" and time.monotonic() < ends:
        time.sleep(0.2)

    assert witness.states()[-1] == "Resuming"
    assert approval.states()[-1] == "Suspended"
    assert told(approval.id, 2) == [announcing.WAITING, announcing.WAITS_NO_MORE]


@pytest.mark.parametrize("ending", ["deadline", "time-out", "several"])
def test_whatever_ends_the_wait(
    remote: Remote,
    workflow: MakeWorkflow,
    timer: Timer,
    refusing: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    """An announcement is taken back when the wait raises, when it is cancelled, and when it is for several."""
    monkeypatch.setattr(suspending, "_AWAKE", -3600.0)
    block = workflow("kyc-slow", suspend_after=0, timeout=6 if ending == "deadline" else 7200)
    timer(timedelta(minutes=5))
    announced = threading.Event()

    def meanwhile() -> None:
        if ending == "several":
            remote.force(remote.starts()[-1]["execution_id"], status="COMPLETED")

    refusing(meanwhile)

    async def away(**_: Any) -> None:
        announced.set()
        raise httpx.ConnectError("away")

    monkeypatch.setattr("prefect.flow_runs.asuspend_flow_run", away)

    @flow
    def waits() -> None:
        run = block.trigger()
        if ending == "several":
            remote.force(run.execution_id, status="COMPLETED")
            wait_for_all([run, block.trigger()])
        else:
            with pytest.raises(WaitTimeout):
                run.wait_for_completion()

    @flow
    async def awaits() -> None:
        waiting = asyncio.create_task((await block.atrigger()).await_for_completion())
        await asyncio.to_thread(announced.wait, 30)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run = DeployedRun(awaits if ending == "time-out" else waits)

    assert run.go().name == "Completed"
    names = told(run.id, 2)
    assert names[-1] == announcing.WAITS_NO_MORE
    assert names.count(announcing.WAITS_NO_MORE) == 1


def test_last_of_several_waits_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another wait of the flow run may still be suspended, its announcement stands. A lost answer is repeated."""
    monkeypatch.setattr(suspending, "_MOMENT", 0.0)
    sent = suspending._sent
    answers = iter([False, True])
    monkeypatch.setattr(suspending, "_sent", lambda event: sent(event) and next(answers))
    seen: list[list[str]] = []

    def over() -> Twofold[None]:
        yield from ()

    @flow
    def body() -> None:
        here = runtime.flow_run.id
        first, second = (suspending.Suspension(void) for _ in range(2))
        assert first._announce([])
        assert second._announce([])
        twins.run(first.around(over()))
        seen.append(told(here, 2))
        twins.run(second.around(over()))
        seen.append(told(here, 3))
        twins.run(suspending.Suspension(void).around(over()))

    body()

    assert seen == [[announcing.WAITING] * 2, [announcing.WAITING] * 2 + [announcing.WAITS_NO_MORE]]
    assert next(answers, None) is None


# -- beside tasks ------------------------------------------------------------------------------------------------------


def test_span_of_the_timer(timer: Timer) -> None:
    """As it stands on the server."""
    assert timer_span() is None
    assert suspending.unheard() is not None
    timer(timedelta(seconds=77))
    assert timer_span() == timedelta(seconds=77)
    assert suspending.unheard() is None
