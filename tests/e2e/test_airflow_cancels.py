"""
Who ends a step ends its execution: each row of the cancel matrix on a real Airflow, with the sandbox as the witness.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.e2e.commands import tl
from tests.e2e.database import opened, trigger_exists, trigger_of
from tests.e2e.test_airflow_steps import log_of, until

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.e2e.conftest import Begun
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)
begins = pytest.mark.begins

#: Seconds in which nothing may happen, where nothing must.
QUIET = 4.0


def deferred(
    airflow: AirflowRig, oracle: Oracle, name: str, dag_id: str = "deferred", **script: object
) -> tuple[str, str, str]:
    """A step that waits in the triggerer: its definition, its run and its execution."""
    definition = oracle.define(name, **({"like": "kyc-slow"} | script))
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"definition": definition})
    return definition, run_id, waits(airflow, oracle, dag_id, run_id, definition)


def waits(airflow: AirflowRig, oracle: Oracle, dag_id: str, run_id: str, definition: str) -> str:
    """The execution of a step, once it waits in the triggerer."""
    airflow.wait_for_task(dag_id, run_id, "check", {"deferred"})
    (execution_id,) = oracle.started(definition)
    # Until the trigger has polled, no process watches: what then happens to the task is another row.
    until(lambda: oracle.polls(definition) > 1)
    return execution_id


def stays_alone(oracle: Oracle, definition: str) -> None:
    """Nothing is cancelled, now or in a moment."""
    time.sleep(QUIET)
    assert oracle.cancelled(definition) == []


@pytest.mark.parametrize(
    ("decide", "state"),
    [
        pytest.param(decide, state, marks=begins("deferred"), id=name)
        for name, state, decide in [
            ("mark-failed", "failed", lambda rig, run_id: rig.set_task_state("deferred", run_id, "check", "failed")),
            ("mark-success", "success", lambda rig, run_id: rig.set_task_state("deferred", run_id, "check", "success")),
            ("fail-run", "failed", lambda rig, run_id: rig.set_run_state("deferred", run_id, "failed")),
        ]
    ],
)
def test_ended_by_a_person_while_deferred(
    airflow: AirflowRig, oracle: Oracle, begun: Begun, decide: Callable[[AirflowRig, str], None], state: str
) -> None:
    """Marked failed or successful, or its run failed: the deferred step's execution is cancelled, once."""
    execution_id = waits(airflow, oracle, "deferred", begun.run_id, begun.definition)

    decide(airflow, begun.run_id)

    assert until(lambda: oracle.cancelled(begun.definition)) == [execution_id]
    assert begun.ends() == state
    time.sleep(1)
    assert airflow.task_instance("deferred", begun.run_id, "check").state == state
    assert oracle.order(begun.definition) == ["start", "cancel"]


@pytest.mark.parametrize(
    "clear", [pytest.param(clear, marks=begins("deferred"), id=clear) for clear in ("task", "run")]
)
def test_cleared_while_deferred(airflow: AirflowRig, oracle: Oracle, begun: Begun, clear: str) -> None:
    """A clear of the deferred task or its run: the former execution is cancelled, once, and then another started."""
    definition, run_id = begun.definition, begun.run_id
    former = waits(airflow, oracle, "deferred", run_id, definition)
    oracle.define(definition, like="kyc-approve", duration=2)

    if clear == "task":
        airflow.clear("deferred", run_id, ["check"])
    else:
        airflow.clear_run("deferred", run_id)

    until(lambda: len(oracle.started(definition)) == 2)
    assert begun.ends() == "success"
    assert airflow.xcom("deferred", run_id, "check")["execution_id"] == oracle.started(definition)[1]
    assert oracle.cancelled(definition) == [former]
    assert oracle.order(definition) == ["start", "cancel", "start"]


