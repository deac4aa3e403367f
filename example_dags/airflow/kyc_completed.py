"""
How do I run a DAG whenever an execution ends, whoever has started it: a front end, a hosted page, another DAG?

Webhooks announce endings, a watcher in the triggerer confirms them, and each becomes an event of an asset. It needs an
inbox of webhooks.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider.event_trigger import TransactionlinkWorkflowEventTrigger
from airflow_provider.results import load_result

completed = Asset(
    "kyc_completed",
    watchers=[AssetWatcher(name="transactionlink", trigger=TransactionlinkWorkflowEventTrigger())],
)


@dag(schedule=[completed], tags=["transactionlink", "kyc"])
def kyc_completed() -> None:
    @task
    def completions(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        """All that have come since the last run; the same one may come twice."""
        return [event.extra["payload"] for event in triggering_asset_events[completed]]

    @task
    def record(completion: dict[str, Any]) -> str:
        if completion["status"] != "SUCCEEDED":
            return f"{completion['execution_id']}: {completion['status']}"
        return f"{completion['execution_id']}: {load_result(completion)['decision']}"

    record.expand(completion=completions())


kyc_completed()
