"""
One book of customers screened in four ways: Airflow's mapped HTTP tasks, Prefect's ``.map()`` with a polling loop, and
a batch of this project in either orchestrator.

Each way has the same rows, executions of the same length, a sandbox and an orchestrator of its own. Memory is what the
orchestrator's processes and its tasks' have for themselves at most. Mapped tasks are processes, of a second of CPU each
and three for a row: 1,000 rows take a machine with two cores half an hour. ``python -m benchmarks.peers [ROWS]``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # it comes with Airflow, its types do not
from attrs import frozen

from dev.airflow_rig import AirflowRig
from dev.prefect_rig import PrefectRig
from tests.postgres import running
from tl_orchestration.sandbox import SandboxServer

PROJECT = Path(__file__).parents[1]
PREFECT = PROJECT / ".venvs/prefect/bin/python"
ROWS = 1000
#: Of an execution, seconds; and between two looks of the ways that say how often.
DURATION, INTERVAL = 3.0, 5.0
TOKEN = "tot_sandbox"  # noqa: S105  # the sandbox's
DAGS = """
import json
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, task
from airflow_provider.operators import TransactionlinkBatchOperator

HEADERS = {{"Authorization": "{token}", "Content-Type": "application/json"}}

with DAG("mapped", schedule=None) as mapped:
    @task
    def bodies():
        rows = [json.loads(line) for line in open("{book}")]
        return [
            json.dumps(
                {{"workflowDefinitionId": "kyc-timed", "locale": "en", "parameters": {{"firstName": row["first"]}}}}
            )
            for row in rows
        ]

    @task
    def endpoints(answers):
        return [f"workflows/{{json.loads(answer)['id']}}/result" for answer in answers]

    started = HttpOperator.partial(
        task_id="start", http_conn_id="http", endpoint="workflows", method="POST", headers=HEADERS
    ).expand(data=bodies())
    HttpSensor.partial(
        task_id="wait", http_conn_id="http", headers=HEADERS, deferrable=True, poke_interval={interval}
    ).expand(endpoint=endpoints(started.output))

with DAG("batch", schedule=None) as batch:
    TransactionlinkBatchOperator(
        task_id="screen", workflow_definition_id="kyc-timed", source="{book}", results="{out}", campaign="peers",
        columns={{"key": "id", "parameters": {{"firstName": "first"}}}}, in_flight=500,
    )
"""
FLOWS = """
import json, time
import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import SecretStr
from prefect_blocks import BatchColumns, TransactionlinkCredentials, run_batch_flow

HEADERS = {{"Authorization": "{token}"}}

@task(cache_policy=NO_CACHE)
def screen(row):
    body = {{"workflowDefinitionId": "kyc-timed", "locale": "en", "parameters": {{"firstName": row["first"]}}}}
    with httpx.Client(base_url="{url}", headers=HEADERS, trust_env=False) as client:
        one = client.post("/workflows", json=body).raise_for_status().json()["id"]
        while client.get(f"/workflows/{{one}}").raise_for_status().json()["status"] != "COMPLETED":
            time.sleep({interval})
        return client.get(f"/workflows/{{one}}/result").raise_for_status().json()["decision"]

@flow
def mapped():
    rows = [json.loads(line) for line in open("{book}")]
    return screen.map(rows).result()

@flow
def batch():
    TransactionlinkCredentials(
        token=SecretStr("{token}"), base_url="{url}", ledger_url=SecretStr("sqlite:///{store}")
    ).save("peers", overwrite=True)
    columns = BatchColumns(key="id", parameters={{"firstName": "first"}})
    run_batch_flow("peers", "kyc-timed", columns, source="{book}", output="{out}", campaign="peers", shards=1)

if __name__ == "__main__":
    import sys
    {{"mapped": mapped, "batch": batch}}[sys.argv[1]]()
