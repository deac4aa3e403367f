"""
How do I re-screen my whole customer book every week, and go on by what came of it?

Each week is a campaign, named by when the flow run was scheduled: a retry, after whatever crash, goes on with it and
starts no customer twice. Prefect stores where the customers are, and no customer.

Serve it with ``CUSTOMERS=s3://bank/customers.parquet SCREENED=s3://bank/kyc`` in the environment: the file with the
customers, and the folder for results, of every scheduled run. The credentials are a saved block named ``kyc``.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import flow, serve, task

from prefect_blocks import BatchColumn, BatchColumns, cancel_batch_executions, run_batch_flow

CUSTOMERS = BatchColumns(
    key="customer_id",
    parameters={"firstName": "first_name", "dateOfBirth": BatchColumn(name="born", type="date")},
)


@task
def report(screened: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in screened["counts"].items())
    return f"{screened['campaign']}: {counts}; results in {screened['output']}"


@flow(on_cancellation=[cancel_batch_executions])
def weekly_rescreening(
    source: str,
    output: str,
    credentials: str = "kyc",
    definition: str = "kyc-approve",
    shards: int = 2,
    in_flight: int = 200,
) -> str:
    """
    Args:
        source: The customers, such as ``s3://bank/customers.parquet``.
        output: Folder for results, such as ``s3://bank/kyc``.
        credentials: Name of a saved TransactionlinkCredentials block with a ``ledger_url``.
        definition: The workflow.
        shards: Tasks that share the customers.
        in_flight: Executions at once.
    """
    screened = run_batch_flow(
        credentials,
        definition,
        CUSTOMERS,
        source=source,
        output=output,
        shards=shards,
        in_flight=in_flight,
        max_failed_share=0.02,
    )
    return str(report(screened))


if __name__ == "__main__":
    places = {"source": os.environ["CUSTOMERS"], "output": os.environ["SCREENED"]}
    deployment: Any = weekly_rescreening.to_deployment("weekly", cron="0 6 * * 1", parameters=places)
    serve(deployment)
