"""
A campaign in a real flow run: whatever happens to its process, each row is started once, and only a person cancels.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from tests.e2e.canary import FIRST_NAME, TOKEN
from tl_orchestration import AsyncClient, OrganizationToken
from tl_orchestration.batch import Batch, BatchOutcome, Book, Columns, Limits, source
from tl_orchestration.ledger import SqlLedger

if TYPE_CHECKING:
    from dev.prefect_rig import PrefectRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


@frozen
class Campaign:
    """
    A definition, a file of customers and a ledger of the test's own, and credentials that name it.
    """

    rig: PrefectRig
    oracle: Oracle
    name: str
    folder: Path

    def run(self, **arguments: Any) -> str:
        """
        Start a flow run; returns its id.
        """
        columns = {"key": "id", "parameters": {"firstName": "first"}}
        asked = {
            "credentials": self.name,
            "workflow_definition_id": self.name,
            "columns": columns,
            "source": str(self.folder / "in.jsonl"),
            "output": str(self.folder / "out"),
        }
        return self.rig.run_here("transactionlink-run-batch", asked | arguments)

    def started(self, count: int, run: str) -> None:
        """
        Wait until so many rows have been started.
        """
        self.rig.wait_for(
            lambda: len(self.oracle.started(self.name)) >= count or None,
            f"{count} starts",
            180,
            lambda: self.rig.describe(run),
        )

    def recorded(self, count: int, run: str) -> None:
        """
        Wait until so many rows are on record as started: no start is under way then.
        """

        def found() -> bool | None:
            with contextlib.closing(sqlite3.connect(self.folder / "ledger.db", timeout=30)) as store:
                (rows,) = store.execute("SELECT count(*) FROM tl_batch_rows WHERE state = 'STARTED'").fetchone()
            return rows == count or None

        self.started(count, run)
        self.rig.wait_for(found, f"{count} rows on record", 180, lambda: self.rig.describe(run))

    def batch(self, campaign: str, worker: str | None = None, **limits: Any) -> Batch:
        """
        The campaign, as another process has it.
        """
        columns = Columns(key="id", parameters={"firstName": "first"})
        book = Book(workflow_definition_id=self.name, source=source(self.folder / "in.jsonl"), columns=columns)
        client = AsyncClient(
            OrganizationToken(TOKEN), self.oracle.url, ledger=SqlLedger(f"sqlite:///{self.folder}/ledger.db")
        )
        return Batch(client, campaign, book, output=self.folder / "out", limits=Limits(**limits), worker=worker)

    def check(self, rows: int) -> str:
        """
        Service, ledger and output agree row by row. Returns the name of the campaign.
        """
        (folder,) = (self.folder / "out").iterdir()
        starts = [one for one in self.oracle.starts() if one["definition"] == self.name]
        by_customer = {one["parameters"]["firstName"]: one["execution_id"] for one in starts}
        expected = {f"c{number}": by_customer[f"{FIRST_NAME} {number}"] for number in range(rows)}
        assert len(starts) == rows
        ledger = {one["key"]: one for one in self.batch(folder.name).export()}
        assert {key: one["execution_id"] for key, one in ledger.items()} == expected
        assert {one["state"] for one in ledger.values()} == {"SUCCEEDED"}
        parts = json.loads((folder / "manifest.json").read_text())["parts"]
        lines = [json.loads(line) for part in parts for line in (folder / part["name"]).read_text().splitlines()]
        assert len(lines) == rows
        assert {line["key"]: line["execution_id"] for line in lines} == expected
        return folder.name


Make = Callable[..., Campaign]


@pytest.fixture
def campaign(rig: PrefectRig, oracle: Oracle, tmp_path: Path) -> Make:
    """
    Makes a campaign of so many rows.
    """
    from pydantic import SecretStr

    from prefect_blocks import TransactionlinkCredentials

    def make(name: str, rows: int, duration: float | None) -> Campaign:
        oracle.define(name, like="kyc-approve", duration=duration)
        lines = [json.dumps({"id": f"c{number}", "first": f"{FIRST_NAME} {number}"}) for number in range(rows)]
        (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
        ledger = SecretStr(f"sqlite:///{tmp_path}/ledger.db")
        credentials = TransactionlinkCredentials(token=SecretStr(TOKEN), base_url=oracle.url, ledger_url=ledger)
        credentials.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]  # tells the two kinds apart
        return Campaign(rig, oracle, name, tmp_path)

    return make


def process_of(run: str) -> int:
    """The process that the runner has started for a flow run; it has the run's id in its environment."""
    for process in sorted(int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()):
        with contextlib.suppress(OSError):
            if f"PREFECT__FLOW_RUN_ID={run}".encode() in Path(f"/proc/{process}/environ").read_bytes():
                return process
    raise AssertionError(f"flow run {run} has no process")


