"""
Many executions: a campaign reads a source, starts each row at most once, and keeps what it has come to.

Needs ``tl-orchestration[batch]`` for Parquet and storage URIs, and ``[sql]`` for the store.
"""

from __future__ import annotations

from tl_orchestration.batch.batch import Batch
from tl_orchestration.batch.columns import Column, Columns
from tl_orchestration.batch.policy import Book, Limits, Policy
from tl_orchestration.batch.query import Query
from tl_orchestration.batch.sources import source
from tl_orchestration.batch.states import RowState
from tl_orchestration.batch.summary import BatchOutcome, BatchSummary, LoadReport

__all__ = [
    "Batch",
    "BatchOutcome",
    "BatchSummary",
    "Book",
    "Column",
    "Columns",
    "Limits",
    "LoadReport",
    "Policy",
    "Query",
    "RowState",
    "source",
]
