"""
What is left in a real Airflow of what went through it: run after all other tests, so that it finds what they left.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.e2e.canary import CANARIES, TOKEN
from tests.e2e.database import opened, trigger_of
from tests.e2e.test_airflow_cancels import waits
from tests.e2e.traces import ARCHIVE, contents, traces

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.e2e.conftest import Begun
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)
begins = pytest.mark.begins

#: The connections come from the environment, so the token may be in no table; 401s have named a wrong one.
PLANTED = (*CANARIES, TOKEN, "tot_wrong")
#: What `airflow db clean` archives of a run that has ended, besides the run itself.
ARCHIVED = {"dag_run", "task_instance", "task_instance_history", "xcom", "log"}
#: The tables that it cleans in which a run may be.
CLEANED = ARCHIVED | {"task_state_store", "trigger"}


@begins("deferred")
def test_trigger_row_holds_ids_and_times_only(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """Airflow 3.3 keeps the arguments of a task's trigger in clear: of ours, these are ids, times and settings."""
    execution_id = waits(airflow, oracle, "deferred", begun.run_id, begun.definition)

    with opened(airflow) as database:
        row = database.execute(
            "SELECT classpath, kwargs FROM trigger WHERE id = %s", [trigger_of(airflow, begun.run_id)]
        ).fetchone()

    airflow.set_task_state("deferred", begun.run_id, "check", "failed")
    assert row is not None
    classpath, kwargs = row
    assert classpath == "airflow_provider.triggers.TransactionlinkExecutionTrigger"
    clear = json.loads(kwargs)
    assert clear.pop("execution_id") == execution_id
    assert clear.pop("deadline") > 0
    assert clear.pop("expires_at") > 0
    assert clear == {
        "transactionlink_conn_id": "transactionlink_default",
        "poll_interval": 0.5,
        "status_map": {},
        "owned": True,
        "cancel_on_kill": True,
        "durable": True,
    }


@begins("deferred")
def test_no_personal_data_and_no_token_stay_in_airflow(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """After all other tests, and with a step deferred: no table and no log of Airflow holds a planted value."""
    waits(airflow, oracle, "deferred", begun.run_id, begun.definition)
    assert any(CANARIES[0] in str(start["parameters"]) for start in oracle.starts())

    found = traces(airflow, PLANTED)

    airflow.set_task_state("deferred", begun.run_id, "check", "failed")
    assert found == []


@pytest.mark.slow
@begins("grace", like="kyc-approve", duration=1)
def test_no_personal_data_and_no_token_are_archived(airflow: AirflowRig, begun: Begun) -> None:
    """`airflow db clean` moves what has ended into archives of its own: they hold no planted value either."""
    assert begun.ends() == "success"
    airflow.clear("grace", begun.run_id, ["check"])  # the history is a table of its own
    assert begun.ends() == "success"

    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    tables = ",".join(sorted(ARCHIVED - {"task_instance"}))
    for chosen in ("task_instance", tables):  # deleting a run would delete its tasks without a copy
        airflow.command("db", "clean", "--clean-before-timestamp", soon, "--tables", chosen, "--yes")

    archives = {name: rows for name, rows in contents(airflow).items() if ARCHIVE.fullmatch(name)}
    of_the_run = {name for name, rows in archives.items() if any(begun.run_id in row for row in rows)}
    assert {ARCHIVE.sub(r"\1", name) for name in of_the_run} == ARCHIVED
    assert traces(airflow, PLANTED) == []


@pytest.mark.slow
def test_clean_leaves_log_files_and_the_newest_scheduled_run(airflow: AirflowRig, oracle: Oracle) -> None:
    """`airflow db clean --skip-archive` deletes the rows of all runs but a DAG's last that no person has triggered."""
    definition = oracle.define("cleaned", like="kyc-approve", duration=1)
    airflow.wait_for_dag("grace")
    gone, kept = (airflow.trigger("grace", {"definition": definition}) for _ in range(2))
    for run_id in (gone, kept):
        assert airflow.wait_for_run("grace", run_id) == "success"
    with opened(airflow) as database:
        database.execute("UPDATE dag_run SET run_type = 'scheduled' WHERE run_id = %s", [kept])
    assert CLEANED - {"task_instance_history", "trigger", "log"} <= tables_of(airflow, gone)

    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    chosen = ",".join(sorted(CLEANED))
    airflow.command("db", "clean", "--clean-before-timestamp", soon, "--tables", chosen, "--skip-archive", "--yes")

    assert {name for name in tables_of(airflow, gone) if not ARCHIVE.fullmatch(name)} == set()
    assert tables_of(airflow, kept) == {"dag_run", "task_state_store"}
    for run_id in (gone, kept):
        assert [path for path in airflow.home.rglob("*.log") if run_id in str(path)]


def tables_of(airflow: AirflowRig, run_id: str) -> set[str]:
    """The tables in which a run is named."""
    return {name for name, rows in contents(airflow).items() if any(run_id in row for row in rows)}
