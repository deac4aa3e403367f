"""A SQL ledger as a whole: found, listed, told in order, and forgotten without being reusable."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import NOW, event
from tl_orchestration.errors import KeyPurged
from tl_orchestration.ledger import SqlLedger, State
from tl_orchestration.ledger import records as records_module
from tl_orchestration.ledger.records import PURGEABLE, Records

WAYS: dict[State, list[State]] = {
    State.INTENT: [],
    State.UNKNOWN: [State.UNKNOWN],
    State.REJECTED: [State.REJECTED],
    State.STARTED: [State.STARTED],
    State.LINK_DELIVERED: [State.STARTED, State.LINK_DELIVERED],
    State.CANCEL_REQUESTED: [State.STARTED, State.CANCEL_REQUESTED],
    State.SETTLED: [State.STARTED, State.SETTLED],
    State.PURGED: [State.REJECTED, State.PURGED],
}


@pytest.fixture
def ledger(tmp_path: Path) -> SqlLedger:
    return SqlLedger(f"sqlite:///{tmp_path}/ledger.db", "here")


@pytest.fixture
def records(ledger: SqlLedger) -> Records:
    return Records(ledger.database)


def wrote(ledger: SqlLedger, key: str, state: State, at: float = NOW) -> None:
    """An entry in that state, last changed then."""
    ledger.claim(key, event(State.INTENT, at=at), None)
    for step in WAYS[state]:
        ledger.append(key, event(step, at=at, execution_id=None if step is State.REJECTED else "e-1"))


def keys(records: Records, **narrowed: object) -> list[str]:
    return [record.key for record in records.matching(**narrowed)]  # type: ignore[arg-type]  # names as they are


class TestMatching:
    def test_longest_unchanged_come_first(self, ledger: SqlLedger, records: Records) -> None:
        """Entries come in the order in which they were last written, as many as wanted."""
        for age, key in enumerate(["new", "old", "older"]):
            wrote(ledger, key, State.STARTED, NOW - age)
        assert keys(records) == ["older", "old", "new"]
        assert keys(records, limit=2) == ["older", "old"]
        assert keys(records, unchanged_since=NOW) == ["older", "old"]

    @pytest.mark.parametrize("state", State)
    def test_by_state(self, ledger: SqlLedger, records: Records, state: State) -> None:
        """Each state can be asked for, alone and with others."""
        for each in State:
            wrote(ledger, each.value, each)
        assert keys(records, states=[state]) == [state.value]
        assert keys(records, states={state, State.UNKNOWN}) == sorted({state.value, "UNKNOWN"})

    def test_by_namespace(self, ledger: SqlLedger, records: Records) -> None:
        """One service's entries can be told from all others', also where the key is the same."""
        wrote(ledger, "k", State.STARTED)
        wrote(SqlLedger(ledger.database, "there"), "k", State.UNKNOWN)
        assert [(one.namespace, one.entry.state) for one in records.find("k")] == [
            ("here", State.STARTED),
            ("there", State.UNKNOWN),
        ]
        assert [one.entry.state for one in records.find("k", "there")] == [State.UNKNOWN]
        assert (keys(records, namespace="nowhere"), records.find("other")) == ([], [])


class TestPurge:
    def test_only_what_is_over_is_forgotten(self, ledger: SqlLedger, records: Records) -> None:
        """Of an open or undecided step nothing is forgotten, however old."""
        for state in State:
            wrote(ledger, state.value, state)
        before = {record.key: record.entry for record in records.matching()}
        assert records.purge(unchanged_since=NOW + 1, actor="jo", now=NOW + 9) == len(PURGEABLE)
        for record in records.matching():
            if State(record.key) in PURGEABLE:
                assert record.entry.state is State.PURGED
                assert record.entry.execution_id is None
            else:
                assert record.entry == before[record.key]

    def test_what_is_young_stays(self, ledger: SqlLedger, records: Records) -> None:
        """Only what was last written before the given time is forgotten, and of one key only that."""
        for age in range(3):
            wrote(ledger, f"k-{age}", State.SETTLED, NOW - age)
        assert records.purge(unchanged_since=NOW, actor="jo", now=NOW, key="k-0") == 0
        assert records.purge(unchanged_since=NOW, actor="jo", now=NOW, key="k-1") == 1
        assert records.purge(unchanged_since=NOW, actor="jo", now=NOW, namespace="there") == 0
        assert records.purge(unchanged_since=NOW, actor="jo", now=NOW) == 1
        assert keys(records, states=[State.SETTLED]) == ["k-0"]

    def test_more_than_one_portion(self, ledger: SqlLedger, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
        """Any number is purged, portion by portion."""
        monkeypatch.setattr(records_module, "_PORTION", 3)
        for number in range(10):
            wrote(ledger, f"k-{number}", State.REJECTED)
        assert records.purge(unchanged_since=NOW + 1, actor="jo", now=NOW) == 10

    def test_trail_of_the_forgotten_says_that_it_was(self, ledger: SqlLedger, records: Records) -> None:
        """Of the trail nothing is left but who purged it, and when."""
        wrote(ledger, "k", State.SETTLED)
        wrote(ledger, "other", State.STARTED)
        records.purge(unchanged_since=NOW + 1, actor="jo", now=NOW + 9)
        trails = {record.key: records.trail(record) for record in records.matching()}
        ((line,), kept) = trails["k"], trails["other"]
        assert (line.action, line.actor, line.time, line.version) == ("purge", "jo", NOW + 9, 4)
        assert (line.execution_id, line.reason) == (None, None)
        assert len(kept) == 2

    def test_nothing_of_it_is_left_in_the_file(self, ledger: SqlLedger, records: Records) -> None:
        """No column of a tombstone tells what was started."""
        wrote(ledger, "k", State.SETTLED)
        records.purge(unchanged_since=NOW + 1, actor="jo", now=NOW + 9)
        with ledger.database.reading() as connection:
            for table in ("tl_ledger_entries", "tl_ledger_trail"):
                assert "e-1" not in repr(connection.exec_driver_sql(f"SELECT * FROM {table}").all())  # noqa: S608 -- two names

    def test_entry_that_moves_on_is_not_purged(self, ledger: SqlLedger, records: Records) -> None:
        """An entry that is claimed while a purge is at it is left to its claimer."""
        wrote(ledger, "k", State.REJECTED)
        (stale,) = records.find("k")
        claimed = ledger.claim("k", event(State.INTENT), stale.entry)
        with ledger.database.writing() as connection:
            assert not records_module.bury(connection, stale, event(State.PURGED, actor="jo"))
        assert ledger.read("k") == claimed
        assert len(records.trail(stale)) == 3

    def test_purged_key_is_used_up(self, ledger: SqlLedger, records: Records) -> None:
        """After a purge the key still starts nothing."""
        wrote(ledger, "k", State.REJECTED)
        records.purge(unchanged_since=NOW + 1, actor="jo", now=NOW)
        with pytest.raises(KeyPurged):
            ledger.claim("k", event(State.INTENT), ledger.read("k"))
