"""
A ready flow that runs one workflow.

It takes block *names*: Prefect stores the parameters of a flow run, and masks secrets in them.
"""

from __future__ import annotations

import json
from typing import Any

from prefect import flow

from prefect_blocks.cancelling import cancel_remote_executions


@flow(name="transactionlink-run-workflow", on_cancellation=[cancel_remote_executions])
def run_workflow_flow(
    workflow: str,
    parameters_secret: str | None = None,
    record_id: str | None = None,
    key: str | None = None,
) -> dict[str, Any]:
    """
    Run one workflow to its end. As the body of a deployment, it releases its worker meanwhile.

    Args:
        workflow: Name of a saved TransactionlinkWorkflow block.
        parameters_secret: Name of a saved Secret block with the parameters, a JSON object. They are no parameter of
            this flow, because Prefect stores those in clear: to look them up by an id of yours, write a flow of your
            own around :meth:`TransactionlinkWorkflow.trigger`.
        record_id: UUID of the record that the execution is about.
        key: See :meth:`TransactionlinkWorkflow.trigger`.

    Returns:
        ``execution_id``, ``status``, ``fields`` and, as the block says, ``result``.

    Raises:
        InvalidRequest: The secret is no JSON object. Nothing was sent.
        TransactionlinkError: See :meth:`TransactionlinkWorkflow.trigger` and
            :meth:`TransactionlinkWorkflowRun.wait_for_completion`.
    """
    from prefect_blocks.versions import load_block
    from prefect_blocks.workflow import TransactionlinkWorkflow

    parameters = None if parameters_secret is None else _secret(parameters_secret)
    block = load_block(TransactionlinkWorkflow, workflow)
    run = block.trigger(parameters, step_key=None if key else "run", key=key, record_id=record_id)
    run.wait_for_completion()
    return run.outcome()


def _secret(name: str) -> dict[str, Any]:
    from prefect.blocks.system import Secret

    from prefect_blocks.versions import load_block
    from tl_orchestration.errors import InvalidRequest

    value: Any = load_block(Secret, name).get()
    try:
        parameters = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        parameters = None
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"The Secret block {name!r} holds no JSON object. Nothing was sent.")
    return parameters


__all__ = ["run_workflow_flow"]
