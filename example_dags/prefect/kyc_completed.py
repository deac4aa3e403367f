"""
How do I run a flow whenever an execution ends, whoever has started it: a front end, a hosted page, another flow?

Webhooks announce what happens to executions, ``tl webhooks forward --prefect`` makes an event of each announcement, and
the event runs this deployment. An announcement is a hint that anything has happened, and may come twice: the flow asks
the service.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, serve, task
from prefect.events import DeploymentEventTrigger

from prefect_blocks import TransactionlinkWorkflow

announced = DeploymentEventTrigger(
    name="an execution was announced",
    expect={"transactionlink.execution.announced"},
    match={"transactionlink.service": "transactionlink"},
    parameters={"execution_id": {"__prefect_kind": "jinja", "template": "{{ event.payload.execution_id }}"}},
)


@task
def record(execution_id: str, said: str) -> str:
    """Has to bear to be told the same twice."""
    return f"{execution_id}: {said}"


@flow
def kyc_completed(execution_id: str, workflow: str = "kyc-approve") -> str:
    """
    Args:
        execution_id: Of the execution that was announced.
        workflow: Name of a saved TransactionlinkWorkflow block, with ``result_fields={"decision": "decision"}``.
    """
    block: Any = TransactionlinkWorkflow.load(workflow)
    run = block.attach(execution_id)
    status = run.status()
    if status in {"PENDING", "RUNNING", "WAITING", "UNKNOWN"}:
        return f"{execution_id}: {status}, so nothing is recorded yet"
    said = run.outcome()["fields"]["decision"] if status == "SUCCEEDED" else status
    return str(record(execution_id, said))


if __name__ == "__main__":
    deployment: Any = kyc_completed.to_deployment("demo", triggers=[announced])
    serve(deployment)
