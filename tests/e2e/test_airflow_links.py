"""
A step in which a person has to act, on a real Airflow: the link reaches that person, and nobody else.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from psycopg import sql

from tests.e2e.database import opened, trigger_of
from tests.e2e.test_airflow_steps import until
from tests.e2e.traces import traces

if TYPE_CHECKING:
    import psycopg

    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def deferred(airflow: AirflowRig, dag_id: str, definition: str, delivered_to: Path) -> str:
    """Run a DAG until its step waits for the person. Returns the run's id."""
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"definition": definition, "delivered_to": str(delivered_to)})
    airflow.wait_for_task(dag_id, run_id, "review", {"deferred"})
    return run_id


def decide(link: str, decision: str) -> None:
    """Do what a person does on the hosted page."""
    page, token = link.partition("?")[0], parse_qs(urlsplit(link).query)["token"][0]
    httpx.post(page, data={"token": token, "decision": decision}, trust_env=False).raise_for_status()


def test_person_gets_the_link_and_ends_the_step(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """The callable has the link before the step defers; the person's decision ends it; Airflow keeps no link."""
    definition = oracle.define("link-by-callable", like="kyc-review")
    letter = tmp_path / "letter.json"

    run_id = deferred(airflow, "link_by_callable", definition, letter)
    delivered = json.loads(letter.read_text())
    decide(delivered["link"], "approve")

    assert airflow.wait_for_run("link_by_callable", run_id) == "success"
    returned = airflow.xcom("link_by_callable", run_id, "review")
    assert oracle.started(definition) == [delivered["execution_id"]] == [returned["execution_id"]]
    assert returned["fields"] == {"decision": "approve"}
    assert delivered["link_token"] in delivered["link"]
    assert "nobody was given the link" not in airflow.task_log("link_by_callable", run_id, "review", 1)
    assert traces(airflow, [delivered["link"], delivered["link_token"]]) == []


def test_notifier_that_fails_is_called_again(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """A notifier that failed is no delivery: the retry notifies, about the same execution; no log has the link."""
    definition = oracle.define("link-by-notifier", like="kyc-review")
    letter = tmp_path / "letter.txt"

    run_id = deferred(airflow, "link_by_notifier", definition, letter)
    words, _, link = letter.read_text().rpartition(" ")
    decide(link, "reject")

    assert airflow.wait_for_run("link_by_notifier", run_id) == "success"
    assert words == "Please decide:"
    assert airflow.task_instance("link_by_notifier", run_id, "review").try_number == 2
    assert oracle.started(definition) == [airflow.xcom("link_by_notifier", run_id, "review")["execution_id"]]
    first = airflow.task_log("link_by_notifier", run_id, "review", 1)
    assert re.search(r"on_link raised RuntimeError \(.* > links\.py:\d+\)", first)
    assert traces(airflow, [link, parse_qs(urlsplit(link).query)["token"][0]]) == []


def test_lost_link_fails_or_starts_again(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """
    The first try delivered no link and the service shows none again: the retry fails for good and cancels nothing, or,
    where on_link_lost says so, cancels, starts another execution and delivers the link of that one.
    """
    kept, replaced = (oracle.define(f"link-{name}", like="kyc-review") for name in ("lost", "lost-and-replaced"))
    letter = tmp_path / "letter.json"
    for dag_id in ("link_lost", "link_lost_and_started_again"):
        airflow.wait_for_dag(dag_id)
    with oracle.varied(link_in_status=False):
        failing = airflow.trigger("link_lost", {"definition": kept, "delivered_to": str(tmp_path / "none")})
        again = airflow.trigger("link_lost_and_started_again", {"definition": replaced, "delivered_to": str(letter)})
        assert airflow.wait_for_run("link_lost", failing) == "failed"
        until(letter.exists)
        airflow.wait_for_task("link_lost_and_started_again", again, "review", {"deferred"})
        delivered = json.loads(letter.read_text())
        decide(delivered["link"], "approve")
        assert airflow.wait_for_run("link_lost_and_started_again", again) == "success"

    (execution_id,) = oracle.started(kept)
    assert oracle.cancelled(kept) == []
    task = airflow.task_instance("link_lost", failing, "review")
    assert (task.state, task.try_number) == ("failed", 2)  # of four
    assert f"`tl cancel {execution_id}`" in airflow.task_log("link_lost", failing, "review", 2)
    assert not (tmp_path / "none").exists()
    former, other = oracle.started(replaced)
    assert oracle.order(replaced) == ["start", "cancel", "start"]
    assert oracle.cancelled(replaced) == [former]
    assert other == delivered["execution_id"]
    assert airflow.xcom("link_lost_and_started_again", again, "review")["execution_id"] == other


def days_pass(airflow: AirflowRig, run_id: str, days: float) -> None:
    """
    Move what Airflow and the step have on record about a wait back by so many days. Stands in for days that go by: the
    clocks of Airflow's processes stay as they are.
    """
    seconds = days * 24 * 3600
    interval = timedelta(days=days)
    with opened(airflow) as database:
        for table, columns in (
            ("task_instance", ("start_date", "queued_dttm", "scheduled_dttm", "last_heartbeat_at", "updated_at")),
            ("dag_run", ("start_date", "queued_at", "run_after", "last_scheduling_decision", "updated_at")),
        ):
            earlier = sql.SQL(", ").join(sql.SQL("{0} = {0} - %(by)s").format(sql.Identifier(one)) for one in columns)
            changes = sql.SQL("UPDATE {} SET {} WHERE run_id = %(run)s").format(sql.Identifier(table), earlier)
            assert database.execute(changes, {"by": interval, "run": run_id}).rowcount == 1
        trigger = trigger_of(airflow, run_id)
        kwargs = _one(database, "SELECT kwargs FROM trigger WHERE id = %s", trigger)
        waited = json.dumps(_earlier(json.loads(kwargs), seconds))
        database.execute(
            "UPDATE trigger SET kwargs = %s, created_date = created_date - %s WHERE id = %s",
            [waited, interval, trigger],
        )
        entry = _one(database, "SELECT value FROM task_state_store WHERE run_id = %s", run_id)
        known = json.dumps(_earlier(json.loads(entry), seconds))
        database.execute("UPDATE task_state_store SET value = %s WHERE run_id = %s", [known, run_id])


def _one(database: psycopg.Connection[Any], query: LiteralString, value: object) -> str:
    row = database.execute(query, [value]).fetchone()
    assert row is not None
    return str(row[0])


def _earlier(document: dict[str, Any], seconds: float) -> dict[str, Any]:
    """With all its times, which are epoch seconds, earlier."""
    return {
        name: value - seconds if isinstance(value, float) and value > seconds else value
        for name, value in document.items()
    }


@pytest.mark.slow
def test_person_takes_days(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """
    Days after the link was delivered, and after a restart of the triggerer, the step is still deferred, and ends when
    the person acts. That days have passed is forced: in the service's clock, and in what is on record of the wait.
    """
    definition = oracle.define("link-for-days", like="kyc-review")
    letter = tmp_path / "letter.json"
    run_id = deferred(airflow, "link_for_days", definition, letter)
    until(lambda: oracle.polls(definition))
    delivered = json.loads(letter.read_text())
    letter.unlink()

    with oracle.days_later(5):
        days_pass(airflow, run_id, 5)
        airflow.restart("triggerer")  # which then reads the trigger with its new times
        polled = oracle.polls(definition)
        until(lambda: oracle.polls(definition) > polled + 2)
        assert airflow.task_instance("link_for_days", run_id, "review").state == "deferred"
        decide(delivered["link"], "approve")
        assert airflow.wait_for_run("link_for_days", run_id) == "success"

    assert airflow.task_instance("link_for_days", run_id, "review").try_number == 1
    assert oracle.order(definition) == ["start"]
    assert airflow.xcom("link_for_days", run_id, "review")["execution_id"] == delivered["execution_id"]
    assert not letter.exists()  # and the link was delivered once
