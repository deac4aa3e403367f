"""
A start of unknown fate on a real Airflow, settled by a person with the real ``tl``: one commit, and no cancel.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.commands import tl
from tests.e2e.test_airflow_steps import log_of, run

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def shown(airflow: AirflowRig, key: str) -> dict[str, Any]:
    code, stdout, stderr = tl(airflow, "ledger", "show", key, "--json")
    assert code == 0, stderr
    document: dict[str, Any] = json.loads(stdout)
    return document


def pasted(log: str, verb: str, **words: str) -> list[str]:
    """The command that the task's message names, without ``tl``, with what a person fills in."""
    named = re.search(rf"`tl (ledger {verb} [^`]+)`", log)
    assert named is not None, log
    return [words.get(word, word) for word in shlex.split(named[1])]


def test_adopted_execution_is_gone_on_with(airflow: AirflowRig, oracle: Oracle) -> None:
    """The answer of the start is lost: a person finds the execution, adopts it and clears the task, which defers."""
    definition = oracle.define("unknown-adopted", like="kyc-slow")
    oracle.fault(on="start", definition=definition, kind="lose")
    run_id, state = run(airflow, "correlated", definition=definition)
    key = f"correlated/{run_id}/check"
    assert state == "failed"

    found = shown(airflow, key)
    (start,) = [start for start in oracle.starts() if start["definition"] == definition]
    assert (found["state"], found["correlation_id"]) == ("UNKNOWN", start["parameters"]["caseRef"])
    said = log_of(airflow, "correlated", run_id)
    code, _, stderr = tl(airflow, *pasted(said, "adopt", EXECUTION_ID=start["execution_id"], TEXT="its caseRef"))
    assert (code, "goes on with execution" in stderr) == (0, True)
    airflow.clear("correlated", run_id, ["check"])
    code, _, stderr = tl(airflow, *pasted(said, "not-started", TEXT="too late"))
    assert (code, "nothing to decide" in stderr) == (22, True)

    airflow.wait_for_task("correlated", run_id, "check", {"deferred"}, try_number=2)
    oracle.end(start["execution_id"])

    assert airflow.wait_for_run("correlated", run_id) == "success"
    assert oracle.started(definition) == [airflow.xcom("correlated", run_id, "check")["execution_id"]]
    assert oracle.cancelled(definition) == []
    tries = log_of(airflow, "correlated", run_id, tries=2)
    assert tries.count("Pausing task as DEFERRED") == 1
    assert f"Went on with execution {start['execution_id']}" in tries
    entry = shown(airflow, key)
    assert (entry["adopted"], entry["state"], entry["execution_id"]) == (True, "SETTLED", start["execution_id"])


def test_start_that_did_not_happen_is_made(airflow: AirflowRig, oracle: Oracle) -> None:
    """The connection broke before the service started anything: a person says so and clears the task, which starts."""
    definition = oracle.define("unknown-not-started", like="kyc-approve", duration=1)
    oracle.fault(on="start", definition=definition, kind="drop")
    run_id, state = run(airflow, "deferred", definition=definition)
    key = f"deferred/{run_id}/check"
    assert (state, oracle.started(definition)) == ("failed", [])

    command = pasted(log_of(airflow, "deferred", run_id), "not-started", TEXT="in no dashboard")
    code, _, stderr = tl(airflow, *command)
    assert (code, "The next try starts." in stderr) == (0, True)
    judged = shown(airflow, key)
    assert (judged["state"], judged["reason"]) == ("REJECTED", "in no dashboard")
    airflow.clear("deferred", run_id, ["check"])

    assert airflow.wait_for_run("deferred", run_id) == "success"
    assert oracle.started(definition) == [airflow.xcom("deferred", run_id, "check")["execution_id"]]
    assert oracle.cancelled(definition) == []
