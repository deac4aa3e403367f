"""
Transactionlink workflow executions as steps of a Prefect flow.

Prefect's server and every worker import this package, so only the blocks are made at once: tasks and flows are when
they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prefect_blocks.credentials import TransactionlinkCredentials
from prefect_blocks.run import TransactionlinkWorkflowRun
from prefect_blocks.workflow import TransactionlinkWorkflow

if TYPE_CHECKING:
    from prefect_blocks.automations import create_automations
    from prefect_blocks.batch_orders import BatchColumn, BatchColumns
    from prefect_blocks.batches import cancel_batch_executions, run_batch_flow
    from prefect_blocks.cancelling import cancel_remote_executions
    from prefect_blocks.flows import run_workflow_flow
    from prefect_blocks.joint import await_for_all, wait_for_all
    from prefect_blocks.results import aload_result, load_result
    from prefect_blocks.tasks import (
        acancel_execution,
        aget_result,
        arun_workflow,
        await_for_execution,
        await_for_executions,
        cancel_execution,
        get_result,
        run_workflow,
        wait_for_execution,
        wait_for_executions,
    )

_ELSEWHERE = {
    "BatchColumn": "batch_orders",
    "BatchColumns": "batch_orders",
    "aload_result": "results",
    "await_for_all": "joint",
    "cancel_batch_executions": "batches",
    "cancel_remote_executions": "cancelling",
    "create_automations": "automations",
    "load_result": "results",
    "run_batch_flow": "batches",
    "run_workflow_flow": "flows",
    "wait_for_all": "joint",
}
"""
Name -> module, of what is in another module than ``tasks``.
"""

__all__ = [
    "BatchColumn",
    "BatchColumns",
    "TransactionlinkCredentials",
    "TransactionlinkWorkflow",
    "TransactionlinkWorkflowRun",
    "acancel_execution",
    "aget_result",
    "aload_result",
    "arun_workflow",
    "await_for_all",
    "await_for_execution",
    "await_for_executions",
    "cancel_batch_executions",
    "cancel_execution",
    "cancel_remote_executions",
    "create_automations",
    "get_result",
    "load_result",
    "run_batch_flow",
    "run_workflow",
    "run_workflow_flow",
    "wait_for_all",
    "wait_for_execution",
    "wait_for_executions",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'tasks')}"), name)
