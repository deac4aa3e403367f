"""
Who ends a step ends its execution: each row of the cancel matrix on a real Airflow, with the sandbox as the witness.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_airflow_steps import log_of, until

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(240)

#: Seconds in which nothing may happen, where nothing must.
QUIET = 4.0


def deferred(
    airflow: AirflowRig, oracle: Oracle, name: str, dag_id: str = "deferred", **script: object
) -> tuple[str, str, str]:
    """A step that waits in the triggerer: its definition, its run and its execution."""
    definition = oracle.define(name, **({"like": "kyc-slow"} | script))
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"definition": definition})
    airflow.wait_for_task(dag_id, run_id, "check", {"deferred"}, timeout=60)
    (execution_id,) = oracle.started(definition)
    # Until the trigger has polled, no process watches: what then happens to the task is another row.
    until(lambda: oracle.polls(definition) > 1)
    return definition, run_id, execution_id


def stays_alone(oracle: Oracle, definition: str) -> None:
    """Nothing is cancelled, now or in a moment."""
    time.sleep(QUIET)
    assert oracle.cancelled(definition) == []


@pytest.mark.parametrize(
    ("name", "decide"),
    [
        ("mark-failed", lambda airflow, run_id: airflow.set_task_state("deferred", run_id, "check", "failed")),
        ("mark-success", lambda airflow, run_id: airflow.set_task_state("deferred", run_id, "check", "success")),
        ("fail-run", lambda airflow, run_id: airflow.set_run_state("deferred", run_id, "failed")),
    ],
)
def test_ended_by_a_person_while_deferred(
    airflow: AirflowRig, oracle: Oracle, name: str, decide: Callable[[AirflowRig, str], None]
) -> None:
    """Marked failed or successful, or its run failed: the deferred step's execution is cancelled, once."""
    definition, run_id, execution_id = deferred(airflow, oracle, f"deferred-{name}")

    decide(airflow, run_id)

    assert until(lambda: oracle.cancelled(definition)) == [execution_id]
    time.sleep(1)
    assert oracle.cancelled(definition) == [execution_id]
    assert oracle.started(definition) == [execution_id]


@pytest.mark.parametrize("clear", ["task", "run"])
def test_cleared_while_deferred(airflow: AirflowRig, oracle: Oracle, clear: str) -> None:
    """A clear of the deferred task or its run: the former execution is cancelled, once, and another started."""
    definition, run_id, former = deferred(airflow, oracle, f"deferred-cleared-{clear}")
    oracle.define(definition, like="kyc-approve", duration=2)

    if clear == "task":
        airflow.clear("deferred", run_id, ["check"])
    else:
        airflow.clear_run("deferred", run_id)

    until(lambda: len(oracle.started(definition)) == 2)
    assert airflow.wait_for_run("deferred", run_id, timeout=60) == "success"
    assert airflow.xcom("deferred", run_id, "check")["execution_id"] == oracle.started(definition)[1]
    assert oracle.cancelled(definition) == [former]


def test_run_times_out(airflow: AirflowRig, oracle: Oracle) -> None:
    """dagrun_timeout ends a deferred step: its execution is cancelled."""
    definition, run_id, execution_id = deferred(airflow, oracle, "run-times-out", "run_times_out")

    assert until(lambda: oracle.cancelled(definition), 60) == [execution_id]
    assert airflow.task_instance("run_times_out", run_id, "check").state == "skipped"


def test_defer_times_out(airflow: AirflowRig, oracle: Oracle) -> None:
    """Airflow's own time-out of a deferral is a deadline: the execution is cancelled and the step says so."""
    definition, run_id, execution_id = deferred(airflow, oracle, "defer-times-out", "defer_times_out")

    assert airflow.wait_for_run("defer_times_out", run_id, timeout=60) == "failed"
    assert oracle.cancelled(definition) == [execution_id]
    assert oracle.started(definition) == [execution_id]
    assert "was cancelled" in log_of(airflow, "defer_times_out", run_id)


def test_trigger_crashes(airflow: AirflowRig, oracle: Oracle) -> None:
    """A trigger that crashes ends nothing: the step waits on for the same execution, in the same try."""
    definition = oracle.define("trigger-crashes", like="kyc-approve", duration=8)
    airflow.wait_for_dag("trigger_crashes")
    run_id = airflow.trigger("trigger_crashes", {"definition": definition})

    assert airflow.wait_for_run("trigger_crashes", run_id, timeout=60) == "success"

    task = airflow.task_instance("trigger_crashes", run_id, "check")
    assert task.try_number == 1
    assert oracle.started(definition) == [airflow.xcom("trigger_crashes", run_id, "check")["execution_id"]]
    assert oracle.cancelled(definition) == []
    assert "goes on where it was" in log_of(airflow, "trigger_crashes", run_id)


def test_trigger_crashes_without_state(airflow: AirflowRig, oracle: Oracle) -> None:
    """With durable=False a crashed trigger fails the try, which says what becomes of the execution."""
    definition = oracle.define("trigger-crashes-without-state", like="kyc-approve", duration=8)
    airflow.wait_for_dag("trigger_crashes_without_state")
    run_id = airflow.trigger("trigger_crashes_without_state", {"definition": definition})

    assert airflow.wait_for_run("trigger_crashes_without_state", run_id, timeout=60) == "failed"

    assert len(oracle.started(definition)) == 1
    assert oracle.cancelled(definition) == []
    assert "no longer knows its execution" in log_of(airflow, "trigger_crashes_without_state", run_id)