def test_killed_with_executions_in_flight(rig: PrefectRig, oracle: Oracle, campaign: Make) -> None:
    """SIGKILL of the process of two shards: a retry of the flow run goes on, and is of the same campaign."""
    book = campaign("batch-killed", rows=30, duration=None)
    run = book.run(shards=2, in_flight=12)
    book.recorded(12, run)

    os.kill(process_of(run), signal.SIGKILL)

    assert rig.wait_for_end(run) == "Crashed"
    assert oracle.cancelled(book.name) == []
    oracle.define(book.name, like="kyc-approve", duration=0.5)
    for execution_id in oracle.started(book.name):
        oracle.end(execution_id)
    rig.retry(run)
    assert rig.wait_for_end(run) == "Completed", rig.describe(run)
    found = rig.flow_run(run)
    assert book.check(30)[:28] == f"{found['deployment_id'][:8]}~{found['expected_start_time'][:19]}"
    assert oracle.cancelled(book.name) == []


@pytest.mark.slow
def test_cancelled_by_a_person(rig: PrefectRig, oracle: Oracle, campaign: Make) -> None:
    """What the shards of the flow run own is cancelled; another worker of the campaign keeps its executions."""
    book = campaign("batch-cancelled", rows=8, duration=600.0)
    other = book.batch("w47", "0", in_flight=2)  # as a shard of another flow run might call itself
    other.load()
    assert other.run(at_cap="return").outcome is BatchOutcome.AT_CAP
    kept = oracle.started(book.name)
    assert len(kept) == 2
    run = book.run(campaign="w47", shards=2, in_flight=6)
    book.started(6, run)

    rig.cancel(run)

    assert rig.wait_for_end(run) == "Cancelled", rig.describe(run)
    own = set(oracle.started(book.name)) - set(kept)
    rig.wait_for(lambda: set(oracle.cancelled(book.name)) == own or None, "the cancels", 180, lambda: rig.describe(run))
    for execution in kept:
        oracle.end(execution)
    asyncio.run(other.close())


@pytest.mark.slow
def test_killed_while_it_is_cancelled(rig: PrefectRig, oracle: Oracle, campaign: Make) -> None:
    """A process that hangs is killed by the runner: the hook of the flow around the batch cancels what it has left."""
    book = campaign("batch-hangs", rows=6, duration=600.0)
    (book.folder / "customers.csv").write_text(
        "\n".join(["customer_id,first_name,born", *[f"c{number},{FIRST_NAME},1990-01-01" for number in range(6)]])
    )
    places = {"source": str(book.folder / "customers.csv"), "output": str(book.folder / "out")}
    run = rig.run_here("weekly-rescreening", {**places, "credentials": book.name, "definition": book.name})
    book.recorded(6, run)

    os.kill(process_of(run), signal.SIGSTOP)
    rig.cancel(run)

    assert rig.wait_for_end(run) == "Cancelled", rig.describe(run)
    own = set(oracle.started(book.name))
    rig.wait_for(lambda: set(oracle.cancelled(book.name)) == own or None, "six cancels", 180, lambda: rig.describe(run))


@pytest.mark.slow
def test_runner_goes_away(rig: PrefectRig, oracle: Oracle, campaign: Make) -> None:
    """SIGTERM of the runner cancels nothing; another flow run of the campaign goes on with what was started."""
    book = campaign("batch-redeployed", rows=10, duration=25.0)
    run = book.run(campaign="w47", in_flight=6)
    book.started(6, run)

    rig.stop_runner()
    rig.start_runner()

    assert oracle.cancelled(book.name) == []
    again = book.run(campaign="w47", in_flight=10)
    assert rig.wait_for_end(again) == "Completed", rig.describe(again)
    assert book.check(10) == "w47"
    assert oracle.cancelled(book.name) == []
