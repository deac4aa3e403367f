"""Requests leave when it is their turn, announced starts first; a pause is everybody's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tl_orchestration.batch import throttle
from tl_orchestration.batch.policy import Limits
from tl_orchestration.batch.shares import Shares
from tl_orchestration.batch.throttle import ThrottledWire, Turns
from tl_orchestration.credentials import OrganizationToken
from tl_orchestration.database.engine import Database
from tl_orchestration.errors import LedgerError, NoAnswer
from tl_orchestration.exchange import Request, Response
from tl_orchestration.settings import Settings
from tl_orchestration.transport import AsyncWire

POLL = Request("poll", "GET", "/workflows/e1")
START = Request("run", "POST", "/workflows", repeatable=False)


class Noting(AsyncWire):
    """Sends nothing, and notes what would have been sent, and when."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", OrganizationToken("tot_x"), Settings())
        self.sent: list[tuple[str, float]] = []
        self.answers: list[Response] = []
        self.passed = asyncio.Event()

    async def send(self, request: Request) -> Response:
        self.sent.append((request.operation, time.monotonic()))
        self.passed.set()
        return self.answers.pop() if self.answers else Response(200)

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.sent]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path}/ledger.db")
    yield found
    found.close()


def wire_of(database: Database, rate: float | None) -> tuple[ThrottledWire, Noting]:
    """A process of a quota with this rate."""
    shares = Shares(database, "service", "default", 60.0)
    shares.agree(Limits(requests_per_second=rate), None)
    noting = Noting()
    return ThrottledWire(noting, Turns(shares, rate)), noting


def queued(wire: ThrottledWire, count: int) -> list[asyncio.Task[Any]]:
    """As of other tasks."""
    loop = asyncio.get_running_loop()
    return [loop.create_task(wire.send(POLL), context=Context()) for _ in range(count)]


def test_a_start_waits_before_it_is_announced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind whatever came before it; then it goes at once, with the turn that it has waited for."""
    wire, noting = wire_of(database, 20.0)
    monkeypatch.setattr(throttle, "_KEPT", 60.0)
    asked: list[bool] = []
    mine = Turns.mine

    async def noted(turns: Turns, *, announced: bool = False) -> None:
        asked.append(announced)
        await mine(turns, announced=announced)

    monkeypatch.setattr(Turns, "mine", noted)

    async def run() -> None:
        polls = queued(wire, 20)
        await asyncio.sleep(0)
        async with wire.turn():
            await wire.send(START)
        await asyncio.gather(*polls)
        await wire.send(POLL)

    began = time.monotonic()
    asyncio.run(run())
    assert noting.operations == ["poll"] * 20 + ["run", "poll"]
    assert asked == [False] * 22
    assert noting.sent[-1][1] - began >= 21 / 20.0 - 0.05


@pytest.mark.parametrize(("rate", "wait"), [(20.0, 0.0), (20.0, 1.2)], ids=["second request", "late"])
def test_what_else_an_announced_start_has_to_send_goes_first(database: Database, rate: float, wait: float) -> None:
    """As many requests as it needs; and one whose turn has passed has another."""
    wire, noting = wire_of(database, rate)
    took = 0.0

    async def run() -> None:
        nonlocal took
        async with wire.turn():
            polls = queued(wire, 60)
            began = time.monotonic()
            await asyncio.sleep(wait)
            took = time.monotonic() - began
            await wire.send(START)
            await wire.send(START)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    asyncio.run(run())
    assert noting.operations.count("run") == 2
    assert noting.operations.count("poll") <= 2 + took * rate


def test_a_turn_is_not_kept_for_long(database: Database) -> None:
    """A start whose intent took its time to go on record keeps the distance to the others."""
    wire, noting = wire_of(database, 4.0)

    async def run() -> None:
        async with wire.turn():
            polls = queued(wire, 10)
            await asyncio.sleep(1.1)
            noting.passed.clear()
            await noting.passed.wait()
            await wire.send(START)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    asyncio.run(run())
    (_, poll_at), (_, start_at) = noting.sent[-2:]
    assert noting.operations[-1] == "run"
    assert start_at - poll_at >= 0.15


def test_a_start_that_cannot_leave_in_time_is_nobodys_fault(database: Database) -> None:
    """It says that nothing was sent, and that this client was late; its turn is the next one's."""
    wire, noting = wire_of(database, 1.0)

    async def run() -> None:
        await wire.send(POLL)
        late = evolve(START, over_by=time.time() + Settings().request_timeout + 0.2)
        with pytest.raises(NoAnswer, match="Nothing was sent") as caught:
            await wire.send(late)
        assert (caught.value.sent, caught.value.overdue) == (False, True)
        await wire.send(POLL)

    asyncio.run(run())
    assert noting.operations == ["poll", "poll"]


def test_those_that_wait_no_more_hold_nobody_up(database: Database) -> None:
    """Whether some leave or all."""
    wire, noting = wire_of(database, 1.0)

    async def run() -> None:
        await wire.send(POLL)
        for left in (1, 0):
            polls = queued(wire, 30)
            await asyncio.sleep(0.02)
            for poll in polls[left:]:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)
        async with asyncio.timeout(20):
            await wire.send(POLL)

    asyncio.run(run())
    assert len(noting.sent) == 3


def test_a_store_that_fails_fails_whoever_is_next(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody waits for ever."""
    wire, noting = wire_of(database, 10.0)

    def fail(*arguments: object) -> None:
        raise LedgerError("gone")

    async def run() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Shares, "turns", fail)
            found = await asyncio.gather(*queued(wire, 3), return_exceptions=True)
        assert {type(one) for one in found} == {LedgerError}
        await wire.send(POLL)

    asyncio.run(run())
    assert noting.operations == ["poll"]


@pytest.mark.parametrize("rate", [None, 20.0])
def test_a_pause_is_for_every_process(database: Database, rate: float | None) -> None:
    """Within a second, whether there is a rate to keep or not."""
    (told, noting), (other, others) = wire_of(database, rate), wire_of(database, rate)
    noting.answers.append(Response(429, {"retry-after": "4"}))

    async def run() -> None:
        await other.send(POLL)
        await told.send(POLL)
        while others.sent[-1][1] < noting.sent[0][1] + 3.9:
            await other.send(POLL)
            await asyncio.sleep(0.1)

    asyncio.run(run())
    refused_at = noting.sent[0][1]
    left = [at - refused_at for _, at in others.sent]
    assert not [at for at in left if 1.5 < at < 3.9]


def test_nobody_is_asked_about_pauses_with_each_request(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look of a second ago is good enough."""
    wire, noting = wire_of(database, None)
    looks: list[float] = []
    held_until = Shares.held_until

    def look(self: Shares) -> float:
        looks.append(time.monotonic())
        return held_until(self)

    monkeypatch.setattr(Shares, "held_until", look)

    async def run() -> None:
        for _ in range(100):
            await wire.send(POLL)

    began = time.monotonic()
    asyncio.run(run())
    assert len(noting.sent) == 100
    assert 1 <= len(looks) <= 1 + time.monotonic() - began


def test_what_a_pause_finds_announced_waits_for_its_end(database: Database) -> None:
    """The turn that it had is worth nothing then."""
    wire, noting = wire_of(database, None)

    async def run() -> None:
        async with wire.turn():
            await wire._turns.pause(0.5)
            began = time.monotonic()
            await wire.send(START)
            assert time.monotonic() - began >= 0.45

    asyncio.run(run())
    assert noting.operations == ["run"]
