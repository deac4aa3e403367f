"""
The rig that the other end-to-end tests stand on: real Airflow, started, used, broken and stopped.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from dev import sessions
from dev.airflow_rig import AirflowRig
from dev.http_service import ServiceError

GREET = """
import logging
from airflow.sdk import dag, task

@dag(schedule=None)
def greet():
    @task
    def greeting(dag_run=None):
        logging.getLogger("greeter").info("about to greet %s", dag_run.conf["whom"])
        return {"text": "hello " + dag_run.conf["whom"]}

    greeting()

greet()
"""

SLEEP = """
import time
from datetime import timedelta
from airflow.sdk import dag, task

@dag(schedule=None)
def sleep():
    @task(retries=1, retry_delay=timedelta(hours=1))
    def nap():
        time.sleep(600)

    nap()

sleep()
"""

COUNT = """
from airflow.sdk import dag, task

@dag(schedule=None)
def count():
    @task
    def number(n):
        return n

    number.expand(n=[1, 2])

count()
"""


def test_a_run_leaves_its_value_its_log_and_its_states(airflow: AirflowRig) -> None:
    """
    A DAG written while Airflow runs is found, runs with its conf, and everything it did can be read.
    """
    airflow.write_dag("greet", GREET)
    airflow.wait_for_dag("greet")
    run = airflow.trigger("greet", {"whom": "world"}, run_id="first")

    assert airflow.wait_for_run("greet", run) == "success", airflow.describe_run("greet", run)
    assert run == "first"
    assert airflow.xcom("greet", run, "greeting") == {"text": "hello world"}
    task = airflow.task_instances("greet", run)["greeting"]
    assert (task.state, task.try_number) == ("success", 1)
    assert task.start_date is not None
    log = airflow.task_log("greet", run, "greeting")
    assert "about to greet world" in log
    assert "logger=greeter" in log
    assert airflow.extra_links("greet", run, "greeting") == {}


def test_a_changed_dag_is_the_one_that_runs(airflow: AirflowRig) -> None:
    """
    After ``write_dag`` and ``wait_for_dag(parsed_after=...)`` a run has the new text, even if it is as long as the old.
    """
    airflow.write_dag("count", COUNT)
    airflow.wait_for_dag("count")
    airflow.wait_for_dag("count", parsed_after=airflow.write_dag("count", COUNT.replace("[1, 2]", "[3, 4]")))
    run = airflow.trigger("count")

    assert airflow.wait_for_run("count", run) == "success", airflow.describe_run("count", run)
    assert sorted(airflow.task_instances("count", run)) == ["number[0]", "number[1]"]
    assert [airflow.xcom("count", run, "number", map_index=index) for index in (0, 1)] == [3, 4]


def test_the_process_of_a_task_can_be_found_and_its_death_is_noticed(airflow: AirflowRig) -> None:
    """
    ``task_process`` names the process that runs ``execute``, below the scheduler; without it the try has failed.
    """
    airflow.write_dag("sleep", SLEEP)
    airflow.wait_for_dag("sleep")
    run = airflow.trigger("sleep")
    pid = airflow.task_process("sleep", run, "nap")

    assert sessions.alive(pid)
    assert airflow.pids["scheduler"] in sessions.ancestors(pid)
    assert pid in airflow.processes()
    os.kill(pid, signal.SIGKILL)
    task = airflow.wait_for_task("sleep", run, "nap", {"failed", "up_for_retry"})
    assert task.state == "up_for_retry"
    airflow.wait_for(lambda: "SIGKILL" in airflow.task_log("sleep", run, "nap") or None, "the reason in the log", 60)
    airflow.set_run_state("sleep", run, "failed")


def test_a_file_that_cannot_be_parsed_is_in_every_complaint(airflow: AirflowRig) -> None:
    """
    Who waits for a DAG in vain is told the import error.
    """
    airflow.write_dag("broken", "raise RuntimeError('no airflow dag in here')")
    airflow.wait_for(lambda: airflow.import_errors() or None, "an import error", 180)
    with pytest.raises(TimeoutError, match="no airflow dag in here"):
        airflow.wait_for_dag("broken", timeout=0.5)
    (airflow.dags_folder / "broken.py").unlink()


@pytest.mark.slow
def test_a_process_killed_can_be_started_again(airflow: AirflowRig) -> None:
    """
    A killed dag-processor is gone with its children, and a restarted one reads DAG files.
    """
    before = airflow.pids["dag-processor"]
    airflow.kill("dag-processor")
    assert sessions.members([before]) == []
    airflow.restart("dag-processor")
    assert airflow.pids["dag-processor"] != before
    airflow.write_dag("again", GREET.replace("def greet()", "def again()").replace("\ngreet()", "\nagain()"))
    airflow.wait_for_dag("again")


@pytest.mark.slow
def test_stopping_leaves_no_process_behind(tmp_path: Path) -> None:
    """
    Not even a task that was in the middle of something (a task has a process group of its own). What it wrote stays.
    """
    (tmp_path / "dags").mkdir()
    with AirflowRig(tmp_path / "home", tmp_path / "dags") as rig:
        rig.write_dag("greet", GREET)
        rig.write_dag("sleep", SLEEP)
        for dag_id in ("greet", "sleep"):
            rig.wait_for_dag(dag_id)
        assert rig.wait_for_run("greet", rig.trigger("greet", {"whom": "world"}, run_id="first")) == "success"
        pid = rig.task_process("sleep", rig.trigger("sleep"), "nap")
        started, everything = rig.pids, rig.processes()

    assert pid in everything
    assert set(started.values()) <= set(everything)
    assert [p for p in everything if sessions.alive(p)] == []
    assert sessions.members(started.values()) == []
    with closing(sqlite3.connect(f"file:{rig.database}?mode=ro", uri=True)) as database:
        assert database.execute("select state from dag_run where run_id = 'first'").fetchone() == ("success",)


@pytest.mark.slow
def test_a_process_that_dies_while_starting_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    """
    A rig that cannot start says which process, why, and leaves nothing running.
    """
    broken = AirflowRig(tmp_path / "home", tmp_path, env={"AIRFLOW__CORE__EXECUTOR": "NoSuchExecutor"})
    with pytest.raises(ServiceError, match="NoSuchExecutor"):
        broken.start()
    assert sessions.members(broken.pids.values()) == []


def test_nothing_outlives_an_owner_that_is_killed(tmp_path: Path) -> None:
    """
    The guard ends the services of a program that had no chance to do so.
    """
    script = """
import os, signal, sys
from pathlib import Path
from dev.services import Guard, Service

guard = Guard()
service = Service("naps", ["sh", "-c", "sleep 600 & sleep 600"], dict(os.environ), Path("."), Path(sys.argv[1]), guard)
service.start()
print(service.pid, guard.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    session, guard = map(int, done.stdout.split())
    deadline = time.monotonic() + 60
    while (sessions.members([session]) or sessions.alive(guard)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sessions.members([session]) == []
    assert not sessions.alive(guard)
