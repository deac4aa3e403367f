"""
DAGs whose task is a batch, in shards.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag

from airflow_provider.operators import TransactionlinkBatchOperator

NAME = "{{ dag_run.conf['definition'] }}"
FOLDER = "{{ dag_run.conf['folder'] }}"


def shards(count: int, **arguments: Any) -> None:
    common: dict[str, Any] = {
        "task_id": "screen",
        "transactionlink_conn_id": "batches",
        "workflow_definition_id": NAME,
        "columns": {"key": "id", "parameters": {"firstName": "first"}},
        "source": f"file://{FOLDER}/book.jsonl",
        "results": f"file://{FOLDER}/out",
        "campaign": NAME,
        "quota": NAME,
        "retry_delay": timedelta(seconds=1),
    }
    TransactionlinkBatchOperator.partial(**common | arguments).expand(shard=list(range(count)))


@dag(schedule=None)
def book_in_two_shards() -> None:
    shards(2, in_flight=60, requests_per_second=40, retries=3)


@dag(schedule=None)
def book_in_two_workers() -> None:
    shards(2, deferrable=False, in_flight=200, requests_per_second=40, retries=3)


@dag(schedule=None)
def book_in_one_shard() -> None:
    shards(1, in_flight=60, requests_per_second=40, retries=3)


@dag(schedule=None)
def book_in_a_worker() -> None:
    shards(1, deferrable=False, retries=3)


@dag(schedule=None)
def book_in_four_shards() -> None:
    shards(4, in_flight=400, retries=50)


book_in_two_shards()
book_in_two_workers()
book_in_one_shard()
book_in_a_worker()
book_in_four_shards()
