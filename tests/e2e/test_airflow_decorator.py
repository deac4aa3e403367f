"""
``@task.transactionlink`` on a real Airflow: plain and mapped, in a worker and deferred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.canary import CANARIES, DOCUMENT_NUMBER, FIRST_NAME
from tests.e2e.test_airflow_steps import log_of, run
from tests.e2e.traces import traces

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def test_function_says_what_each_task_runs(airflow: AirflowRig, oracle: Oracle) -> None:
    """Each task starts once, with what its function returned of its arguments, and returns the operator's dict."""
    definition = oracle.define("decorated", like="kyc-approve", duration=3)

    run_id, state = run(airflow, "decorated", definition=definition)

    assert state == "success", airflow.describe_run("decorated", run_id)
    starts = {
        start["parameters"]["documentNumber"].rsplit("-", 1)[-1]: start
        for start in oracle.starts()
        if start["definition"] == definition
    }
    assert sorted(starts) == ["0", "1", "2"]
    assert len(oracle.started(definition)) == 3
    for index, (task_id, map_index) in enumerate([("one", -1), ("check", 0), ("check", 1)]):
        start = starts[str(index)]
        assert start["parameters"] == {
            "firstName": FIRST_NAME,
            "documentNumber": f"{DOCUMENT_NUMBER}-{index}",
            "run": run_id,
        }
        assert airflow.xcom("decorated", run_id, task_id, map_index=map_index) == {
            "execution_id": start["execution_id"],
            "status": "SUCCEEDED",
            "fields": {"decision": "approve"},
        }
    assert "waiting for it in the triggerer" in airflow.task_log("decorated", run_id, "check", 1, map_index=0)
    assert "waiting for it in the triggerer" not in log_of(airflow, "decorated", run_id, "one")
    hidden = airflow.rendered_fields("decorated", run_id, "check", 0)
    assert (hidden["op_args"], hidden["op_kwargs"]) == ("***", {"document": "***", "run": "***"})
    assert traces(airflow, CANARIES) == []
