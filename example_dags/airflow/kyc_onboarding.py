"""
How do I run a KYC check as one step, and go on by its decision?

The check is one deferred task. Its decision picks the next task from an allow-list; a decision that nobody planned for
fails the run instead of onboarding a customer.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider.operators import TransactionlinkRunWorkflowOperator

NEXT_TASK = {"approve": "open_account", "reject": "inform_customer"}


def applicant(context: dict[str, Any], jinja_env: object) -> dict[str, str]:
    """Read the applicant where personal data lives. Airflow stores the names of the keys only."""
    return {"firstName": "Ada", "lastName": "Lovelace", "applicationId": context["dag_run"].run_id}


@dag(
    schedule=None,
    params={"workflow_definition_id": Param("kyc-approve", type="string", description="Workflow definition to run")},
    tags=["transactionlink", "kyc"],
)
def kyc_onboarding() -> None:
    check_customer = TransactionlinkRunWorkflowOperator(
        task_id="check_customer",
        workflow_definition_id="{{ params.workflow_definition_id }}",
        parameters=applicant,
        deferrable=True,
        defer_after=0,
        result_fields={"decision": "decision"},
    )

    @task.branch
    def decide(check: dict[str, Any]) -> str:
        decision = check["fields"]["decision"]
        if decision not in NEXT_TASK:
            raise ValueError(f"No task is planned for the decision {decision!r}.")
        return NEXT_TASK[decision]

    @task
    def open_account(check: dict[str, Any]) -> str:
        return f"account opened after check {check['execution_id']}"

    @task
    def inform_customer(check: dict[str, Any]) -> str:
        return f"customer informed after check {check['execution_id']}"

    check: Any = check_customer.output
    decide(check) >> [open_account(check), inform_customer(check)]


kyc_onboarding()