"""


@frozen
class Cost:
    """
    What one way took. Requests and connections are for a row.
    """

    wall: float
    requests: float
    connections: float
    memory: int


@contextmanager
def counted(port: int) -> Iterator[tuple[int, list[int]]]:
    """
    Port of a relay that leads there, and a list that holds the count of its connections afterwards.
    """
    found: list[int] = []
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.relay", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), found
        found.append(int(process.communicate()[0]))


def watched(pids: Callable[[], list[int]], work: Callable[[], float]) -> tuple[float, int]:
    """
    What some work returns, and what the processes had for themselves at most while it lasted, bytes.
    """
    highest, done = 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(1.0):
            total = 0
            for pid in pids():
                try:
                    total += psutil.Process(pid).memory_full_info().uss
                except psutil.Error:
                    continue
            highest = max(highest, total)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return work(), highest
    finally:
        done.set()
        thread.join()


def measure(way: str, rows: int, run: Callable[[ExitStack, Path, str], tuple[float, int]]) -> Cost:
    """
    One way, against a sandbox of its own.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        with (folder / "book.jsonl").open("w") as book:
            book.writelines(json.dumps({"id": f"customer-{n}", "first": f"Ada {n}"}) + "\n" for n in range(rows))
        sandbox = stack.enter_context(SandboxServer())
        levers = httpx.Client(base_url=f"{sandbox.url}/_sandbox", trust_env=False)
        script = {"like": "kyc-approve", "duration": DURATION}
        levers.put("/definitions/kyc-timed", json=script).raise_for_status()
        with counted(httpx.URL(sandbox.url).port or 0) as (port, connections):
            wall, memory = run(stack, folder, f"http://127.0.0.1:{port}")
            requests = sum(levers.get("/requests").raise_for_status().json().values())
            if len(levers.get("/starts").json()) != rows:
                raise RuntimeError(f"{way} has not started {rows} executions.")
        return Cost(wall, requests / rows, connections[0] / rows, memory)


def in_airflow(dag_id: str) -> Callable[[ExitStack, Path, str], tuple[float, int]]:
    """
    A run of a DAG.
    """

    def run(stack: ExitStack, folder: Path, url: str) -> tuple[float, int]:
        ledger = f"sqlite:///{folder}/ledger.db"
        connections = {
            "transactionlink_default": json.dumps(
                {"conn_type": "transactionlink", "host": url, "password": TOKEN, "extra": {"ledger_url": ledger}}
            ),
            "http": json.dumps({"conn_type": "http", "host": url}),
        }
        database = stack.enter_context(running()).airflow_url()
        rig = AirflowRig(folder / "airflow", folder / "dags", connections=connections, database_url=database)
        named = {"token": TOKEN, "book": folder / "book.jsonl", "out": folder / "out", "interval": INTERVAL}
        rig.write_dag("peers", DAGS.format(**named))
        stack.enter_context(rig)
        rig.wait_for_dag(dag_id)

        def work() -> float:
            began = time.monotonic()
            run_id = rig.trigger(dag_id)
            if rig.wait_for_run(dag_id, run_id, timeout=7200) != "success":
                raise RuntimeError(rig.describe_run(dag_id, run_id))
            return time.monotonic() - began

        return watched(rig.processes, work)

    return run


def in_prefect(flow: str) -> Callable[[ExitStack, Path, str], tuple[float, int]]:
    """
    A run of a flow, in a process of its own beside a server.
    """

    def run(stack: ExitStack, folder: Path, url: str) -> tuple[float, int]:
        rig = stack.enter_context(PrefectRig(folder / "prefect", python=PREFECT))
        named = {"token": TOKEN, "book": folder / "book.jsonl", "out": folder / "out", "interval": INTERVAL}
        (folder / "flows.py").write_text(FLOWS.format(**named, url=url, store=folder / "ledger.db"))
        ours: list[int] = []

        def work() -> float:
            began = time.monotonic()
            command = [str(PREFECT), str(folder / "flows.py"), flow]
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(command, env=rig.environment(), stdout=log, stderr=log)
                ours.append(process.pid)
                if process.wait(7200):
                    raise RuntimeError((folder / "log").read_text()[-2000:])
            return time.monotonic() - began

        return watched(lambda: [*ours, *rig.processes()], work)

    return run


def main() -> int:
    """
    Print a line for each way.
    """
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    ways = {
        "Airflow: mapped HTTP operator and sensor": in_airflow("mapped"),
        "Airflow: TransactionlinkBatchOperator": in_airflow("batch"),
        "Prefect: .map() of a polling loop": in_prefect("mapped"),
        "Prefect: run_batch_flow": in_prefect("batch"),
    }
    print(f"{rows} rows, executions of {DURATION:.0f} s")
    print(f"  {'':<40} | wall      | requests | connections | memory")
    for way, run in ways.items():
        cost = measure(way, rows, run)
        print(
            f"  {way:<40} | {cost.wall:7.1f} s | {cost.requests:8.2f} | {cost.connections:11.2f} |"
            f" {cost.memory / 2**20:5.0f} MiB",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
