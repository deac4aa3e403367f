"""
Transactionlink workflow executions as steps of a Prefect flow.
"""

from __future__ import annotations

from prefect_blocks.credentials import TransactionlinkCredentials
from prefect_blocks.run import TransactionlinkWorkflowRun
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
from prefect_blocks.workflow import TransactionlinkWorkflow

__all__ = [
    "TransactionlinkCredentials",
    "TransactionlinkWorkflow",
    "TransactionlinkWorkflowRun",
    "acancel_execution",
    "aget_result",
    "arun_workflow",
    "await_for_execution",
    "await_for_executions",
    "cancel_execution",
    "get_result",
    "run_workflow",
    "wait_for_execution",
    "wait_for_executions",
]
