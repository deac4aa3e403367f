"""
Transactionlink workflow executions as steps of a Prefect flow.
"""

from __future__ import annotations
