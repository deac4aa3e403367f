"""The inbox in SQLite: once, bounded, and read without blocking a loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect

from tl_orchestration.database.tables import inbox as table
from tl_orchestration.errors import InvalidRequest
from tl_orchestration.hints import OVERLAP, Cursor, Hint
from tl_orchestration.webhooks.inbox import Arrival, Inbox

NOW = 1_800_000_000.0


class Time:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def inbox(tmp_path: Path, time: Time) -> Iterator[Inbox]:
    one = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}", now=time, monotonic=time)
    yield one
    one.close()


def arrival(execution_id: str = "e1", digest: str = "d1", at: float = NOW, kind: str = "done") -> Arrival:
    return Arrival("transactionlink", execution_id, kind, digest, at)


def ids(inbox: Inbox) -> list[str]:
    """What a reader that begins at the beginning is told."""
    return [hint.execution_id for hint in inbox.since()[0]]


def test_same_bytes_count_once_a_minute(inbox: Inbox) -> None:
    """Whether in one transaction or in several; in a later minute they may be another event."""
    inbox.put([arrival(), arrival(at=NOW + 1)])
    inbox.put([arrival(at=NOW + 2)])
    inbox.put([arrival(at=NOW + 59.9)])
    assert ids(inbox) == ["e1"]
    inbox.put([arrival(at=NOW + 60)])
    assert ids(inbox) == ["e1", "e1"]


def test_hint_has_what_was_kept(inbox: Inbox) -> None:
    """Service, kind and time come back as they were put, by every way of reading."""
    inbox.put([arrival(at=NOW + 0.25)])
    wanted = Hint(1, "transactionlink", "e1", "done", NOW + 0.25)
    assert inbox.since()[0] == inbox.for_ids(["e1"]) == inbox.latest() == [wanted]


def test_latest_first(inbox: Inbox) -> None:
    """The newest rows come first, and no more than asked for."""
    inbox.put([arrival("a", "1"), arrival("b", "2"), arrival("c", "3")])
    assert [hint.execution_id for hint in inbox.latest(2)] == ["c", "b"]


def test_late_row_is_read(inbox: Inbox, time: Time) -> None:
    """A row that appears below one that was read still comes, once, and together with what is new; not for ever."""

    def insert(number: int) -> None:
        with inbox.database.writing() as connection:
            row = {"service": "b3os", "execution_id": f"e{number}", "kind": "", "received_at": NOW, "minute": 1}
            connection.execute(table.insert().values(id=number, digest=f"d{number}", **row))

    insert(5)
    hints, cursor = inbox.since()
    assert [hint.number for hint in hints] == [5]
    insert(3)
    insert(6)
    hints, cursor = inbox.since(cursor)
    assert [hint.number for hint in hints] == [3, 6]
    assert inbox.since(cursor)[0] == []
    time.now += OVERLAP
    insert(4)
    assert inbox.since(cursor)[0] == []


def test_first_row_is_read_from_the_start(inbox: Inbox) -> None:
    """A reader that begins with an empty inbox is told of its very first row."""
    place = inbox.start()
    inbox.put([arrival()])
    assert [hint.number for hint in inbox.since(place)[0]] == [1]


def test_place_that_was_kept(inbox: Inbox) -> None:
    """A kept place is gone on from, unless the inbox is another one by now: then nothing that comes is passed over."""
    inbox.put([arrival("a", "1"), arrival("b", "2")])
    _, cursor = inbox.since()
    assert inbox.resume(cursor.to_text()) == cursor
    assert inbox.resume("1") == Cursor(1)
    assert [hint.execution_id for hint in inbox.since(inbox.resume("1000"))[0]] == ["a", "b"]
    inbox.purge(most=0)
    assert inbox.resume("1000") == Cursor()
    with pytest.raises(InvalidRequest):
        inbox.resume("-1")


def test_awaited(inbox: Inbox) -> None:
    """What can be awaited does the same."""

    async def main() -> None:
        place = await inbox.astart()
        assert await inbox.aresume("5") == place
        assert await inbox.acan_put()
        inbox.put([arrival(f"e{number}", f"d{number}", NOW - 8 * 24 * 3600.0 * number) for number in range(3)])
        hints, place = await inbox.asince(place)
        assert sorted(hint.execution_id for hint in hints) == ["e0", "e1", "e2"]
        assert (await inbox.asince(place))[0] == []
        assert [hint.execution_id for hint in await inbox.afor_ids(["e1"])] == ["e1"]
        assert await inbox.apurge() == 2

    asyncio.run(main())
    inbox.close()
    assert inbox.can_put()  # it can be used again


def test_reads_on(inbox: Inbox) -> None:
    """A reader is told each row once, also of many thousands."""
    inbox.put(arrival(f"e{number}", f"d{number}") for number in range(2500))
    seen, cursor = inbox.since()
    assert len(seen) == 1000
    while True:
        hints, cursor = inbox.since(cursor)
        if not hints:
            break
        seen += hints
    assert sorted(hint.execution_id for hint in seen) == sorted(f"e{number}" for number in range(2500))
    inbox.put([arrival("new", "new")])
    hints, _ = inbox.since(cursor)
    assert [hint.execution_id for hint in hints] == ["new"]


def test_start_looks_back_a_little(inbox: Inbox, time: Time) -> None:
    """A reader that begins now is told of the last two minutes, and of nothing before."""
    inbox.put([arrival("old", "1", NOW - 1000), arrival("late", "2", NOW - 60)])
    hints, _ = inbox.since(inbox.start())
    assert [hint.execution_id for hint in hints] == ["late"]


def test_for_ids(inbox: Inbox) -> None:
    """Who waits for certain executions is told of these alone, however many they are."""
    inbox.put(arrival(f"e{number}", f"d{number}") for number in range(10))
    wanted = [f"e{number}" for number in range(5, 2000)]
    assert sorted(hint.execution_id for hint in inbox.for_ids(wanted)) == [f"e{number}" for number in range(5, 10)]
    assert [hint.execution_id for hint in inbox.for_ids(["x"] * 700 + ["e7"])] == ["e7"]
    assert inbox.for_ids([]) == []


def test_purge_by_age_and_number(inbox: Inbox, time: Time) -> None:
    """Old rows are forgotten, and the oldest beyond a number; the numbers of rows go on growing."""
    inbox.put(arrival(f"e{number}", f"d{number}", NOW - 100 + number) for number in range(10))
    assert inbox.purge(older_than=95.5) == 5
    assert inbox.purge(older_than=1000, most=2) == 3
    assert ids(inbox) == ["e8", "e9"]
    assert inbox.purge(older_than=1000, most=0) == 2
    inbox.put([arrival("new", "new")])
    assert inbox.since()[0][0].number > 10


def test_nothing_else_is_kept(inbox: Inbox) -> None:
    """The table has columns for id, kind, time, digest and service, and none for anything else."""
    assert {column.name for column in table.columns} == {
        "id",
        "service",
        "execution_id",
        "kind",
        "received_at",
        "digest",
        "minute",
    }
    inbox.put([arrival()])
    with inbox.database.reading() as connection:
        found = {column["name"] for column in inspect(connection).get_columns("tl_inbox")}
    assert found == {column.name for column in table.columns}


def test_never_blocks_a_loop(inbox: Inbox) -> None:
    """A read runs in a thread of its own."""
    used: list[str] = []
    read = inbox.since

    def since(*arguments: object) -> object:
        used.append(threading.current_thread().name)
        return read(*arguments)  # type: ignore[arg-type]

    inbox.since = since  # type: ignore[assignment,method-assign]
    asyncio.run(inbox.asince(None))
    assert used[0].startswith("tl-inbox")


def test_survives_a_fork(inbox: Inbox) -> None:
    """A process that was forked after a read reads as well, instead of waiting for threads that it does not have."""
    inbox.put([arrival()])

    async def busy() -> None:
        await asyncio.gather(*(inbox.asince(None) for _ in range(10)))  # all threads that there may be

    asyncio.run(busy())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            hints, _ = asyncio.run(asyncio.wait_for(inbox.asince(None), 60))
            code = 0 if len(hints) == 1 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
