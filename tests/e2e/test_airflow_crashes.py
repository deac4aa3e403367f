"""
A step goes on with its execution whatever part of Airflow dies or changes under it; the sandbox is the witness.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from dev import sessions
from tests.e2e.test_airflow_cancels import deferred
from tests.e2e.test_airflow_steps import log_of, until

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(300)


def in_worker(
    airflow: AirflowRig, oracle: Oracle, name: str, duration: float, dag_id: str = "in_worker"
) -> tuple[str, str, int]:
    """A step that waits in a worker: its definition, its run and its process."""
    definition = oracle.define(name, like="kyc-approve", duration=duration)
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"definition": definition})
    pid = airflow.task_process(dag_id, run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, dag_id, run_id))
    return definition, run_id, pid


def went_on(airflow: AirflowRig, oracle: Oracle, dag_id: str, run_id: str, definition: str, tries: int | None) -> None:
    """The run ends well with the one execution that was ever started, and nothing was cancelled."""
    assert airflow.wait_for_run(dag_id, run_id, timeout=150) == "success", airflow.describe_run(dag_id, run_id)
    assert tries is None or airflow.task_instance(dag_id, run_id, "check").try_number == tries
    assert oracle.started(definition) == [airflow.xcom(dag_id, run_id, "check")["execution_id"]]
    assert oracle.cancelled(definition) == []


@pytest.mark.slow
def test_supervisor_is_killed(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL of what supervises the task: when Airflow has noticed, the retry goes on with the same execution."""
    definition, run_id, pid = in_worker(airflow, oracle, "supervisor-killed", duration=40)

    os.kill(next(sessions.ancestors(pid)), signal.SIGKILL)

    went_on(airflow, oracle, "in_worker", run_id, definition, tries=2)


@pytest.mark.slow
def test_scheduler_is_killed(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL of the scheduler and all tasks below it: the next one retries, and the retry goes on."""
    definition, run_id, _ = in_worker(airflow, oracle, "scheduler-killed", duration=40)

    airflow.kill("scheduler")
    airflow.restart("scheduler")

    went_on(airflow, oracle, "in_worker", run_id, definition, tries=2)


@pytest.mark.slow
def test_worker_is_rolled_out(airflow: AirflowRig, oracle: Oracle) -> None:
    """A scheduler that is told to stop takes its tasks with it: no decision, no cancel, the retry goes on."""
    definition, run_id, _ = in_worker(airflow, oracle, "rolled-out", duration=40)

    airflow.kill("scheduler", signal.SIGTERM)
    airflow.restart("scheduler")

    went_on(airflow, oracle, "in_worker", run_id, definition, tries=None)


@pytest.mark.slow
def test_api_server_is_away(airflow: AirflowRig, oracle: Oracle) -> None:
    """Without an API server nobody can say whether the task was stopped: the execution is left, the retry goes on."""
    definition, run_id, pid = in_worker(airflow, oracle, "api-server-away", 60, "persistent")

    airflow.kill("api-server")
    until(lambda: not sessions.alive(pid), 90)
    airflow.restart("api-server")

    # Airflow spends tries on tasks that it cannot even begin meanwhile.
    went_on(airflow, oracle, "persistent", run_id, definition, tries=None)


def test_scheduler_restarts_while_deferred(airflow: AirflowRig, oracle: Oracle) -> None:
    """A scheduler that is restarted means nothing to a step that waits in the triggerer."""
    definition, run_id, _ = deferred(airflow, oracle, "scheduler-restarts", like="kyc-approve", duration=12)

    airflow.restart("scheduler")

    went_on(airflow, oracle, "deferred", run_id, definition, tries=1)


VERSIONED = """
from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from airflow_provider.operators import TransactionlinkRunWorkflowOperator


@dag(dag_id="{dag_id}", schedule=None)
def pipeline() -> None:
    TransactionlinkRunWorkflowOperator(
        task_id="check",
        workflow_definition_id="{{{{ dag_run.conf['definition'] }}}}",
        parameters={{"tier": "{tier}"}},
        poll_interval=0.5,
        deferrable={deferrable},
        defer_after=0,
        retries={retries},
        retry_delay=timedelta(seconds=6),
        on_changed_request="{on_changed}",
    )


pipeline()
"""


def test_redeployed_while_deferred(airflow: AirflowRig, oracle: Oracle) -> None:
    """Other retries and other parameters in a new version of the DAG change nothing of what is under way."""
    first = {"dag_id": "redeployed", "tier": "gold", "deferrable": True, "retries": 1, "on_changed": "fail"}
    airflow.write_dag("redeployed", VERSIONED.format(**first))
    definition, run_id, _ = deferred(airflow, oracle, "redeployed", "redeployed", like="kyc-approve", duration=12)

    written = airflow.write_dag("redeployed", VERSIONED.format(**{**first, "tier": "silver", "retries": 5}))
    airflow.wait_for_dag("redeployed", parsed_after=written)

    went_on(airflow, oracle, "redeployed", run_id, definition, tries=1)


@pytest.mark.parametrize(("on_changed", "ending"), [("fail", "failed"), ("reattach", "success")])
def test_redeployed_between_tries(airflow: AirflowRig, oracle: Oracle, on_changed: str, ending: str) -> None:
    """Other retries: still the same step. Other parameters: the retry starts nothing, and says what has changed."""
    name = f"between_tries_{on_changed}"
    first = {"dag_id": name, "tier": "gold", "deferrable": False, "retries": 1, "on_changed": on_changed}
    airflow.write_dag(name, VERSIONED.format(**first))
    definition = oracle.define(name, like="kyc-approve", duration=15)
    airflow.wait_for_dag(name)
    run_id = airflow.trigger(name, {"definition": definition})
    pid = airflow.task_process(name, run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, name, run_id))

    written = airflow.write_dag(name, VERSIONED.format(**{**first, "tier": "silver", "retries": 5}))
    airflow.wait_for_dag(name, parsed_after=written)
    os.kill(pid, signal.SIGKILL)

    assert airflow.wait_for_run(name, run_id, timeout=120) == ending
    assert airflow.task_instance(name, run_id, "check").try_number == 2
    assert len(oracle.started(definition)) == 1
    assert oracle.cancelled(definition) == []
    if ending == "failed":
        assert "for another definition, record or parameters" in log_of(airflow, name, run_id, tries=2)


def test_killed_by_a_person_within_four_seconds(airflow: AirflowRig, oracle: Oracle) -> None:
    """From the signal to the cancel it takes less than the five seconds after which Airflow kills the process."""
    definition = oracle.define("killed-by-a-person", like="kyc-slow")
    airflow.wait_for_dag("in_worker")
    run_id = airflow.trigger("in_worker", {"definition": definition})
    pid = airflow.task_process("in_worker", run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, "in_worker", run_id))
    oracle.fault(on="status", definition=definition, kind="hold", seconds=25)  # it is stuck in a poll
    time.sleep(1)

    airflow.set_task_state("in_worker", run_id, "check", "failed")
    until(lambda: not sessions.alive(pid), 30)

    assert len(oracle.cancelled(definition)) == 1
    assert airflow.task_instance("in_worker", run_id, "check").state == "failed"
