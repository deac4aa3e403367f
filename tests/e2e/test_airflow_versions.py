"""
The few things that must work on every supported Airflow, and what a user gets where one of them lacks something.

``make test-airflow-matrix`` runs these in the environment of each version; the table in
``docs/reference/airflow-versions.md`` is made of what they record.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider import connection_form
from tests.e2e.test_airflow_batches import Book, check_a_clear_goes_on
from tests.e2e.test_airflow_steps import log_of, run, until, waits_again
from tests.rig import PROJECT, connection

if TYPE_CHECKING:
    from pathlib import Path

    from dev.airflow_rig import AirflowRig
    from tests.postgres import Postgres
    from tests.rig import Oracle

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def small(oracle: Oracle, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowRig]:
    """An Airflow of this environment's version, with a ledger for what it cannot keep itself."""
    from dev.airflow_rig import AirflowRig

    folder = tmp_path_factory.mktemp("ledger")
    ledger = f"sqlite:///{folder}/ledger.db"
    connections = {
        "transactionlink_default": connection(oracle, extra={"ledger_url": ledger}),
        "batches": connection(oracle, extra={"ledger_url": f"sqlite:///{folder}/batches.db"}),
        "no_ledger": connection(oracle),
    }
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    for name in ("steps.py", "batches.py"):
        shutil.copy(PROJECT / "tests/e2e/airflow_dags" / name, dags)
    env = {"PYTHONPATH": str(PROJECT)}
    with AirflowRig(home, dags, connections=connections, env=env, database_url=postgres.airflow_url()) as rig:
        yield rig


def test_deferred_step_succeeds(small: AirflowRig, oracle: Oracle) -> None:
    """A KYC step waits in the triggerer and returns what result_fields names; it was started once."""
    definition = oracle.define("version-deferred", like="kyc-approve", duration=2)

    run_id, state = run(small, "deferred", definition=definition)

    assert state == "success", small.describe_run("deferred", run_id)
    returned = small.xcom("deferred", run_id, "check")
    assert oracle.started(definition) == [returned["execution_id"]]
    assert returned["fields"] == {"decision": "approve", "risk": 12}
    assert "waiting for it in the triggerer" in log_of(small, "deferred", run_id)


def test_retry_after_a_killed_worker_goes_on(small: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL of the task's process: the retry waits for the same execution, and no other was started."""
    definition = oracle.define("version-killed", like="kyc-approve", duration=None)
    small.wait_for_dag("in_worker")
    run_id = small.trigger("in_worker", {"definition": definition})
    pid = small.task_process("in_worker", run_id, "check")
    until(lambda: "Started execution" in log_of(small, "in_worker", run_id))

    os.kill(pid, signal.SIGKILL)
    waits_again(small, oracle, "in_worker", run_id, definition)

    assert small.wait_for_run("in_worker", run_id) == "success", small.describe_run("in_worker", run_id)
    assert small.task_instance("in_worker", run_id, "check").try_number == 2
    assert oracle.started(definition) == [small.xcom("in_worker", run_id, "check")["execution_id"]]


@pytest.mark.parametrize("dag_id", ["deferred", "in_worker"])
def test_marked_failed_cancels(small: AirflowRig, oracle: Oracle, dag_id: str) -> None:
    """A person who marks the task failed cancels its execution, in the triggerer and in a worker."""
    definition = oracle.define(f"version-stopped-{dag_id}", like="kyc-slow")
    small.wait_for_dag(dag_id)
    run_id = small.trigger(dag_id, {"definition": definition})
    if dag_id == "deferred":
        small.wait_for_task(dag_id, run_id, "check", {"deferred"})
        until(lambda: oracle.polls(definition) > 0)
    else:
        small.task_process(dag_id, run_id, "check")
        until(lambda: "Started execution" in log_of(small, dag_id, run_id))

    small.set_task_state(dag_id, run_id, "check", "failed")

    assert until(lambda: oracle.cancelled(definition)) == oracle.started(definition)
    assert small.task_instance(dag_id, run_id, "check").state == "failed"


def test_cleared_batch_goes_on(small: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """A clear of a deferred batch cancels nothing, whatever this version takes for a decision."""
    check_a_clear_goes_on(Book(small, oracle, tmp_path, "book_in_one_shard", "version-batch", 8, duration=None))


def test_bad_input_is_one_sentence(small: AirflowRig, oracle: Oracle) -> None:
    """A parameter that JSON cannot hold is named; nothing is sent, and nothing is tried again."""
    before = len(oracle.starts())

    run_id, state = run(small, "bad_parameters")

    assert state == "failed"
    assert "parameters.when is a set, which JSON cannot hold" in log_of(small, "bad_parameters", run_id)
    assert small.task_instance("bad_parameters", run_id, "check").try_number == 1
    assert len(oracle.starts()) == before


def test_without_a_ledger(small: AirflowRig, oracle: Oracle, record_property: Record) -> None:
    """A durable step without a SQL ledger: kept in the task state, or refused in a sentence that names the ledger."""
    definition = oracle.define("version-no-ledger", like="kyc-approve", duration=1)

    run_id, state = run(small, "deferred", definition=definition, connection="no_ledger")

    kept = state == "success"
    said = log_of(small, "deferred", run_id)
    assert kept or "Name a SQL ledger (ledger_url of connection 'no_ledger'" in said
    assert len(oracle.started(definition)) == (1 if kept else 0)
    record_property("feature", "a retry goes on with what the step started, without a database of your own")
    record_property("here", "yes" if kept else "no: with `ledger_url` or a `key`, else `durable=False` must be said")


def test_connection_form(small: AirflowRig, record_property: Record) -> None:
    """The page for a new connection has every field of ours; some versions also offer the services to choose from."""
    forms = small.request("GET", "connections/hook_meta", root="/ui")
    (form,) = [form for form in forms if form["connection_type"] == connection_form.CONN_TYPE]
    fields: dict[str, Any] = form["extra_fields"]

    assert set(fields) == set(connection_form.FIELDS)
    offered = fields["service"]["schema"].get("enum") == connection_form.FIELDS["service"]["schema"]["enum"]
    record_property("feature", "the connection form offers the services to choose from")
    record_property("here", "yes" if offered else "no: type the name of the service")
