"""
A batch beside a bare loop: the same rows, the same service, the same connection policy, in the same run.

The bare loop is what one would write for an afternoon: a semaphore, a POST on a connection of its own for each start, a
poll now and then, the result. It keeps nothing: after a crash it cannot say what it has started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

CONNECTIONS = 10
IN_FLIGHT = 500
#: Seconds that an execution takes.
DURATION = 3.0
TARGET_RATIO = 0.5
TARGET_MIB = 300
_DEFINITION = "benchmark"
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "Authorization": "tot_sandbox"}


@contextlib.contextmanager
def sandbox() -> Iterator[str]:
    """
    A sandbox in a process of its own; gives its URL.
    """
    command = [sys.executable, "-m", "tl_orchestration.cli", "sandbox", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = next(found[0] for line in process.stderr if (found := re.search(r"http://[\w.:]+", line)))
            fields = {"like": "kyc-approve", "duration": DURATION}
            httpx.put(f"{url}/_sandbox/definitions/{_DEFINITION}", json=fields, trust_env=False).raise_for_status()
            yield url
        finally:
            process.terminate()


def source(folder: Path, rows: int) -> Path:
    """
    A file of customers.
    """
    file = folder / "customers.jsonl"
    with file.open("w") as out:
        for number in range(rows):
            out.write(json.dumps({"id": f"customer-{number:07}", "first": "Ada", "last": f"Lovelace {number}"}) + "\n")
    return file


def batch(url: str, folder: Path, rows: int, store: str | None) -> dict[str, Any]:
    """
    Ours, with all its guarantees.
    """
    from tl_orchestration import AsyncClient, OrganizationToken, Settings
    from tl_orchestration.batch import Batch, Book, Columns, Limits, Policy
    from tl_orchestration.batch import source as batch_source
    from tl_orchestration.ledger import SqlLedger

    ledger = SqlLedger(store or f"sqlite:///{folder}/ledger.db")
    client = AsyncClient(
        OrganizationToken("tot_sandbox"), url, ledger=ledger, settings=Settings(max_connections=CONNECTIONS)
    )
    columns = Columns(key="id", parameters={"firstName": "first", "lastName": "last"})
    book = Book(workflow_definition_id=_DEFINITION, source=batch_source(source(folder, rows)), columns=columns)
    one = Batch(
        client,
        "benchmark",
        book,
        output=folder / "out",
        limits=Limits(in_flight=IN_FLIGHT),
        policy=Policy(starts_at_once=CONNECTIONS),
    )
    began = time.monotonic()
    one.load()
    loaded = time.monotonic()
    summary = one.run()
    ended = time.monotonic()
    assert summary.counts == {"SUCCEEDED": rows}, summary
    file = folder / "ledger.db"
    return {
        "load": loaded - began,
        "seconds": ended - loaded,
        "requests": sum(summary.requests.values()),
        "polls_p95": summary.polls_p95,
        "store": sum(path.stat().st_size for path in folder.glob("ledger.db*")) if file.exists() else None,
    }


def bare(url: str, folder: Path, rows: int) -> dict[str, Any]:
    """
    Without any guarantee.
    """
    sent = 0

    async def all_rows() -> None:
        nonlocal sent
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=75)
        client = httpx.AsyncClient(base_url=url, headers=_HEADERS, limits=limits, trust_env=False, timeout=30)
        starting, asking = asyncio.Semaphore(CONNECTIONS), asyncio.Semaphore(CONNECTIONS)
        waiting = asyncio.Semaphore(IN_FLIGHT)

        async def get(path: str) -> Any:
            nonlocal sent
            async with asking:
                sent += 1
                return (await client.get(path)).raise_for_status().json()

        async def one(record: dict[str, str], out: Any) -> None:
            nonlocal sent
            body = {
                "workflowDefinitionId": _DEFINITION,
                "parameters": {"firstName": record["first"], "lastName": record["last"]},
                "locale": "en",
            }
            try:
                async with starting:
                    sent += 1
                    transport = httpx.AsyncHTTPTransport(trust_env=False, verify=False)
                    async with httpx.AsyncClient(
                        base_url=url, headers=_HEADERS, transport=transport, timeout=30
                    ) as fresh:
                        answer = (await fresh.post("/workflows", json=body)).raise_for_status().json()
                execution_id = answer["id"]
                await asyncio.sleep(DURATION)
                for pause in itertools.repeat(1.0):
                    if (await get(f"/workflows/{execution_id}"))["status"] != "RUNNING":
                        break
                    await asyncio.sleep(pause)
                out.write(json.dumps({"key": record["id"], "result": await get(f"/workflows/{execution_id}/result")}))
            finally:
                waiting.release()

        with source(folder, rows).open() as lines, (folder / "bare.jsonl").open("w") as out:
            async with asyncio.TaskGroup() as group:
                for line in lines:
                    await waiting.acquire()
                    group.create_task(one(json.loads(line), out))
        await client.aclose()

    began = time.monotonic()
    asyncio.run(all_rows())
    return {"seconds": time.monotonic() - began, "requests": sent}


def measure(way: str, rows: int, store: str | None = None) -> dict[str, Any]:
    """
    What one process measured, with a sandbox of its own.
    """
    with sandbox() as url, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.batch", "--way", way, "--url", url, "--folder", folder]
        command += ["--rows", str(rows), *(["--store", store] if store else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _shown(title: str, rows: int, found: dict[str, Any]) -> str:
    store = found.get("store")
    return (
        f"  {title:12s}{found['seconds']:9.1f} s{rows / found['seconds']:9.1f} rows/s"
        f"{found['requests'] / rows:9.2f} requests/row{found['rss_mib']:8.0f} MiB"
        + (f"{store / 2**20:8.0f} MiB store" if store else "")
    )


def main() -> None:
    """
    Measure and print; as a child, one way only.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--store", help="a PostgreSQL with the tables; a SQLite file else")
    parser.add_argument("--way", choices=("batch", "bare"))
    parser.add_argument("--url")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.way:
        found = (
            batch(chosen.url, chosen.folder, chosen.rows, chosen.store)
            if chosen.way == "batch"
            else bare(chosen.url, chosen.folder, chosen.rows)
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found | {"rss_mib": peak}))
        return
    shape = f"{chosen.rows:,} rows of {DURATION:g} s each, {IN_FLIGHT} in flight"
    print(f"{shape}, {CONNECTIONS} connections, {os.cpu_count()} CPUs", flush=True)
    theirs = measure("bare", chosen.rows)
    print(_shown("bare loop", chosen.rows, theirs), flush=True)
    ours = measure("batch", chosen.rows, chosen.store)
    print(_shown("batch", chosen.rows, ours))
    print(
        f"  batch / bare loop: {theirs['seconds'] / ours['seconds']:.2f} of its rate (target: at least {TARGET_RATIO});"
        f" loading took {ours['load']:.1f} s; polls per row, 95th percentile: {ours['polls_p95']}"
    )


if __name__ == "__main__":
    main()
