"""
Hundreds of deferred steps in one real triggerer: this project's trigger beside the HTTP provider's sensor.

Both wait for the same number of executions of the same lengths, one way after the other, each in a fresh triggerer of
the same Airflow and against a service of its own. What came from a trigger is read from Airflow's own rows, so nothing
is measured by the triggers themselves. Look at ratios, not at seconds. ``python -m benchmarks.triggerer [STEPS ...]``.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil  # type: ignore[import-untyped]  # it comes with Airflow, its types do not
import psycopg2
from attrs import frozen

from dev.airflow_rig import AirflowRig
from tests.postgres import running

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = (100, 1000)
#: Seconds between the first look of the HTTP sensor and the next; Airflow's default of 60 would only be slower.
POKE_INTERVAL = 5.0
#: Executions end between these, seconds after the rows were written.
SHORTEST, LONGEST = 40.0, 70.0
DAG = """
from airflow.sdk import DAG, BaseOperator
with DAG("waiting", schedule=None) as dag:
    BaseOperator(task_id="wait")
"""
#: With the trigger's own pacing, with the sensor's interval, and the sensor.
WAYS = ("transactionlink", "transactionlink_5s", "http")


@frozen
class Cost:
    """
    What it took until every execution was noticed.

    Args:
        delays: From each ending to the moment in which Airflow has recorded the event, seconds.
        wall: From the last ending to the last event, seconds.
        cpu: Of the triggerer's processes, seconds.
        memory: How much they grew at most, bytes.
        requests: For an execution.
        connections: For an execution.
    """

    delays: list[float]
    wall: float
    cpu: float
    memory: int
    requests: float
    connections: float


class Meter:
    """
    CPU and memory of a triggerer and of all below it, from now on.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu, self._memory = self._read()
        self._highest = self._memory
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _read(self) -> tuple[float, int]:
        processes = [self._root, *self._root.children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        return sum(one.user + one.system for one in times), sum(p.memory_full_info().uss for p in processes)

    def _watch(self) -> None:
        while not self._done.wait(1.0):
            self._highest = max(self._highest, self._read()[1])

    def end(self) -> tuple[float, int]:
        """
        CPU seconds, and how many bytes more than at the beginning.
        """
        self._done.set()
        self._thread.join()
        cpu, memory = self._read()
        return cpu - self._cpu, max(self._highest, memory) - self._memory


@contextmanager
def service() -> Iterator[str]:
    """
    URL of a process that answers polls, as long as this lasts.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.poll_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.communicate()


def trigger(way: str, conn_id: str, execution_id: str) -> tuple[str, dict[str, object]]:
    """
    Class path and arguments of a trigger, as an operator would defer with it.
    """
    if way == "http":
        from airflow.providers.http.triggers.http import HttpSensorTrigger

        endpoint = f"workflows/{execution_id}/result"
        return HttpSensorTrigger(endpoint=endpoint, http_conn_id=conn_id, poke_interval=POKE_INTERVAL).serialize()
    from airflow_provider.triggers import TransactionlinkExecutionTrigger

    interval = POKE_INTERVAL if way == "transactionlink_5s" else None
    return TransactionlinkExecutionTrigger(
        transactionlink_conn_id=conn_id, execution_id=execution_id, poll_interval=interval
    ).serialize()


def measure(rig: AirflowRig, dsn: str, way: str, steps: int, url: str) -> Cost:
    """
    Let so many steps wait in a fresh triggerer until each has its event.
    """
    conn_id, run_id = f"{way}_{steps}", f"{way}-{steps}"
    rig.trigger("waiting", run_id=run_id)
    name = rig.add_triggerer()
    try:
        time.sleep(5)  # its imports are no cost of a trigger
        command = [sys.executable, "-m", "benchmarks.deferred_rows", run_id]
        with subprocess.Popen(
            command, env=rig.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            meter = Meter(rig.pids[name])
            drawn = random.Random(steps)
            now = time.time() + steps / 200
            ends = [now + drawn.uniform(SHORTEST, LONGEST) for _ in range(steps)]
            writer.communicate(
                json.dumps([trigger(way, conn_id, f"e{n}-{end * 1000:.0f}") for n, end in enumerate(ends)])
            )
        if writer.returncode:
            raise RuntimeError("The steps could not be written.")
        noticed: dict[int, float] = {}
        with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
            while len(noticed) < steps:
                if time.time() > max(ends) + 300:
                    raise RuntimeError(f"{steps - len(noticed)} of {steps} steps have no event ({way}).")
                time.sleep(2)
                cursor.execute(
                    "select map_index, extract(epoch from updated_at) from task_instance"
                    " where run_id = %s and state <> 'deferred'",
                    (run_id,),
                )
                noticed = {index: float(moment) for index, moment in cursor.fetchall()}
                connection.commit()
        cpu, memory = meter.end()
        seen = httpx.get(f"{url}/seen", trust_env=False).json()
    finally:
        rig.remove(name)
    return Cost(
        delays=sorted(noticed[n] - end for n, end in enumerate(ends)),
        wall=max(noticed.values()) - max(ends),
        cpu=cpu,
        memory=memory,
        requests=seen["polls"] / steps,
        connections=seen["connections"] / steps,
    )


def line(way: str, cost: Cost) -> str:
    """
    One row of the table.
    """
    p95 = statistics.quantiles(cost.delays, n=20, method="inclusive")[-1]
    return (
        f"  {way:<18} | {cost.cpu:7.2f} s | {cost.memory / 2**20:6.1f} MiB | {cost.requests:8.2f} |"
        f" {cost.connections:11.3f} | {statistics.median(cost.delays):5.2f} s | {p95:5.2f} s | {cost.wall:5.2f} s"
    )


def main() -> int:
    """
    Print a table for each number of steps.
    """
    counts = [int(argument) for argument in sys.argv[1:]] or STEPS
    cases = [(steps, way) for steps in counts for way in WAYS]
    with ExitStack() as stack:
        urls = {case: stack.enter_context(service()) for case in cases}
        connections = {
            f"{way}_{steps}": json.dumps({"conn_type": way.partition("_")[0], "host": url, "password": "a-token"})
            for (steps, way), url in urls.items()
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triggerer-")))
        dsn = stack.enter_context(running()).airflow_url()
        rig = AirflowRig(
            folder / "airflow",
            folder / "dags",
            connections=connections,
            env={"AIRFLOW__TRIGGERER__CAPACITY": str(max(counts) + 10)},
            database_url=dsn,
        )
        rig.write_dag("waiting", DAG)
        stack.enter_context(rig)
        rig.wait_for_dag("waiting")
        for process in ("scheduler", "triggerer"):  # nobody runs what is woken, and each case has its own triggerer
            rig.kill(process)
        for steps in counts:
            print(f"{steps} deferred steps; executions end within {LONGEST - SHORTEST:.0f} s")
            print("  trigger            | CPU       | memory     | requests | connections | p50     | p95     | last")
            for way in WAYS:
                cost = measure(rig, dsn.replace("+psycopg2", ""), way, steps, urls[steps, way])
                print(line(way, cost), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
