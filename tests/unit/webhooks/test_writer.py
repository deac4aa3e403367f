"""The writer: what is acknowledged is durable, and a failure reaches everybody who waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from tl_orchestration.errors import LedgerError
from tl_orchestration.webhooks import writer as module
from tl_orchestration.webhooks.inbox import Arrival, Inbox
from tl_orchestration.webhooks.writer import Writer


def arrival(number: int) -> Arrival:
    return Arrival("transactionlink", f"e{number}", "done", f"d{number}", 1_800_000_000.0)


class Held(Inbox):
    """An inbox whose commits wait until they are let go, and may fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}")
        self.let_go = threading.Event()
        self.sizes: list[int] = []
        self.failure: Exception | None = None

    def put(self, arrivals: Iterable[Arrival]) -> None:
        """As an inbox's."""
        given = list(arrivals)
        self.let_go.wait(10)
        self.sizes.append(len(given))
        if self.failure is not None:
            raise self.failure
        super().put(given)


def test_shares_commits(tmp_path: Path) -> None:
    """What arrives during a commit is committed together, and nobody is told before."""
    inbox = Held(tmp_path / "inbox.db")
    writer = Writer(inbox)
    futures = [writer.submit(arrival(number)) for number in range(100)]
    assert not any(future.done() for future in futures)
    inbox.let_go.set()
    for future in futures:
        future.result(10)
    assert len(inbox.sizes) <= 3
    assert len(inbox.since()[0]) == 100
    writer.close()
    inbox.close()


@pytest.mark.parametrize("failure", [LedgerError("The database is down."), RuntimeError("a bug")])
def test_failure_reaches_everybody(tmp_path: Path, failure: Exception) -> None:
    """Nobody is told that it is durable when it is not, and the writer goes on afterwards."""
    inbox = Held(tmp_path / "inbox.db")
    inbox.failure = failure
    writer = Writer(inbox)
    futures = [writer.submit(arrival(number)) for number in range(10)]
    inbox.let_go.set()
    assert all(isinstance(future.exception(10), LedgerError) for future in futures)
    inbox.failure = None
    writer.submit(arrival(1)).result(10)
    writer.close()
    inbox.close()


def test_backlog_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many that wait are refused at once; closing commits those that were taken."""
    monkeypatch.setattr(module, "BACKLOG", 5)
    inbox = Held(tmp_path / "inbox.db")
    writer = Writer(inbox)
    taken = []
    refused = 0
    for number in range(20):
        try:
            taken.append(writer.submit(arrival(number)))
        except queue.Full:
            refused += 1
    assert refused >= 14
    inbox.let_go.set()
    writer.close()
    assert all(future.exception(0) is None for future in taken)
    assert len(inbox.since()[0]) == len(taken)
    inbox.close()
