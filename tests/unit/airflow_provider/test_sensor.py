"""
The sensor with Airflow's own interval, limits and modes. It asks, and never cancels.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider.events import Ending, WaitEvent
from airflow_provider.failures import TransactionlinkFailure
from airflow_provider.sensors import TransactionlinkWorkflowSensor
from airflow_provider.versions import AirflowSensorTimeout, AirflowSkipException
from tests.airflow_versions import AirflowRescheduleException, TaskDeferred
from tests.unit.airflow_provider.services import CONN_ID, OPTIONS, SERVICES, client_of, connect
from tests.unit.airflow_provider.test_steps import context as task_context
from tests.unit.airflow_provider.test_steps import fired
from tl_orchestration import RunRequest
from tl_orchestration.options import options_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.remote import Remote


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    connect(monkeypatch, remote.url, "transactionlink")


def running(remote: Remote, definition: str = "kyc-slow", duration: float | None = None) -> str:
    if duration is not None:
        remote.define(definition, duration=duration)
    with client_of("transactionlink", remote.url) as client:
        return client.run(RunRequest(definition)).id


def sensor(execution_id: str, **arguments: Any) -> TransactionlinkWorkflowSensor:
    chosen = {"poke_interval": 0.1, "timeout": 60, "transactionlink_conn_id": CONN_ID, **arguments}
    return TransactionlinkWorkflowSensor(task_id="sense", execution_id=execution_id, **chosen)


def context(first_poke: datetime | None = None) -> Any:
    """A task's context; a sensor in reschedule mode asks when its first poke was."""
    given = task_context()
    given["ti"].get_first_reschedule_date = lambda _: first_poke
    return given


def resumed(
    chosen: TransactionlinkWorkflowSensor, deferred: Callable[[], None] = lambda: None, given: Any | None = None
) -> Any:
    """Defer, let the trigger fire, resume as Airflow does."""
    given = given or context()
    with pytest.raises(TaskDeferred) as caught:
        chosen.execute(given)
    deferred()
    event = asyncio.run(fired(caught.value.trigger))
    return chosen.resume_execution("execute_complete", {"event": event}, given)


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_ended_execution_is_returned(remote: Remote, mode: str) -> None:
    """In either mode, the same dict as the operator's."""
    execution_id = running(remote, "kyc-approve", 0)
    returned = sensor(execution_id, mode=mode, result_fields={"decision": "decision"}).execute(context())
    assert returned == {"execution_id": execution_id, "status": "SUCCEEDED", "fields": {"decision": "approve"}}


def test_reschedule_mode_gives_the_slot_back(remote: Remote) -> None:
    """One poll, then Airflow is told when to come back."""
    execution_id, before = running(remote), datetime.now(UTC)
    with pytest.raises(AirflowRescheduleException) as caught:
        sensor(execution_id, mode="reschedule", poke_interval=60).execute(context())
    assert caught.value.reschedule_date >= before + timedelta(seconds=60)
    assert remote.count("GET /workflows/{id}") == 1
    assert remote.cancels() == []


@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])
def test_timeout_is_airflows_and_leaves_the_execution(remote: Remote, mode: str, *, soft_fail: bool) -> None:
    """In every mode: a failure that is not retried, or a skip; and the execution goes on."""
    raised = AirflowSkipException if soft_fail else AirflowSensorTimeout
    execution_id = running(remote)
    arguments: dict[str, Any] = {"soft_fail": soft_fail, "timeout": 0.3}
    if mode == "deferrable":
        chosen = sensor(execution_id, deferrable=True, **arguments)
        with pytest.raises(raised):
            resumed(chosen)
    else:
        chosen = sensor(execution_id, mode=mode, **arguments)
        with pytest.raises(raised):
            chosen.execute(context(first_poke=datetime.now(UTC) - timedelta(seconds=1)))
    assert remote.cancels() == []


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("service", SERVICES)
def test_execution_of_each_service_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str, *, deferrable: bool
) -> None:
    """The connection says where the execution lives; the sensor, and its trigger, need no more."""
    connect(monkeypatch, remote.url, service)
    remote.define("kyc-approve", duration=60 if deferrable else 0.3)
    options = options_for(service, OPTIONS[service], "service_options")
    with client_of(service, remote.url) as client:
        execution_id = client.run(RunRequest("kyc-approve", options=options)).id
    chosen = sensor(execution_id, deferrable=deferrable, result_fields={"decision": "decision"})
    returned = resumed(chosen, lambda: remote.advance(61)) if deferrable else chosen.execute(context())
    assert returned == {"execution_id": execution_id, "status": "SUCCEEDED", "fields": {"decision": "approve"}}


