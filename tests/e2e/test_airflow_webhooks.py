"""
Webhooks on a real Airflow: taken by the API server, heard by the triggerer, and events of an asset.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.rig import PROJECT, Oracle, connection
from tl_orchestration import Client, OrganizationToken, RunRequest
from tl_orchestration.pacing import SAFETY_NET
from tl_orchestration.sandbox import SandboxServer
from tl_orchestration.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dev.airflow_rig import AirflowRig

pytestmark = pytest.mark.timeout(600)

DAG_ID = "kyc_onboarding"
WATCHING = "kyc_completed"


@pytest.fixture(scope="module")
def own_oracle() -> Iterator[Oracle]:
    """A sandbox of these tests' own, whose webhooks go to their Airflow."""
    with SandboxServer() as server:
        oracle = Oracle(server)
        yield oracle
        oracle.close()


@pytest.fixture(scope="module")
def inbox_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('inbox')}/inbox.db"


@pytest.fixture(scope="module")
def rig(own_oracle: Oracle, inbox_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowRig]:
    """An Airflow whose API server takes the sandbox's webhooks."""
    from dev.airflow_rig import AirflowRig
    from dev.services import free_port

    port = free_port()
    target = f"http://127.0.0.1:{port}/transactionlink/webhooks/transactionlink"
    httpx.put(f"{own_oracle.url}/_sandbox/webhooks", json=[{"url": target}], trust_env=False).raise_for_status()
    env = {
        "PYTHONPATH": str(PROJECT),
        "AIRFLOW__TRANSACTIONLINK__INBOX_URL": inbox_url,
        "AIRFLOW__TRANSACTIONLINK__RECEIVE_WEBHOOKS": "True",
        "AIRFLOW__TRANSACTIONLINK__WEBHOOK_KEY_HOST": own_oracle.url,
        # When a triggerer that was killed is given up; by default, thirty seconds.
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
    }
    connections = {"transactionlink_default": connection(own_oracle)}
    dags = PROJECT / "example_dags/airflow"
    home = tmp_path_factory.mktemp("airflow")
    with AirflowRig(home, dags, connections=connections, env=env, port=port) as airflow:
        for dag_id in (DAG_ID, WATCHING):
            airflow.wait_for_dag(dag_id)
        yield airflow


def started(oracle: Oracle, definition: str) -> str:
    """An execution that somebody starts who is not Airflow."""
    with Client(OrganizationToken("tot_sandbox"), oracle.url) as client:
        return client.run(RunRequest(definition)).id


def reported(airflow: AirflowRig) -> list[str]:
    """Executions whose completion has become an event of the asset, one for each event."""
    answer = airflow.request("GET", "assets/events", params={"limit": 1000})
    payloads: list[dict[str, Any]] = [event["extra"]["payload"] for event in answer["asset_events"]]
    assert all(
        set(one) <= {"format", "execution_id", "status", "service", "workflow_definition_id"} for one in payloads
    )
    return [one["execution_id"] for one in payloads]


def runs_of(airflow: AirflowRig) -> str:
    """What the runs that the asset has scheduled have returned."""
    texts = []
    for run in airflow.request("GET", f"dags/{WATCHING}/dagRuns", params={"limit": 100})["dag_runs"]:
        for task in airflow.task_instances(WATCHING, run["dag_run_id"]).values():
            if task.task_id == "record" and task.state == "success":
                texts.append(airflow.xcom(WATCHING, run["dag_run_id"], "record", map_index=task.map_index))
    return json.dumps(texts)


def test_signed_delivery_wakes_a_deferred_step(rig: AirflowRig, own_oracle: Oracle, inbox_url: str) -> None:
    """The API server takes the webhook, the triggerer hears of it: the run ends minutes before the second poll."""
    definition = own_oracle.define("kyc-woken", like="kyc-approve", duration=None)

    run_id = rig.trigger(DAG_ID, {"workflow_definition_id": definition})
    rig.wait_for(lambda: own_oracle.polls(definition) or None, "the trigger's first poll", 180)
    (execution_id,) = own_oracle.started(definition)
    own_oracle.end(execution_id)

    assert rig.wait_for_run(DAG_ID, run_id, timeout=SAFETY_NET.floor * 0.5) == "success"
    assert rig.xcom(DAG_ID, run_id, "check_customer")["execution_id"] == execution_id
    assert "Pausing task as DEFERRED" in rig.task_log(DAG_ID, run_id, "check_customer", 1)
    assert execution_id in {hint.execution_id for hint in Inbox(inbox_url).latest()}
    # The trigger's first and last one, the task's own; the watcher of the asset asks as well.
    assert own_oracle.polls(definition) <= 5


def test_whatever_is_not_signed_is_refused(rig: AirflowRig, inbox_url: str) -> None:
    """Anybody can reach the application, and without a signature nobody can do anything there."""
    before = Inbox(inbox_url).latest()
    with httpx.Client(base_url=f"{rig.base_url}/transactionlink", trust_env=False) as anybody:
        assert anybody.get("/healthz").status_code == 200
        forged = {"JWS-SIGNATURE": "e30..e30"}
        assert anybody.post("/webhooks/transactionlink", json={"workflowId": "e1"}, headers=forged).status_code == 401
        assert anybody.post("/webhooks/b3os", json={}).status_code == 404
    assert [hint.number for hint in Inbox(inbox_url).latest()] == [hint.number for hint in before]


def test_completion_anywhere_schedules_a_dag(rig: AirflowRig, own_oracle: Oracle) -> None:
    """An execution that Airflow has not started becomes one event and a run that reads its decision."""
    own_oracle.define("kyc-elsewhere", like="kyc-approve", duration=1)
    execution_id = started(own_oracle, "kyc-elsewhere")

    rig.wait_for(lambda: f"{execution_id}: approve" in runs_of(rig) or None, "the run that the asset schedules", 180)

    assert reported(rig).count(execution_id) == 1


def test_restart_of_the_triggerer_loses_no_completion(rig: AirflowRig, own_oracle: Oracle) -> None:
    """What ends while no triggerer lives is reported by the next one, once; what was reported long before is not."""
    own_oracle.define("kyc-elsewhere", like="kyc-approve", duration=1)
    before = started(own_oracle, "kyc-elsewhere")
    rig.wait_for(lambda: before in reported(rig) or None, "an event before the restart", 180)
    rig.wait_for(lambda: before in kept(rig) or None, "its place to be kept", 180)

    rig.kill("triggerer")
    meanwhile = [started(own_oracle, "kyc-elsewhere") for _ in range(3)]
    with Client(OrganizationToken("tot_sandbox"), own_oracle.url) as client:
        assert all(client.wait(one).is_terminal for one in meanwhile)
    rig.restart("triggerer")

    rig.wait_for(lambda: set(meanwhile) <= set(reported(rig)) or None, "the events of meanwhile", 180)
    rig.wait_for(lambda: all(one in kept(rig) for one in meanwhile) or None, "their place to be kept", 180)
    assert [reported(rig).count(one) for one in (before, *meanwhile)] == [1] * 4


def kept(airflow: AirflowRig) -> str:
    """What the watcher has left with the asset for whoever comes after it."""
    with sqlite3.connect(f"file:{airflow.database}?mode=ro", uri=True) as database:
        return json.dumps(database.execute("SELECT * FROM asset_state_store").fetchall(), default=str)
