"""
How do I run a KYC check as one step, and go on by its decision?

The flow releases its worker while the check runs: it is suspended, and begins again from the top when it is woken. So
the check is found by its step, and what must not happen twice is in the branch behind it. A decision that nobody
planned for fails the run instead of onboarding a customer.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, serve, task

from prefect_blocks import TransactionlinkWorkflow, cancel_remote_executions
from prefect_blocks.cancelling import cleanup_deployment


def applicant(application_id: str) -> dict[str, str]:
    """Read the applicant where personal data lives. Prefect stores none of it: this is no task, and no parameter."""
    return {"firstName": "Ada", "lastName": "Lovelace", "applicationId": application_id}


@task
def open_account(check: dict[str, Any]) -> str:
    return f"account opened after check {check['execution_id']}"


@task
def inform_customer(check: dict[str, Any]) -> str:
    return f"customer informed after check {check['execution_id']}"


NEXT_TASK = {"approve": open_account, "reject": inform_customer}


@flow(on_cancellation=[cancel_remote_executions])
def kyc_onboarding(application_id: str, workflow: str = "kyc-approve") -> str:
    """
    Args:
        application_id: Yours; not personal, for Prefect stores it.
        workflow: Name of a saved TransactionlinkWorkflow block, with ``result_fields={"decision": "decision"}``.
    """
    block: Any = TransactionlinkWorkflow.load(workflow)
    run = block.trigger(applicant(application_id), step_key="check_customer")
    run.wait_for_completion()
    check = run.outcome()

    decision = check["fields"]["decision"]
    if decision not in NEXT_TASK:
        raise ValueError(f"No task is planned for the decision {decision!r}.")
    next_task: Any = NEXT_TASK[decision]
    return str(next_task(check))


if __name__ == "__main__":
    deployment: Any = kyc_onboarding.to_deployment("demo")
    serve(deployment, cleanup_deployment())
