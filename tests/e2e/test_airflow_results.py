"""
Results in a storage, the retry policy, and tasks about what another task started, on a real Airflow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_airflow_steps import log_of, run

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.e2e.conftest import Begun
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def test_result_goes_to_the_storage_and_comes_back(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """XCom has where the result is; a decorated task reads it. Where the connection forbids that, nothing starts."""
    definition = oracle.define("stored", like="kyc-approve", duration=1)

    airflow.wait_for_dag("stored_result")
    conf = {"definition": definition, "folder": str(tmp_path)}
    run_id = airflow.trigger("stored_result", conf)
    refused = airflow.trigger("stored_result", {**conf, "connection": "results_in_s3"})

    assert airflow.wait_for_run("stored_result", run_id) == "success"
    assert airflow.wait_for_run("stored_result", refused) == "failed"
    (execution_id,) = oracle.started(definition)
    returned, file = airflow.xcom("stored_result", run_id, "check"), tmp_path / f"check/{execution_id}.json"
    assert returned == {
        **{"execution_id": execution_id, "status": "SUCCEEDED", "fields": {}, "result_uri": f"file://{file}"},
        **{"sha256": returned["sha256"], "size": file.stat().st_size},
    }
    assert json.loads(file.read_text())["decision"] == "approve"
    assert airflow.xcom("stored_result", run_id, "read") == "approve"
    assert airflow.rendered_fields("stored_result", run_id, "check")["result"] == f"file://{tmp_path}/check/"
    assert "allows results only below s3://kyc-results/" in log_of(airflow, "stored_result", refused)


def test_sensor_and_cancel_of_what_another_task_started(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """A sensor in reschedule mode, a cancel of what has ended, which does nothing, and one of what runs."""
    definition = oracle.define("elsewhere", like="kyc-approve", duration=4)

    run_id, state = run(airflow, "started_elsewhere", definition=definition, folder=str(tmp_path))

    assert state == "success", airflow.describe_run("started_elsewhere", run_id)
    assert Path(airflow.xcom("started_elsewhere", run_id, "sense")["result_uri"].removeprefix("file://")).exists()
    assert airflow.xcom("started_elsewhere", run_id, "cancel_ended")["status"] == "SUCCEEDED"
    assert airflow.xcom("started_elsewhere", run_id, "cancel_running")["status"] == "CANCELLED"


def test_retry_policy_follows_the_service(airflow: AirflowRig, oracle: Oracle) -> None:
    """The service's delay, within the policy's limit, replaces the task's; what no retry mends is not tried again."""
    definition = oracle.define("limited", like="kyc-approve", duration=1)
    oracle.fault(on="start", definition=definition, kind="status", status=429, headers={"Retry-After": "3600"})

    run_id, _ = run(airflow, "by_retry_policy", definition=definition)

    tasks = airflow.task_instances("by_retry_policy", run_id)
    assert {name: (task.state, task.try_number) for name, task in tasks.items()} == {
        "told_to_come_back": ("success", 2),
        "asks_for_nobodys_execution": ("failed", 1),
    }
    assert len(oracle.started(definition)) == 1


@pytest.mark.begins("expanded_kwargs")
def test_rendered_parameters_of_expand_kwargs_show_their_keys_only(
    airflow: AirflowRig, oracle: Oracle, begun: Begun
) -> None:
    """As for the other ways to map a step."""
    assert begun.ends() == "success"

    assert airflow.rendered_fields("expanded_kwargs", begun.run_id, "check", 0)["parameters"] == {
        "applicationId": "***"
    }
    assert {"applicationId": "application-3"} in [start["parameters"] for start in oracle.starts()]
