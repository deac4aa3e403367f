"""
A book in shards on a real Airflow: whatever happens to its workers, ledger, service and output agree row by row.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from dev import sessions
from tests.e2e.canary import TOKEN
from tests.e2e.test_airflow_steps import until
from tests.e2e.traces import traces
from tl_orchestration import AsyncClient, OrganizationToken
from tl_orchestration.batch import Batch
from tl_orchestration.ledger import SqlLedger

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(900)

#: In every name of every book: long, unique, and like nothing else.
PERSONAL = "Quillfeather-2b9e"


class Book:
    """
    Customers in a file, a definition of their own, and the run that screens them.
    """

    def __init__(
        self, airflow: AirflowRig, oracle: Oracle, folder: Path, dag_id: str, name: str, count: int, **script: Any
    ) -> None:
        self.airflow, self.oracle, self.folder, self.dag_id = airflow, oracle, folder, dag_id
        self.names = {f"c{number:05}": f"{PERSONAL} {number}" for number in range(count)}
        self.definition = oracle.define(name, **{"like": "kyc-approve"} | script)
        lines = [json.dumps({"id": key, "first": first}) for key, first in self.names.items()]
        (folder / "book.jsonl").write_text("\n".join(lines))
        airflow.wait_for_dag(dag_id)
        self.run_id = airflow.trigger(dag_id, {"definition": self.definition, "folder": str(folder)})

    def process(self, shard: int, timeout: float = 60) -> int:
        return self.airflow.task_process(self.dag_id, self.run_id, "screen", shard, timeout=timeout)

    def log(self, shard: int, tries: int = 1) -> str:
        return self.airflow.task_log(self.dag_id, self.run_id, "screen", tries, shard)

    def summaries(self, shards: int) -> list[dict[str, Any]]:
        return [self.airflow.xcom(self.dag_id, self.run_id, "screen", map_index=shard) for shard in range(shards)]

    def starts(self) -> dict[str, list[str]]:
        """
        Executions by the name that the service was sent.
        """
        found: dict[str, list[str]] = {}
        for start in self.oracle.starts():
            if start["definition"] == self.definition:
                found.setdefault(start["parameters"]["firstName"], []).append(start["execution_id"])
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        """
        What the store knows of each key.
        """
        url = json.loads(self.airflow.environment()["AIRFLOW_CONN_BATCHES"])["extra"]["ledger_url"]
        client = AsyncClient(OrganizationToken(TOKEN), self.oracle.url, ledger=SqlLedger(url))
        try:
            return {row["key"]: row for row in Batch(client, self.definition).export()}
        finally:
            assert isinstance(client.ledger, SqlLedger)
            client.ledger.close()

    def owned(self) -> dict[str, set[str]]:
        """
        Executions in flight by the worker that follows them.
        """
        url = json.loads(self.airflow.environment()["AIRFLOW_CONN_BATCHES"])["extra"]["ledger_url"]
        found: dict[str, set[str]] = {}
        with psycopg.connect(url.replace("+psycopg", "")) as database:
            for owner, execution_id in database.execute(
                "SELECT r.owner, r.execution_id FROM tl_batch_rows r JOIN tl_batch_campaigns c ON r.campaign = c.id"
                " WHERE c.name = %s AND r.state = 'STARTED'",
                [self.definition],
            ):
                found.setdefault(str(owner), set()).add(execution_id)
        return found

    def output(self) -> list[dict[str, Any]]:
        folder = self.folder / "out" / self.definition
        manifest = json.loads((folder / "manifest.json").read_text())
        parts = [(folder / part["name"]).read_text() for part in manifest["parts"]]
        return [json.loads(line) for part in parts for line in part.splitlines()]

    def check_agreement(self) -> None:
        """
        Every row started once and kept once, the same execution everywhere; what is unknown is said to be.
        """
        starts, rows = self.starts(), self.rows()
        assert {name: len(ids) for name, ids in starts.items() if len(ids) > 1} == {}
        assert set(rows) == set(self.names)
        unknown = {key for key, row in rows.items() if row["state"] == "UNKNOWN"}
        for key, name in self.names.items():
            if key not in unknown:
                assert starts[name] == [rows[key]["execution_id"]]
        kept = {line["key"]: line["execution_id"] for line in self.output()}
        assert len(self.output()) == len(kept)
        assert kept == {key: row["execution_id"] for key, row in rows.items() if key not in unknown}
        assert Counter(row["state"] for row in rows.values())["SUCCEEDED"] == len(self.names) - len(unknown)


def test_a_killed_worker_loses_nothing_and_a_clear_starts_nothing(
    airflow: AirflowRig, oracle: Oracle, tmp_path: Path
) -> None:
    """SIGKILL in the middle of the starts: the retry goes on. Cleared, the task has nothing to start."""
    book = Book(airflow, oracle, tmp_path, "book_in_two_workers", "book-killed", 220, duration=None)
    pid = book.process(0)
    until(lambda: len(book.starts()) >= 4)
    os.kill(pid, signal.SIGKILL)
    oracle.define(book.definition, like="kyc-approve", duration=1)
    for execution_id in oracle.started(book.definition):
        oracle.end(execution_id)

    state = airflow.wait_for_run(book.dag_id, book.run_id, timeout=400)

    rows = book.rows()
    unknown = [key for key, row in rows.items() if row["state"] == "UNKNOWN"]
    assert state == ("failed" if unknown else "success"), airflow.describe_run(book.dag_id, book.run_id)
    assert airflow.task_instance(book.dag_id, book.run_id, "screen", 0).try_number == 2
    book.check_agreement()
    assert "FINISHED" in {summary["outcome"] for summary in book.summaries(2)}

    airflow.clear(book.dag_id, book.run_id, ["screen"])
    assert airflow.wait_for_run(book.dag_id, book.run_id) == state
    assert {summary["outcome"] for summary in book.summaries(2)} == {"NOTHING_TO_START"}
    book.check_agreement()
    assert oracle.cancelled(book.definition) == []
    assert traces(airflow, [PERSONAL]) == []


def test_a_person_ends_one_shard(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """Marked failed while it is deferred: what it has in flight is cancelled, and nothing of the other's."""
    book = Book(airflow, oracle, tmp_path, "book_in_two_shards", "book-ended", 210, duration=None)
    for shard in (0, 1):
        airflow.wait_for_task(book.dag_id, book.run_id, "screen", {"deferred"}, map_index=shard)
    until(lambda: all(len(ids) >= 10 for ids in book.owned().values()) and sum(map(len, book.owned().values())) == 60)
    for shard in (0, 1):
        until(lambda: re.search(r"trigger \S+ \(ID \d+\) starting.*\bSTARTED\b", book.log(shard), re.DOTALL))  # noqa: B023
    owned = book.owned()
    cancelled: set[str] = set()

    for shard in (0, 1):
        (before,) = [ids for worker, ids in owned.items() if worker.startswith(f"{book.dag_id}/screen[{shard}]@")]
        airflow.set_task_state(book.dag_id, book.run_id, "screen", "failed", map_index=shard)
        cancelled |= before
        until(lambda: set(oracle.cancelled(book.definition)) >= cancelled)  # noqa: B023 -- called at once
        if shard == 0:
            assert set(oracle.cancelled(book.definition)) == before
            until(lambda: "what it has in flight is being cancelled" in book.log(0))

    assert cancelled <= set(oracle.cancelled(book.definition))