@pytest.mark.parametrize("deferrable", [False, True])
def test_version_of_a_legacy_execution_can_be_said(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, *, deferrable: bool
) -> None:
    """An id does not tell that the execution is about a case, whose result has other members."""
    connect(monkeypatch, remote.url, "transactionlink-legacy")
    remote.define("kyc-approve", duration=60 if deferrable else 0.3)
    options = options_for("transactionlink-legacy", OPTIONS["transactionlink-legacy"], "service_options")
    with client_of("transactionlink-legacy", remote.url) as client:
        execution_id = client.run(RunRequest("kyc-approve", options=options)).id
    for version, told in ((None, False), (1, True)):
        chosen = sensor(execution_id, deferrable=deferrable and version == 1, result="full", api_version=version)
        deferring = chosen.deferrable and version is None
        returned = resumed(chosen, lambda: remote.advance(61)) if deferring else chosen.execute(context())
        assert told is ("partyDetails" in returned["result"])


def test_whole_result_does_not_leave_as_a_text(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """A connection that forbids full results binds the sensor as it binds the operator, before anything is sent."""
    connect(monkeypatch, remote.url, "transactionlink", {"forbid_full_result": True})
    with pytest.raises(TransactionlinkFailure, match="forbids full results"):
        sensor(running(remote), result_fields={"all": "to_string(@)"}).execute(context())
    assert remote.count("GET /workflows/{id}") == 0


def test_airflows_own_limit_of_a_deferral_is_a_timeout_too(remote: Remote) -> None:
    """Where Airflow ends the wait in the triggerer itself."""
    chosen = sensor(running(remote), deferrable=True)
    with pytest.raises(AirflowSensorTimeout):
        chosen.resume_execution("__fail__", {"error": "Trigger timeout"}, context())
    assert remote.cancels() == []


@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize("duration", [0, 0.3])
@pytest.mark.parametrize("deferrable", [False, True])
def test_failed_execution_fails_or_skips(remote: Remote, *, duration: float, soft_fail: bool, deferrable: bool) -> None:
    """soft_fail means the same in every mode, and whether the end was there at the first poll or later."""
    defers = deferrable and duration > 0
    execution_id = running(remote, "kyc-fail", 60 if defers else duration)
    chosen = sensor(execution_id, soft_fail=soft_fail, deferrable=deferrable)
    with pytest.raises(AirflowSkipException if soft_fail else TransactionlinkFailure):
        resumed(chosen, lambda: remote.advance(61)) if defers else chosen.execute(context())


def test_never_fail_skips_at_the_first_poll_too(remote: Remote) -> None:
    """Also where the sensor would have deferred after it."""
    chosen = sensor(running(remote, "kyc-fail", 0), never_fail=True, deferrable=True)
    with pytest.raises(AirflowSkipException, match="ended as FAILED"):
        chosen.execute(context())


def test_deferral_has_interval_and_limit_of_the_sensor(remote: Remote) -> None:
    """The trigger polls at poke_interval until the timeout, counted from the task's start, or execution_timeout."""
    chosen, given = sensor(running(remote), deferrable=True, poke_interval=7, timeout=90), context()
    started = given["ti"].start_date.timestamp()

    def deferral() -> Any:
        with pytest.raises(TaskDeferred) as caught:
            chosen.execute(given)
        return caught.value.trigger.serialize()[1]

    assert (deferral()["poll_interval"], deferral()["deadline"]) == (7, started + 90)
    chosen.execution_timeout = timedelta(seconds=30)
    assert deferral()["deadline"] == started + 30
    assert not deferral()["owned"]


def test_interval_of_zero_does_not_break_the_wait(remote: Remote) -> None:
    """Airflow takes it; the trigger then uses intervals of its own."""
    execution_id = running(remote, "kyc-approve", 60)
    assert resumed(sensor(execution_id, poke_interval=0, deferrable=True), lambda: remote.advance(61))


def test_failed_poll_is_no_answer(remote: Remote) -> None:
    """A service that is away for a moment ends no sensor."""
    execution_id = running(remote, "kyc-approve", 0)
    remote.order("status", "status", status=503, headers={"Retry-After": "3600"})
    assert sensor(execution_id).execute(context())["execution_id"] == execution_id
    assert remote.count("GET /workflows/{id}") == 2


def test_poll_that_no_retry_mends_ends_the_sensor(remote: Remote) -> None:
    """An execution that nobody knows will not appear."""
    with pytest.raises(TransactionlinkFailure, match="404"):
        sensor("nobody").execute(context())


@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"transactionlink_conn_id": "misspelt"}, "There is no connection 'misspelt'"),
        ({"result": "s4://bucket/results/"}, "s4"),
        ({}, "401"),
    ],
)
def test_what_will_not_pass_fails_at_the_first_poke(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, mode: str, wrong: dict[str, Any], said: str
) -> None:
    """A connection that is not there, a storage that nobody knows, a wrong token: not a wait of seven days."""
    execution_id = running(remote)
    if not wrong:
        connect(monkeypatch, remote.url, "transactionlink", None, password="tot_PLANTED")
    how: dict[str, Any] = {"deferrable": True} if mode == "deferrable" else {"mode": mode}
    with pytest.raises(TransactionlinkFailure, match=said) as caught:
        sensor(execution_id, **how, **wrong).execute(context())
    assert "PLANTED" not in str(caught.value)
    assert remote.count("GET /workflows/{id}") == (0 if wrong else 1)


