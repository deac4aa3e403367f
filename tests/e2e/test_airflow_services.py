"""
Steps of the other services, and steps with a key, on a real Airflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.canary import FIRST_NAME

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def run(airflow: AirflowRig, dag_id: str, definition: str) -> str:
    """Run a DAG to success. Returns the run's id."""
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"definition": definition})
    assert airflow.wait_for_run(dag_id, run_id) == "success"
    return run_id


def test_deferred_steps_of_the_other_services(airflow: AirflowRig, oracle: Oracle) -> None:
    """A legacy and a B3OS step defer and hand on their decision, one start each; case fields are stored nowhere."""
    definition = oracle.define("of-a-service", like="kyc-approve", duration=2)

    run_id = run(airflow, "services", definition)

    started = oracle.started(definition)
    returned = {task_id: airflow.xcom("services", run_id, task_id) for task_id in ("legacy", "b3os")}
    assert sorted(started) == sorted(one["execution_id"] for one in returned.values())
    assert [one["fields"] for one in returned.values()] == [{"decision": "approve"}] * 2
    assert all("Pausing task as DEFERRED" in airflow.task_log("services", run_id, task_id, 1) for task_id in returned)
    shown = airflow.rendered_fields("services", run_id, "legacy")["service_options"]
    assert shown == {"first_name": "***", "personal_number": "***"}
    assert FIRST_NAME not in airflow.task_log("services", run_id, "legacy", 1)


def test_two_runs_with_one_key_start_once(airflow: AirflowRig, oracle: Oracle) -> None:
    """The second DAG run with a key goes on with what the first one has started."""
    definition = oracle.define("keyed", like="kyc-approve", duration=1)

    runs = [run(airflow, "keyed", definition) for _ in range(2)]

    (started,) = oracle.started(definition)
    assert [airflow.xcom("keyed", run_id, "check")["execution_id"] for run_id in runs] == [started] * 2
