"""
A step in which a person has to act, on a real Airflow: the link reaches that person, and nobody else.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.e2e.traces import traces

if TYPE_CHECKING:
    from pathlib import Path

    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(180)


def deferred(airflow: AirflowRig, dag_id: str, definition: str, delivered_to: Path) -> str:
    """Run a DAG until its step waits for the person. Returns the run's id."""
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"definition": definition, "delivered_to": str(delivered_to)})
    airflow.wait_for_task(dag_id, run_id, "review", {"deferred"}, timeout=60)
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

    assert airflow.wait_for_run("link_by_callable", run_id, timeout=60) == "success"
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

    assert airflow.wait_for_run("link_by_notifier", run_id, timeout=60) == "success"
    assert words == "Please decide:"
    assert airflow.task_instance("link_by_notifier", run_id, "review").try_number == 2
    assert oracle.started(definition) == [airflow.xcom("link_by_notifier", run_id, "review")["execution_id"]]
    first = airflow.task_log("link_by_notifier", run_id, "review", 1)
    assert re.search(r"on_link raised RuntimeError \(.* > links\.py:\d+\)", first)
    assert traces(airflow, [link, parse_qs(urlsplit(link).query)["token"][0]]) == []
