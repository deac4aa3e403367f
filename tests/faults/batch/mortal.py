"""
Batches in processes of their own, which can be killed at any commit point.

The points are not in the product: they are the moments before and after each commit of its transactions, and before and
after each file that it writes or removes, seen from outside. A run that is let live tells the points that it passed; a
later one dies at one.

As a program, this reads one order a line and carries each out in a fork of itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import asdict, frozen
from sqlalchemy import Connection, Engine, event

from tests.faults.forks import Killed, Mother, in_a_fork, mother, serve
from tests.remote import TOKEN
from tl_orchestration import AsyncClient, OrganizationToken, Pacing
from tl_orchestration.batch import Batch, Book, Columns, Policy, following, source, thrift
from tl_orchestration.batch.places import Place
from tl_orchestration.database.engine import Database
from tl_orchestration.exchange import Clock
from tl_orchestration.ledger import SqlLedger
from tl_orchestration.settings import tls_context


@frozen(kw_only=True)
class Order:
    """
    One run: load, then work, or start and watch and work.

    Args:
        store: URL of the store.
        service: URL of the sandbox.
        folder: With ``in.jsonl``, and for the output.
        campaign: Its name.
        definition: What it runs.
        later: How much later than now the run believes it is, seconds.
        dies_at: Name and occurrence, from 1, of the point at which it is killed; None: it lives.
        in_turns: Whether it returns at the in-flight limit, and watches in between.
    """

    store: str
    service: str
    folder: str
    campaign: str
    definition: str
    later: float = 0.0
    dies_at: tuple[str, int] | None = None
    in_turns: bool = False


class Points:
    """
    Counts what is passed, and dies where it is told to.
    """

    def __init__(self, dies_at: tuple[str, int] | None) -> None:
        self._dies_at = None if dies_at is None else (str(dies_at[0]), int(dies_at[1]))
        self._lock = threading.Lock()
        self.names: Counter[str] = Counter()

    def passing(self, name: str) -> None:
        """Die here, if this is the point."""
        with self._lock:
            self.names[name] += 1
            if (name, self.names[name]) == self._dies_at:
                os.kill(os.getpid(), signal.SIGKILL)


def carry_out(order: Order) -> dict[str, Any]:
    """
    One run in this process; returns its summary and the points that it passed.
    """
    ledger = SqlLedger(order.store)
    ledger.read("nothing")  # that the tables fit is no part of the protocol
    points = Points(order.dies_at)
    watch(points)
    # Every row is polled at once and often, so that a run is short.
    thrift.SCOUT_EVERY = 1
    for module in (thrift, following):
        vars(module)["SCOUTING"] = Pacing.every(0.05)
    clock = Clock(now=lambda: time.time() + order.later, monotonic=time.monotonic)
    client = AsyncClient(OrganizationToken(TOKEN), order.service, ledger=ledger, clock=clock)
    book = Book(
        workflow_definition_id=order.definition,
        source=source(f"{order.folder}/in.jsonl"),
        columns=Columns(key="id", parameters={"firstName": "first"}),
    )
    batch = Batch(
        client,
        order.campaign,
        book,
        output=f"{order.folder}/out",
        policy=Policy(starts_at_once=1, part_rows=2, part_seconds=0.3),
        worker="mortal",
    )
    batch.load()
    if order.in_turns:
        import asyncio

        batch.run(at_cap="return")

        async def watching() -> None:
            async with AsyncClient(OrganizationToken(TOKEN), order.service, ledger=ledger, clock=clock) as other:
                await Batch(other, order.campaign, worker="mortal").watch()

        asyncio.run(watching())
    summary = batch.run()
    return {"counts": {state.value: count for state, count in summary.counts.items()}, "points": points.names}


def watch(points: Points) -> None:
    """
    Pass the points of everything that this process does from now on.
    """

    def statement(connection: Connection, cursor: Any, text: str, *rest: Any) -> None:
        words = text.replace('"', "").split()
        tables = [word for word in words if word.startswith("tl_") and "." not in word]
        if words[0] != "SELECT" and tables:
            connection.info.setdefault("done", []).append(f"{words[0]} {tables[0]}")

    def name_of(connection: Connection) -> str:
        return ", ".join(sorted(set(connection.info.get("done", ()))))

    def commit(connection: Connection) -> None:
        if name := name_of(connection):
            points.passing(f"before COMMIT of {name}")

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", commit)
    writing, write, remove = Database.writing, Place.write, Place.remove

    @contextlib.contextmanager
    def watched(self: Database) -> Iterator[Connection]:
        name = ""
        with writing(self) as connection:
            connection.info["done"] = []
            yield connection
            name = name_of(connection)
        if name:
            points.passing(f"after COMMIT of {name}")

    def written(self: Place, content: bytes) -> None:
        kind = Path(self.path).name.partition("-")[0]
        points.passing(f"before the file {kind}")
        write(self, content)
        points.passing(f"after the file {kind}")

    def removed(self: Place) -> None:
        points.passing("before a file is removed")
        remove(self)
        points.passing("after a file is removed")

    Database.writing = watched  # type: ignore[method-assign]
    Place.write = written  # type: ignore[method-assign]
    Place.remove = removed  # type: ignore[method-assign]


class Nursery:
    """
    The program below, from the side of a test.
    """

    def __init__(self, mother: Mother) -> None:
        self._mother = mother

    def run(self, order: Order) -> dict[str, Any] | None:
        """
        Carry out a run in a process of its own. None: it was killed.
        """
        told: dict[str, Any] | None = self._mother.ask(asdict(order))
        return told


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    """
    A process that makes runs.
    """
    with mother("tests.faults.batch.mortal") as process:
        yield Nursery(process)


def _answer(order: dict[str, Any]) -> Any:
    try:
        return in_a_fork(lambda: carry_out(Order(**order))) or {"counts": {"CRASHED": 1}, "points": {}}
    except Killed:
        return None


if __name__ == "__main__":
    tls_context(None, None)  # what would cost every fork the same again
    serve(_answer)
