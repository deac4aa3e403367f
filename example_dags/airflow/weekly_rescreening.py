"""
How do I re-screen my whole customer book every week?

The book is a file in an object storage, with a row for each customer. Four shards work on one campaign: each starts
executions until the limit is reached, and waits without a worker slot. A retry or a cleared task goes on where it was;
each week is a campaign of its own, so every customer is checked once a week. Results and rejected rows are files beside
a manifest.

The connection needs a ``ledger_url``: the database that keeps the campaign.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_provider.operators import TransactionlinkBatchOperator


@dag(
    schedule="0 4 * * 1",
    catchup=False,
    max_active_runs=1,
    params={
        "connection": "transactionlink_default",
        "workflow_definition_id": "kyc-approve",
        "book": "s3://aws_default@customers/book.parquet",
        "results": "s3://aws_default@screening/",
    },
    tags=["transactionlink", "kyc"],
)
def weekly_rescreening() -> None:
    screen = TransactionlinkBatchOperator.partial(
        task_id="screen",
        transactionlink_conn_id="{{ params.connection }}",
        workflow_definition_id="{{ params.workflow_definition_id }}",
        source="{{ params.book }}",
        results="{{ params.results }}",
        columns={
            "key": "customer_id",
            "parameters": {"firstName": "first_name", "dateOfBirth": {"name": "born", "type": "date"}},
        },
        in_flight=500,
        requests_per_second=20,
        max_failed_share=0.01,
        retries=10,
        retry_delay=timedelta(minutes=1),
    ).expand(shard=[0, 1, 2, 3])

    @task
    def report(summaries: list[dict[str, Any]]) -> dict[str, int]:
        """What the book has come to, as the shard that ended last has seen it."""
        last = max(summaries, key=lambda summary: summary["counts"].get("SUCCEEDED", 0))
        counts: dict[str, int] = last["counts"]
        return counts

    report(screen.output)  # type: ignore[arg-type]  # Airflow passes the values


weekly_rescreening()
