"""
Steps whose executions take a second, with and without a short wait in the worker before they defer.

Each way is a chain of tasks in one run of a real Airflow, so the wall time of a run is that of so many steps in a row.
``python -m benchmarks.defer_after [STEPS]``.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import datetime
from pathlib import Path

import httpx

from dev.airflow_rig import AirflowRig
from dev.stack import connections
from tests.postgres import running
from tl_orchestration.sandbox import SandboxServer

STEPS = 5
ROUNDS = 2
DAG = """
from airflow.sdk import DAG, chain
from airflow_provider.operators import TransactionlinkRunWorkflowOperator
for name, options in {{"default": {{}}, "at_once": {{"defer_after": 0}}}}.items():
    with DAG(f"chain_{{name}}", schedule=None) as dag:
        chain(*[
            TransactionlinkRunWorkflowOperator(
                task_id=f"step_{{n}}",
                workflow_definition_id="kyc-second",
                parameters={{"firstName": "Ada"}},
                deferrable=True,
                **options,
            )
            for n in range({steps})
        ])
    globals()[dag.dag_id] = dag
"""


def seconds(rig: AirflowRig, dag_id: str) -> float:
    """
    Wall time of one run.
    """
    run_id = rig.trigger(dag_id)
    state = rig.wait_for_run(dag_id, run_id, timeout=600)
    if state != "success":
        raise RuntimeError(f"Run {run_id} of {dag_id} ended as {state}.")
    run = rig.dag_run(dag_id, run_id)
    begin, end = (datetime.fromisoformat(run[key]) for key in ("start_date", "end_date"))
    return (end - begin).total_seconds()


def main() -> int:
    """
    Print both, and their ratio.
    """
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    with (
        SandboxServer() as sandbox,
        running() as postgres,
        tempfile.TemporaryDirectory(prefix="defer-after-") as name,
    ):
        script = {"like": "kyc-approve", "duration": 1.0}
        httpx.put(f"{sandbox.url}/_sandbox/definitions/kyc-second", json=script, trust_env=False).raise_for_status()
        folder = Path(name)
        rig = AirflowRig(
            folder / "airflow",
            folder / "dags",
            connections=connections(sandbox.url),
            database_url=postgres.airflow_url(),
        )
        rig.write_dag("chains", DAG.format(steps=steps))
        with rig:
            for dag_id in ("chain_default", "chain_at_once"):
                rig.wait_for_dag(dag_id)
            found: dict[str, list[float]] = {"chain_default": [], "chain_at_once": []}
            for _ in range(ROUNDS):
                for dag_id, each in found.items():
                    each.append(seconds(rig, dag_id) / steps)
    waited, deferred = (min(each) for each in found.values())
    print(f"{steps} steps of 1 s in a row; the better of {ROUNDS} runs, seconds for a step")
    print(f"  defer_after by default (5 s) | {waited:5.2f}")
    print(f"  defer_after=0                | {deferred:5.2f} ({deferred / waited:.2f} times)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
