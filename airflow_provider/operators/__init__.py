"""
Operators of the Transactionlink provider.
"""

from __future__ import annotations

from airflow_provider.operators.batch import TransactionlinkBatchOperator
from airflow_provider.operators.cancel_workflow import TransactionlinkCancelWorkflowOperator
from airflow_provider.operators.run_workflow import TransactionlinkRunWorkflowOperator

__all__ = [
    "TransactionlinkBatchOperator",
    "TransactionlinkCancelWorkflowOperator",
    "TransactionlinkRunWorkflowOperator",
]
