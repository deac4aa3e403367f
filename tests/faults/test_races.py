"""Two processes race for one key: the service starts exactly one execution, and both end with it."""

from __future__ import annotations

import multiprocessing
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from tests.builders import event
from tests.remote import TOKEN, Remote
from tl_orchestration import Client, Execution, OrganizationToken, RunRequest, claim
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import Entry, Event, MemoryLedger, SqlLedger, State

RACES = 1000 if os.environ.get("SOAK") else 100
#: The winner and the loser of each race.
PAIR = 2
#: Seconds that the one waits for the other: a busy machine may stop either for a while.
PATIENCE = 120.0


class AtOnce:
    """
    A ledger whose claims wait for each other: every one of them has found the key free.
    """

    fenced = False

    def __init__(self, ledger: SqlLedger, gate: Barrier) -> None:
        self._ledger = ledger
        self._gate = gate
        self._waits = True
        self.lost = 0

    def read(self, key: str) -> Entry | None:
        return self._ledger.read(key)

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        if self._waits:
            self._waits = False
            self._gate.wait(PATIENCE)
        try:
            return self._ledger.claim(key, intent, after)
        except LedgerError:
            self.lost += 1
            raise

    def append(self, key: str, event: Event) -> Entry:
        return self._ledger.append(key, event)


def race(ledger_url: str, service_url: str, namespace: str, gate: Barrier, orders: Connection) -> None:
    """
    A process that runs each key that it is given, until it is given none.
    """
    claim.PATIENCE = PATIENCE
    ledger = SqlLedger(ledger_url, namespace)
    while (key := orders.recv()) is not None:
        at_once = AtOnce(ledger, gate)
        with Client(OrganizationToken(TOKEN), service_url, ledger=at_once) as client:
            try:
                execution = client.run(RunRequest("kyc-slow", {"race": key}), key)
                orders.send((execution.id, execution.reattached, at_once.lost))
            except Exception as error:
                orders.send((repr(error), None, at_once.lost))
    ledger.close()


@contextmanager
def racers(ledger_url: str, service_url: str, namespace: str) -> Iterator[list[Connection]]:
    """
    Two such processes, which live for all races.
    """
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(PAIR)
    ours: list[Connection] = []
    processes = []
    for _ in range(PAIR):
        here, there = context.Pipe()
        processes.append(context.Process(target=race, args=(ledger_url, service_url, namespace, gate, there)))
        processes[-1].start()
        there.close()
        ours.append(here)
    try:
        yield ours
    finally:
        for connection in ours:
            connection.send(None)
        for process in processes:
            process.join(20)
            process.kill()
            process.join()
            process.close()
        for connection in ours:
            connection.close()


def raced(remote: Remote, ledger_url: str, races: int) -> None:
    """
    Run the races, every other one for a key whose first start was refused, and ask the service what it has started.
    """
    namespace = uuid.uuid4().hex
    ledger = SqlLedger(ledger_url, namespace)
    outcomes: dict[str, list[tuple[Any, ...]]] = {}
    with racers(ledger_url, remote.url, namespace) as processes:
        for number in range(races):
            key = f"race-{number}"
            if number % 2:
                ledger.claim(key, event(State.INTENT), None)
                ledger.append(key, event(State.REJECTED))
            for process in processes:
                process.send(key)
            outcomes[key] = [process.recv() for process in processes]
    for key, both in outcomes.items():
        (winner, loser) = sorted(both, key=lambda outcome: bool(outcome[1]))
        assert (winner[1:], loser[1:]) == ((False, 0), (True, 1)), f"{key}: {both}"
        entry = ledger.read(key)
        assert entry is not None
        assert (entry.state, entry.execution_id) == (State.STARTED, winner[0]) == (State.STARTED, loser[0])
    ledger.close()
    starts = Counter(start["parameters"]["race"] for start in remote.starts())
    assert starts == dict.fromkeys(outcomes, 1)


@pytest.mark.timeout(600)
def test_processes_on_postgresql(remote: Remote, postgres_url: str) -> None:
    """On PostgreSQL exactly one of two processes starts, in each of many races; the other ends with its execution."""
    raced(remote, postgres_url, RACES)


@pytest.mark.timeout(600)
def test_processes_on_one_file(remote: Remote, tmp_path: Path) -> None:
    """The same between two processes of one host on a SQLite file."""
    raced(remote, f"sqlite:///{tmp_path}/ledger.db", RACES // 5)


def test_threads_of_one_process(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory ledger does the same for the threads of its process."""
    monkeypatch.setattr(claim, "PATIENCE", PATIENCE)
    ledger = MemoryLedger()
    outcomes: list[Execution] = []
    with Client(OrganizationToken(TOKEN), remote.url, ledger=ledger) as client:
        threads = [
            threading.Thread(target=lambda: outcomes.append(client.run(RunRequest("kyc-slow"), "k"))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (start,) = remote.starts()
    assert [execution.id for execution in outcomes] == [start["execution_id"]] * 8
    assert sorted(execution.reattached for execution in outcomes) == [False] + [True] * 7
