"""
Every example DAG runs on a real Airflow, and says what its docstring asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("decision", "taken", "left"),
    [("approve", "open_account", "inform_customer"), ("reject", "inform_customer", "open_account")],
)
def test_kyc_onboarding_branches_on_the_decision(
    airflow: AirflowRig, oracle: Oracle, decision: str, taken: str, left: str
) -> None:
    """The example goes on by the decision, and leaves the other task alone."""
    airflow.wait_for_dag("kyc_onboarding")
    definition = oracle.define(f"example-{decision}", like=f"kyc-{decision}")

    run_id = airflow.trigger("kyc_onboarding", {"workflow_definition_id": definition})

    assert airflow.wait_for_run("kyc_onboarding", run_id) == "success"
    states = {name: task.state for name, task in airflow.task_instances("kyc_onboarding", run_id).items()}
    assert states == {"check_customer": "success", "decide": "success", taken: "success", left: "skipped"}
    assert len(oracle.started(definition)) == 1


def test_kyc_onboarding_fails_on_a_decision_that_nobody_planned_for(airflow: AirflowRig, oracle: Oracle) -> None:
    """An unplanned decision opens no account: the branch fails, and nothing after it runs."""
    airflow.wait_for_dag("kyc_onboarding")
    definition = oracle.define("example-escalate", like="kyc-approve", result={"decision": "escalate"})

    run_id = airflow.trigger("kyc_onboarding", {"workflow_definition_id": definition})

    assert airflow.wait_for_run("kyc_onboarding", run_id) == "failed"
    states = {name: task.state for name, task in airflow.task_instances("kyc_onboarding", run_id).items()}
    assert states == {
        "check_customer": "success",
        "decide": "failed",
        "open_account": "upstream_failed",
        "inform_customer": "upstream_failed",
    }


def test_kyc_batch_checks_each_applicant_once(airflow: AirflowRig, oracle: Oracle) -> None:
    """The example starts one execution for each application that the task before it found."""
    airflow.wait_for_dag("kyc_batch_of_applicants")
    definition = oracle.define("example-batch", like="kyc-approve", duration=1)

    run_id = airflow.trigger("kyc_batch_of_applicants", {"workflow_definition_id": definition})

    assert airflow.wait_for_run("kyc_batch_of_applicants", run_id) == "success"
    sent = [start["parameters"]["applicationId"] for start in oracle.starts() if start["definition"] == definition]
    assert sorted(sent) == ["application-1", "application-2", "application-3"]


def test_weekly_rescreening_checks_each_customer_once(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """The example starts one execution for each row of the book, and leaves results beside a manifest."""
    airflow.wait_for_dag("weekly_rescreening")
    definition = oracle.define("example-book", like="kyc-approve", duration=1)
    customers = [f"customer-{number}" for number in range(12)]
    book = tmp_path / "book.csv"
    book.write_text("customer_id,first_name,born\n" + "".join(f"{one},Ada,1990-04-01\n" for one in customers))
    conf = {"connection": "batches", "workflow_definition_id": definition, "book": f"file://{book}"}

    run_id = airflow.trigger("weekly_rescreening", {**conf, "results": f"file://{tmp_path}/screening"})

    assert airflow.wait_for_run("weekly_rescreening", run_id) == "success"
    assert len(oracle.started(definition)) == len(customers)
    assert airflow.xcom("weekly_rescreening", run_id, "report") == {"SUCCEEDED": len(customers)}
    assert len(list(tmp_path.glob("screening/weekly_rescreening~screen~*/manifest.json"))) == 1


def test_no_dag_file_has_an_import_error(airflow: AirflowRig) -> None:
    """Every example and every test DAG is one that Airflow can read."""
    airflow.wait_for_dag("kyc_onboarding")

    assert airflow.import_errors() == {}