def test_token_that_is_rotated_ends_no_sensor(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """Once a poll was answered, a refused credential is forgiven; so it is after the first poke of a reschedule."""
    execution_id = running(remote)
    chosen = sensor(execution_id)
    assert not chosen.poke(context()).is_done
    connect(monkeypatch, remote.url, "transactionlink", None, password="tot_PLANTED")
    assert not chosen.poke(context()).is_done
    later = sensor(execution_id, mode="reschedule")
    assert not later.poke(context(datetime.now(UTC))).is_done
    with pytest.raises(TransactionlinkFailure, match="401"):
        later.poke(context())


def test_outage_ends_no_deferred_sensor(remote: Remote) -> None:
    """The trigger gives up after a quarter of an hour; the sensor asks on until its own timeout."""
    chosen, given = sensor(running(remote), deferrable=True), context()
    with pytest.raises(TaskDeferred) as caught:
        chosen.execute(given)
    said = WaitEvent(
        ending=Ending.FAILED,
        execution_id=chosen.execution_id,
        deadline=caught.value.trigger.deadline,
        error="ServerError",
        status_code=502,
    )
    with pytest.raises(TaskDeferred) as again:
        chosen.resume_execution("execute_complete", {"event": said.to_dict()}, given)
    assert again.value.trigger.deadline == caught.value.trigger.deadline


def test_timeout_in_an_outage_is_a_timeout(remote: Remote) -> None:
    """With retries, anything else would begin the whole timeout again."""
    chosen = sensor(running(remote), deferrable=True)
    said = WaitEvent(ending=Ending.DEADLINE, execution_id=chosen.execution_id, deadline=1.0)
    remote.order("status", "status", status=503, times=20)
    with pytest.raises(AirflowSensorTimeout, match="could not be asked"):
        chosen.resume_execution("execute_complete", {"event": said.to_dict()}, context())


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"on_partial": "maybe"}, "'on_partial' must be in"),
        ({"result_fields": ["a"]}, "'list' object has no attribute"),
    ],
)
def test_argument_that_cannot_be_used_fails_at_once(
    remote: Remote, arguments: dict[str, Any], says: str, *, deferrable: bool
) -> None:
    """As in the operator: one sentence that names the task, and no retry."""
    with pytest.raises(TransactionlinkFailure) as caught:
        sensor(running(remote), deferrable=deferrable, **arguments).execute(context())
    assert says in str(caught.value)
    assert len(str(caught.value)) < 200
