"""
How soon a real triggerer sees an ending, by webhooks and by polls, and what a wait of half an hour costs.

The delay runs from the sandbox's own time of an ending to the triggerer's event for the task, as its log has it. Both
ways run one after the other in the same Airflow: with webhooks, and with the very same webhooks dropped and no inbox.
The half hour is virtual: the trigger's own client, pacing and listener in an event loop whose clock jumps, so that all
its requests can be counted. ``python -m benchmarks.detection [EXECUTIONS]``.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from dev.airflow_rig import AirflowRig
from dev.stack import DAG_ID, DAGS, connections, deliver_to, webhooks_into
from tests.postgres import running
from tests.virtual_time import VirtualService, VirtualTimeLoop, client_of, ends_at, in_virtual_time
from tl_orchestration import Patience
from tl_orchestration.hints import Cursor, Hint
from tl_orchestration.pacing import SAFETY_NET
from tl_orchestration.sandbox import SandboxServer

if TYPE_CHECKING:
    from collections.abc import Mapping

EXECUTIONS = 12
#: Of an execution, seconds: by then a poller without webhooks looks every few seconds.
DURATION = 45.0
HALF_AN_HOUR = 1800.0
_FIRED = re.compile(r"^(\S+).*Trigger fired event", re.MULTILINE)


def delays(count: int, home: Path, *, webhooks: bool) -> list[float]:
    """
    Seconds from each ending to the trigger's event.
    """
    with SandboxServer() as sandbox:
        script = {"like": "kyc-approve", "duration": DURATION}
        levers = httpx.Client(base_url=f"{sandbox.url}/_sandbox", trust_env=False)
        levers.put("/definitions/kyc-timed", json=script).raise_for_status()
        env: Mapping[str, str] = webhooks_into(home / "inbox.db", sandbox.url) if webhooks else {}
        # The safety net is the product's own here, not the demonstration's.
        env = {name: value for name, value in env.items() if not name.endswith("SAFETY_NET")}
        known = connections(sandbox.url)
        with (
            running() as postgres,
            AirflowRig(home, DAGS, connections=known, env=env, database_url=postgres.airflow_url()) as rig,
        ):
            if webhooks:
                deliver_to(rig.base_url, sandbox.url)
            rig.wait_for_dag(DAG_ID)
            runs = []
            for _ in range(count):
                runs.append(rig.trigger(DAG_ID, {"workflow_definition_id": "kyc-timed"}))
                time.sleep(1.0)
            found = []
            for run_id in runs:
                rig.wait_for_run(DAG_ID, run_id, timeout=300)
                # Executions last as long as they were told to; the sandbox counts from the start that it committed.
                execution_id = rig.xcom(DAG_ID, run_id, "check_customer")["execution_id"]
                starts = {one["execution_id"]: one for one in levers.get("/starts").json()}
                ended = datetime.fromisoformat(starts[execution_id]["time"]).timestamp() + DURATION
                said = _FIRED.search(rig.task_log(DAG_ID, run_id, "check_customer", 1))
                if said is None:
                    raise RuntimeError(f"The log of run {run_id} has no event of a trigger.")
                found.append(datetime.fromisoformat(said[1]).timestamp() - ended)
            return found


class _Announced:
    """
    An inbox to which one webhook comes.
    """

    def __init__(self, moment: float) -> None:
        self._moment = moment

    async def astart(self) -> Cursor:
        return Cursor()

    async def asince(self, cursor: Cursor) -> tuple[list[Hint], Cursor]:
        if cursor.top or asyncio.get_running_loop().time() < self._moment:
            return [], cursor
        return [Hint(1, "transactionlink", "e1", "", 0.0)], Cursor(1)

    async def apurge(self) -> int:
        return 0


def polls(*, webhooks: bool) -> int:
    """
    Polls of one wait for an execution of half an hour.
    """
    counts: list[int] = []

    async def main(loop: VirtualTimeLoop) -> None:
        service = VirtualService(ends_at(lambda _: HALF_AN_HOUR))
        inbox = _Announced(HALF_AN_HOUR) if webhooks else None
        await client_of(service, loop.clock(), inbox=inbox).wait("e1", patience=Patience(safety_net=SAFETY_NET))
        counts.append(len(service.requests))

    in_virtual_time(main)
    return counts[0]


def main() -> int:
    """
    Print delays and requests. Returns the exit code: 1 if half an hour costs more than four polls with webhooks.
    """
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EXECUTIONS
    print(f"{count} executions of {DURATION:.0f} s in a real triggerer; polls of a virtual half hour")
    print(f"  {'':<10} | {'p50':>7} | {'p95':>7} | {'polls':>5}")
    for name, webhooks in (("webhooks", True), ("polling", False)):
        with tempfile.TemporaryDirectory(prefix="detection-") as folder:
            found = sorted(delays(count, Path(folder), webhooks=webhooks))
        p95 = statistics.quantiles(found, n=20, method="inclusive")[-1]
        print(
            f"  {name:<10} | {statistics.median(found):5.2f} s | {p95:5.2f} s | {polls(webhooks=webhooks):>5}",
            flush=True,
        )
    print("  besides, in either way: the start, one poll and the result, all by the task in its worker")
    return 0 if polls(webhooks=True) <= 4 else 1


if __name__ == "__main__":
    sys.exit(main())
