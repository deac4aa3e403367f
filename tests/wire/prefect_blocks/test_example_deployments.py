"""
A run that the schedule of an example makes has all that its flow asks for.
"""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from prefect import get_client
from prefect.states import Scheduled

from tests.wire.prefect_blocks.conftest import HERE

EXAMPLES = HERE.parents[2] / "example_dags" / "prefect"


def test_scheduled_run_of_weekly_rescreening_has_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is there on Monday to say where the customers are."""
    served: list[Any] = []
    monkeypatch.setattr("prefect.serve", lambda *deployments: served.extend(deployments))
    monkeypatch.setenv("CUSTOMERS", "s3://bank/customers.parquet")
    monkeypatch.setenv("SCREENED", "s3://bank/kyc")
    example = runpy.run_path(str(EXAMPLES / "weekly_rescreening.py"), run_name="__main__")

    (deployment,) = served
    assert [one.schedule.cron for one in deployment.schedules] == ["0 6 * * 1"]
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment.apply(), state=Scheduled())

    bound = example["weekly_rescreening"].validate_parameters(run.parameters)
    assert bound["source"] == "s3://bank/customers.parquet"
    assert bound["output"] == "s3://bank/kyc"