def test_a_person_ends_a_shard_that_works(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """In a worker: all is cancelled before Airflow kills the process. Cleared, it starts nothing, and sees the ends."""
    book = Book(airflow, oracle, tmp_path, "book_in_a_worker", "book-ended-at-work", 8, duration=None)
    pid = book.process(0)
    until(lambda: len(book.starts()) == 8)
    until(lambda: all(row["state"] == "STARTED" for row in book.rows().values()))

    airflow.set_task_state(book.dag_id, book.run_id, "screen", "failed", map_index=0)

    until(lambda: not sessions.alive(pid))
    until(lambda: "8 executions of its own were cancelled" in book.log(0))
    assert set(oracle.cancelled(book.definition)) == {row["execution_id"] for row in book.rows().values()}
    airflow.clear(book.dag_id, book.run_id, ["screen"])
    assert airflow.wait_for_run(book.dag_id, book.run_id) == "failed"
    assert book.summaries(1)[0]["counts"] == {"CANCELLED": 8}
    assert {len(ids) for ids in book.starts().values()} == {1}


def test_a_deferred_shard_is_cleared(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """The campaign goes on: nothing is cancelled, and nothing started again."""
    check_a_clear_goes_on(Book(airflow, oracle, tmp_path, "book_in_one_shard", "book-cleared", 8, duration=None))


def check_a_clear_goes_on(book: Book) -> None:
    """
    Clear the only shard of a book whose executions never end by themselves, while it is deferred.
    """
    airflow, oracle, names = book.airflow, book.oracle, (book.dag_id, book.run_id, "screen")
    airflow.wait_for_task(*names, {"deferred"}, map_index=0)
    until(lambda: oracle.polls(book.definition))  # the trigger has taken them up

    airflow.clear(book.dag_id, book.run_id, ["screen"])

    def is_deferred_again() -> bool:
        task = airflow.task_instance(*names, 0)
        return (task.try_number, task.state) == (2, "deferred")

    until(is_deferred_again)
    time.sleep(3)  # a cancel would be there by now
    assert oracle.cancelled(book.definition) == []
    for execution_id in oracle.started(book.definition):
        oracle.end(execution_id)
    assert airflow.wait_for_run(book.dag_id, book.run_id) == "success", airflow.describe_run(*names[:2])
    assert book.summaries(1)[0]["counts"] == {"SUCCEEDED": len(book.names)}
    assert oracle.cancelled(book.definition) == []
    assert {len(ids) for ids in book.starts().values()} == {1}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_rows_while_workers_are_killed(airflow: AirflowRig, oracle: Oracle, tmp_path: Path) -> None:
    """Four shards, a random worker SIGKILLed every 30 s: nothing lost, nothing started twice, every unknown told."""
    book = Book(airflow, oracle, tmp_path, "book_in_four_shards", "book-of-many", 10_000, duration=5)
    chosen, killed = random.Random(7), 0
    until(lambda: book.starts(), 120)
    while airflow.dag_run(book.dag_id, book.run_id)["state"] not in {"success", "failed"}:
        at_work = alive(book, range(4))
        if at_work:
            os.kill(chosen.choice(at_work), signal.SIGKILL)
            killed += 1
        ends = time.monotonic() + 30
        while time.monotonic() < ends and airflow.dag_run(book.dag_id, book.run_id)["state"] == "running":
            time.sleep(1)

    assert killed
    unknown = sum(row["state"] == "UNKNOWN" for row in book.rows().values())
    state = airflow.dag_run(book.dag_id, book.run_id)["state"]
    assert state == ("failed" if unknown else "success"), airflow.describe_run(book.dag_id, book.run_id)
    book.check_agreement()
    assert max(summary["unknown"] for summary in book.summaries(4) if summary) == unknown
    assert traces(airflow, [PERSONAL]) == []


def alive(book: Book, shards: range) -> list[int]:
    """
    The processes of shards that are in a worker just now.
    """
    found = []
    for shard in shards:
        try:
            found.append(book.process(shard, timeout=0.1))
        except (AssertionError, TimeoutError):
            continue
    return [pid for pid in found if sessions.alive(pid)]