@begins("defer_times_out")
def test_defer_times_out(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """Airflow's own time-out of a deferral is a deadline: the execution is cancelled and the step says so."""
    assert begun.ends() == "failed"

    assert oracle.order(begun.definition) == ["start", "cancel"]
    assert airflow.task_instance("defer_times_out", begun.run_id, "check").state == "failed"
    assert "was cancelled" in log_of(airflow, "defer_times_out", begun.run_id)


@begins("trigger_crashes", like="kyc-approve", duration=8)
def test_trigger_crashes(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """A trigger that crashes ends nothing: the step waits on for the same execution, in the same try."""
    assert begun.ends() == "success"

    assert airflow.task_instance("trigger_crashes", begun.run_id, "check").try_number == 1
    returned = airflow.xcom("trigger_crashes", begun.run_id, "check")
    assert oracle.started(begun.definition) == [returned["execution_id"]]
    assert oracle.cancelled(begun.definition) == []
    assert "goes on where it was" in log_of(airflow, "trigger_crashes", begun.run_id)


@begins("trigger_crashes_without_state")
def test_trigger_crashes_without_state(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """With durable=False a crashed trigger fails the try, which says what becomes of the execution."""
    assert begun.ends() == "failed"

    assert len(oracle.started(begun.definition)) == 1
    assert oracle.cancelled(begun.definition) == []
    assert "no longer knows its execution" in log_of(airflow, "trigger_crashes_without_state", begun.run_id)


@begins("deferred_without_state")
def test_cleared_while_deferred_without_state(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """With durable=False nobody but the trigger can cancel after a clear, and it does."""
    definition, run_id = begun.definition, begun.run_id
    former = waits(airflow, oracle, "deferred_without_state", run_id, definition)
    oracle.fault(on="start", definition=definition, kind="hold", seconds=60)  # the next try is not deferred so soon

    airflow.clear("deferred_without_state", run_id, ["check"])

    assert until(lambda: oracle.cancelled(definition)) == [former]
    until(lambda: len(oracle.started(definition)) == 2)
    airflow.set_run_state("deferred_without_state", run_id, "failed")


@begins("left_alone_deferred")
def test_cancel_on_kill_false_while_deferred(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """cancel_on_kill=False holds in the triggerer too."""
    waits(airflow, oracle, "left_alone_deferred", begun.run_id, begun.definition)

    airflow.set_task_state("left_alone_deferred", begun.run_id, "check", "failed")

    stays_alone(oracle, begun.definition)


@begins("polled_rarely")
def test_ended_by_a_person_when_the_execution_has_just_ended(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """Marked failed after the execution has ended: there is nothing to cancel and nothing to report."""
    definition, run_id = begun.definition, begun.run_id
    airflow.wait_for_task("polled_rarely", run_id, "check", {"deferred"})
    until(lambda: oracle.polls(definition))  # and not again for a minute
    oracle.end(oracle.started(definition)[0])

    airflow.set_task_state("polled_rarely", run_id, "check", "failed")

    until(lambda: "Airflow has this task as failed" in log_of(airflow, "polled_rarely", run_id))
    until(lambda: any(cancel["definition"] == definition for cancel in oracle.cancels()))
    time.sleep(1)
    log = log_of(airflow, "polled_rarely", run_id)
    assert [cancel["took_effect"] for cancel in oracle.cancels() if cancel["definition"] == definition] == [False]
    assert "could not be cancelled" not in log


@begins("run_times_out")
def test_run_times_out(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """dagrun_timeout ends a deferred step: its execution is cancelled. That the hour has passed is forced."""
    execution_id = waits(airflow, oracle, "run_times_out", begun.run_id, begun.definition)

    with opened(airflow) as database:
        earlier = "UPDATE dag_run SET start_date = start_date - interval '1 hour' WHERE run_id = %s AND dag_id = %s"
        assert database.execute(earlier, [begun.run_id, begun.dag_id]).rowcount == 1

    assert until(lambda: oracle.cancelled(begun.definition)) == [execution_id]
    assert begun.ends() == "failed"
    assert airflow.task_instance("run_times_out", begun.run_id, "check").state == "skipped"


def test_triggerer_restarts(airflow: AirflowRig, oracle: Oracle) -> None:
    """A triggerer that is told to stop and started again cancels nothing; the step goes on to its end."""
    definition, run_id, execution_id = deferred(airflow, oracle, "triggerer-restarts", like="kyc-approve", duration=12)

    airflow.restart("triggerer")

    assert airflow.wait_for_run("deferred", run_id) == "success"
    assert oracle.started(definition) == [execution_id]
    assert oracle.cancelled(definition) == []


@pytest.mark.slow
def test_triggerer_is_killed(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL of a triggerer and all its processes: the next one takes the wait over."""
    definition, run_id, execution_id = deferred(airflow, oracle, "triggerer-killed", like="kyc-approve", duration=12)

    airflow.kill("triggerer")
    airflow.restart("triggerer")

    assert airflow.wait_for_run("deferred", run_id) == "success"
    assert oracle.started(definition) == [execution_id]
    assert oracle.cancelled(definition) == []


@pytest.mark.slow
def test_trigger_moves_to_another_triggerer(airflow: AirflowRig, oracle: Oracle) -> None:
    """A triggerer that stalls loses its triggers to another one, and wakes up: Airflow 3.3 calls on_kill; no cancel."""
    definition, run_id, execution_id = deferred(airflow, oracle, "moved")
    second = airflow.add_triggerer()
    try:
        airflow.kill("triggerer", signal.SIGSTOP)
        polled = oracle.polls(definition)
        until(lambda: oracle.polls(definition) > polled + 2, 240)  # by the second one
        airflow.kill("triggerer", signal.SIGCONT)

        until(lambda: "Airflow has this task as deferred" in log_of(airflow, "deferred", run_id))
        oracle.end(execution_id)
        assert airflow.wait_for_run("deferred", run_id) == "success"
    finally:
        airflow.kill("triggerer", signal.SIGCONT)
        airflow.remove(second)
    assert oracle.order(definition) == ["start"]


@pytest.mark.slow
def test_cleared_while_no_triggerer_lives(airflow: AirflowRig, oracle: Oracle) -> None:
    """Nobody is there to hear of the clear: the next try cancels what the former life has left running."""
    definition, run_id, former = deferred(airflow, oracle, "cleared-alone")
    oracle.define(definition, like="kyc-approve", duration=2)

    airflow.kill("triggerer")
    try:
        airflow.clear("deferred", run_id, ["check"])
        until(lambda: len(oracle.started(definition)) == 2)
    finally:
        airflow.restart("triggerer")

    assert airflow.wait_for_run("deferred", run_id) == "success"
    assert oracle.cancelled(definition) == [former]
    assert oracle.order(definition) == ["start", "cancel", "start"]


@pytest.mark.slow
def test_marked_failed_while_the_triggerer_goes_away(airflow: AirflowRig, oracle: Oracle) -> None:
    """Airflow 3.3 tells nobody of a task that is marked failed just then; a clear of the task cancels what was left."""
    definition, run_id, former = deferred(airflow, oracle, "failed-racing")

    airflow.kill("triggerer", signal.SIGTERM, whole=False)
    airflow.set_task_state("deferred", run_id, "check", "failed")
    airflow.restart("triggerer")
    oracle.define(definition, like="kyc-approve", duration=2)
    airflow.clear("deferred", run_id, ["check"])

    until(lambda: len(oracle.started(definition)) == 2)
    assert airflow.wait_for_run("deferred", run_id) == "success"
    assert oracle.cancelled(definition) == [former]


@pytest.mark.slow
def test_ended_by_a_person_between_two_triggerers(airflow: AirflowRig, oracle: Oracle) -> None:
    """
    Airflow 3.3 tells nobody of what is decided while a trigger's triggerer is dead and no other has taken it over. A
    clear, then or later, cancels what was left; else `tl cancel` with the id from the task's log does.
    """
    names = ("failed-and-left", "failed-and-cleared", "cleared-between")
    steps = [deferred(airflow, oracle, name) for name in names]
    (left, left_run, left_id), (failed, failed_run, failed_id), (cleared, cleared_run, cleared_id) = steps
    triggers = [trigger_of(airflow, run_id) for run_id in (left_run, failed_run)]
    second = airflow.add_triggerer()
    try:
        airflow.kill("triggerer")
        for run_id in (left_run, failed_run):
            airflow.set_task_state("deferred", run_id, "check", "failed")
        for definition in (failed, cleared):
            oracle.define(definition, like="kyc-approve", duration=2)
        airflow.clear("deferred", cleared_run, ["check"])
        assert airflow.wait_for_run("deferred", cleared_run) == "success"  # with the second one
        until(lambda: not any(trigger_exists(airflow, number) for number in triggers))
        assert oracle.order(left) == oracle.order(failed) == ["start"]

        airflow.clear("deferred", failed_run, ["check"])
        assert airflow.wait_for_run("deferred", failed_run) == "success"
        assert f"Started execution {left_id}" in log_of(airflow, "deferred", left_run)
        _, stdout, stderr = tl(airflow, "cancel", left_id, oracle=oracle)
    finally:
        airflow.restart("triggerer")
        airflow.remove(second)

    assert "CANCELLED" in stdout, stderr
    assert oracle.cancelled(left) == [left_id]
    assert airflow.task_instance("deferred", left_run, "check").state == "failed"
    for definition, former in ((failed, failed_id), (cleared, cleared_id)):
        assert oracle.cancelled(definition) == [former]
        assert oracle.order(definition) == ["start", "cancel", "start"]


@pytest.mark.slow
def test_marked_failed_before_a_triggerer_has_taken_it_up(airflow: AirflowRig, oracle: Oracle) -> None:
    """Airflow 3.3 tells no trigger that has not begun: the execution goes on, until a clear of the task cancels it."""
    definition = oracle.define("failed-too-soon", like="kyc-slow")
    airflow.wait_for_dag("deferred")
    airflow.kill("triggerer", signal.SIGSTOP)
    try:
        run_id = airflow.trigger("deferred", {"definition": definition})
        airflow.wait_for_task("deferred", run_id, "check", {"deferred"})
        trigger = trigger_of(airflow, run_id)
        airflow.set_task_state("deferred", run_id, "check", "failed")
    finally:
        airflow.kill("triggerer", signal.SIGCONT)
    until(lambda: not trigger_exists(airflow, trigger))
    stays_alone(oracle, definition)

    (former,) = oracle.started(definition)
    oracle.define(definition, like="kyc-approve", duration=2)
    airflow.clear("deferred", run_id, ["check"])

    assert airflow.wait_for_run("deferred", run_id) == "success"
    assert oracle.cancelled(definition) == [former]
    assert oracle.order(definition) == ["start", "cancel", "start"]


@pytest.mark.slow
def test_cleared_without_state_and_deferred_again(airflow: AirflowRig, oracle: Oracle) -> None:
    """With durable=False a next try that is deferred already looks like a move: the former execution goes on."""
    dag_id = "deferred_without_state"
    definition, run_id, former = deferred(airflow, oracle, "deferred-again", dag_id)

    airflow.kill("triggerer", signal.SIGSTOP)
    try:
        airflow.clear(dag_id, run_id, ["check"])
        airflow.wait_for_task(dag_id, run_id, "check", {"deferred"}, try_number=2)
    finally:
        airflow.kill("triggerer", signal.SIGCONT)
    until(lambda: "Airflow has this task as deferred" in log_of(airflow, dag_id, run_id))
    stays_alone(oracle, definition)

    _, stdout, stderr = tl(airflow, "cancel", former, oracle=oracle)
    assert "CANCELLED" in stdout, stderr
    airflow.set_run_state(dag_id, run_id, "failed")
    assert len(oracle.started(definition)) == 2


@pytest.mark.slow
def test_killed_by_airflow_in_a_start_that_takes_long(airflow: AirflowRig, oracle: Oracle) -> None:
    """Marked failed in a start of more than five seconds: nobody cancels, and a clear reports the unknown start."""
    definition = oracle.define("killed-in-a-long-start", like="kyc-slow")
    oracle.fault(on="start", definition=definition, kind="hold", seconds=30)
    airflow.wait_for_dag("in_worker")
    run_id = airflow.trigger("in_worker", {"definition": definition})
    process = airflow.task_process("in_worker", run_id, "check")
    (execution_id,) = until(lambda: oracle.started(definition))

    airflow.set_task_state("in_worker", run_id, "check", "failed")
    until(lambda: process not in airflow.processes(), 25)  # before the start is answered
    stays_alone(oracle, definition)

    airflow.clear("in_worker", run_id, ["check"])
    assert airflow.wait_for_run("in_worker", run_id) == "failed"
    assert "may or may not have started an execution" in log_of(airflow, "in_worker", run_id, tries=2)
    assert oracle.order(definition) == ["start"]
    oracle.end(execution_id)
