"""
One real Airflow and one sandbox for all tests that need them, started when the first one does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e.canary import TOKEN
from tl_orchestration.sandbox import SandboxServer

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.postgres import Postgres

PROJECT = Path(__file__).parents[1]
DAGS = (PROJECT / "tests/e2e/airflow_dags", PROJECT / "example_dags/airflow")

SOAK = bool(os.environ.get("SOAK"))
#: The first one is for all DAGs that name none.
EXECUTORS = ",".join(
    [
        "LocalExecutor",
        "says_failed:tests.e2e.airflow_executors.SaysFailed",
        "says_failed_late:tests.e2e.airflow_executors.SaysFailedLate",
    ]
)


class Oracle:
    """
    The sandbox's own account of what reached it.
    """

    def __init__(self, server: SandboxServer) -> None:
        self.url = server.url
        self._clock = server.store.clock
        self._client = httpx.Client(base_url=f"{server.url}/_sandbox", timeout=60)

    def close(self) -> None:
        self._client.close()

    def starts(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._client.get("/starts").json()
        return answer

    def cancels(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._client.get("/cancels").json()
        return answer

    def define(self, name: str, **fields: Any) -> str:
        """A definition of the test's own, so that its starts can be told from those of other tests."""
        self._client.put(f"/definitions/{name}", json=fields).raise_for_status()
        return name

    def fault(self, **fields: Any) -> None:
        self._client.post("/faults", json=fields).raise_for_status()

    def end(self, execution_id: str) -> None:
        """The execution ends at once, with a success."""
        self._client.post(f"/executions/{execution_id}", json={"status": "COMPLETED"}).raise_for_status()

    def started(self, definition: str) -> list[str]:
        """Ids of the executions that were committed for a definition."""
        return [start["execution_id"] for start in self.starts() if start["definition"] == definition]

    @contextlib.contextmanager
    def varied(self, **variants: Any) -> Iterator[None]:
        """The service answers differently for as long as this lasts."""
        known = {one["name"]: one["value"] for one in self._client.get("/variants").json()}
        self._client.patch("/variants", json=variants).raise_for_status()
        try:
            yield
        finally:
            self._client.patch("/variants", json={name: known[name] for name in variants}).raise_for_status()

    @contextlib.contextmanager
    def days_later(self, days: float) -> Iterator[None]:
        """The service's clock is ahead for as long as this lasts."""
        self._client.post("/advance", json={"seconds": days * 24 * 3600}).raise_for_status()
        try:
            yield
        finally:
            self._clock.reset()

    def polls(self, definition: str) -> int:
        """How often executions of a definition were polled."""
        counts: dict[str, dict[str, int]] = self._client.get("/requests/definitions").json()
        return counts.get(definition, {}).get("status", 0)

    def order(self, definition: str) -> list[str]:
        """In which order executions of a definition were started and cancelled: ``start`` and ``cancel``."""
        events = [(one["request"], "start") for one in self.starts() if one["definition"] == definition]
        events += [(one["request"], "cancel") for one in self.cancels() if one["definition"] == definition]
        return [what for _, what in sorted(events)]

    def cancelled(self, definition: str) -> list[str]:
        return [cancel["execution_id"] for cancel in self.cancels() if cancel["definition"] == definition]


@pytest.fixture(scope="session")
def oracle() -> Iterator[Oracle]:
    with SandboxServer() as server, contextlib.closing(Oracle(server)) as oracle:
        yield oracle


def connection(oracle: Oracle, **fields: Any) -> str:
    extra = {"execution_url": f"{oracle.url}/executions/{{execution_id}}", **fields.pop("extra", {})}
    return json.dumps({"conn_type": "transactionlink", "host": oracle.url, "password": TOKEN, "extra": extra, **fields})


@pytest.fixture(scope="session")
def airflow(oracle: Oracle, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowRig]:
    from dev.airflow_rig import AirflowRig

    connections = {
        "transactionlink_default": connection(oracle),
        "wrong_token": connection(oracle, password="tot_wrong-9431-canary"),
        "may_not_run": connection(oracle, password="tot_sandbox_no_run"),
        "unreachable": connection(oracle, host="http://127.0.0.1:1"),
        "wrong_kind": connection(oracle, conn_type="http"),
        "foreign_host": connection(oracle, host="https://example.org"),
        "no_full_results": connection(oracle, extra={"forbid_full_result": True}),
        "results_in_s3": connection(oracle, extra={"result_uri_prefixes": "s3://kyc-results/"}),
        "legacy": connection(
            oracle, login="sandbox-key", password="sandbox-secret", extra={"service": "transactionlink-legacy"}
        ),
        "b3os": connection(oracle, password="b3sk_sandbox", extra={"service": "b3os"}),
        "batches": connection(oracle, extra={"ledger_url": postgres.ready_database()}),
        "keyed": connection(oracle, extra={"ledger_url": f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db"}),
    }
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    for file in [file for folder in DAGS for file in folder.glob("*.py")]:
        shutil.copy(file, dags)
    url = postgres.airflow_url()
    env = {
        "PYTHONPATH": str(PROJECT),
        # By default it takes five minutes until a task whose supervisor, or whose scheduler, has died is given up.
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20" if SOAK else "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__CORE__EXECUTOR": EXECUTORS,
        "AIRFLOW__CORE__PARALLELISM": "4",
    }
    rig = AirflowRig(home, dags, connections=connections, env=env, database_url=url)
    with rig:
        yield rig
