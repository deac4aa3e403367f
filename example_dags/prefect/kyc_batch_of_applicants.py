"""
How do I check many applicants in one flow run, and hear when all of them are done?

Each applicant is a step that bears the application's name: when the flow begins again, after its suspension or a crash,
it finds each check that it has started. One watcher waits for all of them, and one that is not approved stops no other.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, serve, task

from prefect_blocks import TransactionlinkWorkflow, cancel_remote_executions, wait_for_all
from prefect_blocks.cancelling import cleanup_deployment


@task(persist_result=True)
def new_applications() -> list[str]:
    """Its result is stored, so that the flow has the same list when it begins again."""
    return ["application-1", "application-2", "application-3"]


def applicant(application: str) -> dict[str, str]:
    """Read the applicant where personal data lives. Prefect stores none of it: this is no task, and no parameter."""
    return {"firstName": "Ada", "lastName": "Lovelace", "applicationId": application}


@task
def record(application: str, said: str) -> str:
    return f"{application}: {said}"


@flow(on_cancellation=[cancel_remote_executions])
def kyc_batch_of_applicants(workflow: str = "kyc-approve") -> list[str]:
    """
    Args:
        workflow: Name of a saved TransactionlinkWorkflow block, with ``result_fields={"decision": "decision"}``.
    """
    block: Any = TransactionlinkWorkflow.load(workflow)
    applications = new_applications()
    runs = [block.trigger(applicant(one), step_key=one) for one in applications]
    recorded = []
    for application, run, execution in zip(applications, runs, wait_for_all(runs), strict=True):
        status = execution.status.value
        said = run.outcome()["fields"]["decision"] if status == "SUCCEEDED" else status
        recorded.append(record(application, said))
    return recorded


if __name__ == "__main__":
    deployment: Any = kyc_batch_of_applicants.to_deployment("demo")
    serve(deployment, cleanup_deployment())
