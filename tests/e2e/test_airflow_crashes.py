"""
A step goes on with its execution whatever part of Airflow dies or changes under it; the sandbox is the witness.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from dev import sessions
from tests.e2e.test_airflow_cancels import deferred, waits
from tests.e2e.test_airflow_steps import log_of, until

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


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
    assert airflow.wait_for_run(dag_id, run_id) == "success", airflow.describe_run(dag_id, run_id)
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
    until(lambda: not sessions.alive(pid))
    airflow.restart("api-server")

    # Airflow spends tries on tasks that it cannot even begin meanwhile.
    went_on(airflow, oracle, "persistent", run_id, definition, tries=None)


@pytest.mark.slow
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
        retry_delay=timedelta(seconds=1),
        on_changed_request="{on_changed}",
    )


pipeline()
"""


#: Whether the step waits in the triggerer, and its on_changed_request.
MODES = {"deferred": (True, "fail"), "fail": (False, "fail"), "reattach": (False, "reattach")}


class Redeployed:
    """
    Three steps under way: one waits in the triggerer, two in a worker. Then their DAGs come with other parameters and
    ``retries``, and the processes of the two are killed.
    """

    def __init__(self, airflow: AirflowRig, oracle: Oracle) -> None:
        self.definitions = {mode: oracle.define(f"redeployed-{mode}", like="kyc-slow") for mode in MODES}
        for mode in MODES:
            airflow.write_dag(f"redeployed_{mode}", self._source(mode, tier="gold", retries=1))
        for mode in MODES:
            airflow.wait_for_dag(f"redeployed_{mode}")
        self.runs = {
            mode: airflow.trigger(f"redeployed_{mode}", {"definition": definition})
            for mode, definition in self.definitions.items()
        }
        pids = [airflow.task_process(f"redeployed_{m}", self.runs[m], "check") for m in ("fail", "reattach")]
        waits(airflow, oracle, "redeployed_deferred", self.runs["deferred"], self.definitions["deferred"])
        until(lambda: all(map(oracle.polls, self.definitions.values())))

        written = [
            airflow.write_dag(f"redeployed_{mode}", self._source(mode, tier="silver", retries=5)) for mode in MODES
        ]
        for mode in MODES:
            airflow.wait_for_dag(f"redeployed_{mode}", parsed_after=max(written))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def _source(self, mode: str, **varying: object) -> str:
        deferrable, on_changed = MODES[mode]
        return VERSIONED.format(dag_id=f"redeployed_{mode}", deferrable=deferrable, on_changed=on_changed, **varying)


@pytest.fixture(scope="module")
def redeployed(airflow: AirflowRig, oracle: Oracle) -> Redeployed:
    return Redeployed(airflow, oracle)


def test_redeployed_while_deferred(airflow: AirflowRig, oracle: Oracle, redeployed: Redeployed) -> None:
    """Other retries and other parameters in a new version of the DAG change nothing of what is under way."""
    definition = redeployed.definitions["deferred"]
    oracle.end(oracle.started(definition)[0])

    went_on(airflow, oracle, "redeployed_deferred", redeployed.runs["deferred"], definition, tries=1)


def test_redeployed_between_tries(airflow: AirflowRig, oracle: Oracle, redeployed: Redeployed) -> None:
    """Other parameters: the retry starts nothing, ends nothing, and says what has changed."""
    definition, run_id = redeployed.definitions["fail"], redeployed.runs["fail"]

    assert airflow.wait_for_run("redeployed_fail", run_id) == "failed"
    task = airflow.task_instance("redeployed_fail", run_id, "check")
    assert (task.state, task.try_number) == ("failed", 2)
    assert oracle.order(definition) == ["start"]
    assert "for another definition, record or parameters" in log_of(airflow, "redeployed_fail", run_id, tries=2)


def test_redeployed_between_tries_and_reattached(airflow: AirflowRig, oracle: Oracle, redeployed: Redeployed) -> None:
    """on_changed_request="reattach": the retry goes on with what was started, whatever the parameters are now."""
    definition, run_id = redeployed.definitions["reattach"], redeployed.runs["reattach"]
    airflow.wait_for_task("redeployed_reattach", run_id, "check", {"running"}, try_number=2)
    oracle.end(oracle.started(definition)[0])

    went_on(airflow, oracle, "redeployed_reattach", run_id, definition, tries=2)
