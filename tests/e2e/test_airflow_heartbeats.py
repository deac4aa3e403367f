"""
A person ends a running task of an Airflow whose tasks have heartbeats as rare as Airflow's default.
"""

from __future__ import annotations

import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dev import sessions
from tests.e2e.airflow_dags import steps
from tests.e2e.test_airflow_steps import log_of, until
from tests.rig import PROJECT, connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

#: Seconds: Airflow's default, and its promise to a task between SIGTERM and SIGKILL, less one.
HEARTBEAT = 5
PATIENCE = 4.0
SIGNALLED = re.compile(r"^(\S+) .*Server indicated the task shouldn't be running anymore", re.MULTILINE)


@pytest.fixture
def unhurried(oracle: Oracle, tmp_path: Path) -> Iterator[AirflowRig]:
    from dev.airflow_rig import AirflowRig

    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(Path(steps.__file__), dags)
    env = {"PYTHONPATH": str(PROJECT), "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": str(HEARTBEAT)}
    connections = {"transactionlink_default": connection(oracle)}
    with AirflowRig(tmp_path / "home", dags, connections=connections, env=env) as rig:
        yield rig


def test_killed_by_a_person_within_four_seconds(unhurried: AirflowRig, oracle: Oracle) -> None:
    """
    Marked failed between two polls, and in the middle of one: cancelled before Airflow kills the process, five seconds
    after its signal; the task is failed at every look and never a success.
    """
    unhurried.wait_for_dag("in_worker")
    runs = {}
    for definition in ("killed-between-polls", "killed-in-a-poll"):
        oracle.define(definition, like="kyc-slow")
        run_id = unhurried.trigger("in_worker", {"definition": definition})
        runs[definition] = (run_id, unhurried.task_process("in_worker", run_id, "check"))
    until(lambda: all(oracle.polls(definition) for definition in runs))
    polled = oracle.polls("killed-in-a-poll")
    oracle.fault(on="status", definition="killed-in-a-poll", kind="hold", seconds=25)
    until(lambda: oracle.polls("killed-in-a-poll") > polled)

    for run_id, _ in runs.values():
        unhurried.set_task_state("in_worker", run_id, "check", "failed")
    seen = set()
    while any(sessions.alive(pid) for _, pid in runs.values()):
        seen |= {unhurried.task_instance("in_worker", run_id, "check").state for run_id, _ in runs.values()}

    for definition, (run_id, _) in runs.items():
        assert unhurried.wait_for_run("in_worker", run_id) == "failed"
        seen.add(unhurried.task_instance("in_worker", run_id, "check").state)
        log = log_of(unhurried, "in_worker", run_id)
        signalled = SIGNALLED.search(log)
        assert signalled is not None, log
        (cancel,) = [cancel for cancel in oracle.cancels() if cancel["definition"] == definition]
        took = datetime.fromisoformat(cancel["time"]) - datetime.fromisoformat(signalled[1])
        assert 0 <= took.total_seconds() < PATIENCE
        assert "was cancelled" in log  # the process lived to say so
    assert seen == {"failed"}