def test_cleared_while_deferred_without_state(airflow: AirflowRig, oracle: Oracle) -> None:
    """With durable=False nobody but the trigger can cancel after a clear, and it does."""
    definition, run_id, former = deferred(airflow, oracle, "cleared-without-state", "deferred_without_state")
    oracle.fault(on="start", definition=definition, kind="hold", seconds=4)  # the next try is not deferred so soon

    airflow.clear("deferred_without_state", run_id, ["check"])

    assert until(lambda: oracle.cancelled(definition)) == [former]
    airflow.set_run_state("deferred_without_state", run_id, "failed")


def test_cancel_on_kill_false_while_deferred(airflow: AirflowRig, oracle: Oracle) -> None:
    """cancel_on_kill=False holds in the triggerer too."""
    definition, run_id, _ = deferred(airflow, oracle, "left-alone-deferred", "left_alone_deferred")

    airflow.set_task_state("left_alone_deferred", run_id, "check", "failed")

    stays_alone(oracle, definition)


def test_ended_by_a_person_when_the_execution_has_just_ended(airflow: AirflowRig, oracle: Oracle) -> None:
    """Marked failed after the execution has ended: there is nothing to cancel and nothing to report."""
    definition = oracle.define("ended-already", like="kyc-approve", duration=3)
    airflow.wait_for_dag("polled_rarely")
    run_id = airflow.trigger("polled_rarely", {"definition": definition})
    airflow.wait_for_task("polled_rarely", run_id, "check", {"deferred"}, timeout=60)
    until(lambda: oracle.polls(definition))  # and not again for a minute
    time.sleep(3)

    airflow.set_task_state("polled_rarely", run_id, "check", "failed")

    until(lambda: "Airflow has this task as failed" in log_of(airflow, "polled_rarely", run_id))
    time.sleep(1)
    log = log_of(airflow, "polled_rarely", run_id)
    assert [cancel["took_effect"] for cancel in oracle.cancels() if cancel["definition"] == definition] == [False]
    assert "could not be cancelled" not in log


def test_triggerer_restarts(airflow: AirflowRig, oracle: Oracle) -> None:
    """A triggerer that is told to stop and started again cancels nothing; the step goes on to its end."""
    definition, run_id, execution_id = deferred(airflow, oracle, "triggerer-restarts", like="kyc-approve", duration=12)

    airflow.restart("triggerer")

    assert airflow.wait_for_run("deferred", run_id, timeout=120) == "success"
    assert oracle.started(definition) == [execution_id]
    assert oracle.cancelled(definition) == []


@pytest.mark.slow
def test_triggerer_is_killed(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL of a triggerer and all its processes: the next one takes the wait over."""
    definition, run_id, execution_id = deferred(airflow, oracle, "triggerer-killed", like="kyc-approve", duration=12)

    airflow.kill("triggerer")
    airflow.restart("triggerer")

    assert airflow.wait_for_run("deferred", run_id, timeout=120) == "success"
    assert oracle.started(definition) == [execution_id]
    assert oracle.cancelled(definition) == []


@pytest.mark.slow
def test_trigger_moves_to_another_triggerer(airflow: AirflowRig, oracle: Oracle) -> None:
    """A triggerer that stalls loses its triggers to another one, and wakes up: Airflow 3.3 calls on_kill; no cancel."""
    definition, run_id, execution_id = deferred(airflow, oracle, "moved", like="kyc-approve", duration=60)
    second = airflow.add_triggerer()
    try:
        airflow.kill("triggerer", signal.SIGSTOP)
        polled = oracle.polls(definition)
        until(lambda: oracle.polls(definition) > polled + 2, 90)  # by the second one
        airflow.kill("triggerer", signal.SIGCONT)

        until(lambda: "Airflow has this task as deferred" in log_of(airflow, "deferred", run_id), 30)
        assert airflow.wait_for_run("deferred", run_id, timeout=120) == "success"
    finally:
        airflow.remove(second)
    assert oracle.started(definition) == [execution_id]
    assert oracle.cancelled(definition) == []


@pytest.mark.slow
def test_cleared_while_no_triggerer_lives(airflow: AirflowRig, oracle: Oracle) -> None:
    """Nobody is there to hear of the clear: the next try cancels what the former life has left running."""
    definition, run_id, former = deferred(airflow, oracle, "cleared-alone")
    oracle.define(definition, like="kyc-approve", duration=2)

    airflow.kill("triggerer")
    airflow.clear("deferred", run_id, ["check"])
    until(lambda: len(oracle.started(definition)) == 2)
    airflow.restart("triggerer")

    assert airflow.wait_for_run("deferred", run_id, timeout=120) == "success"
    assert oracle.cancelled(definition) == [former]


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
    assert airflow.wait_for_run("deferred", run_id, timeout=60) == "success"
    assert oracle.cancelled(definition) == [former]
