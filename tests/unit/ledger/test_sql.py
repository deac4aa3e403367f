"""The SQL ledger over a SQLite file: the laws of every ledger, and what is its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from tests.builders import NOW, event
from tl_orchestration.database.engine import Database
from tl_orchestration.errors import InvalidRequest, InvalidSettings, KeyPurged, LedgerError
from tl_orchestration.ledger import Entry, Ledger, SqlLedger, State
from tl_orchestration.ledger.conformance import LedgerConformance
from tl_orchestration.ledger.entry import fold
from tl_orchestration.ledger.key import LONGEST_KEY
from tl_orchestration.ledger.records import Records

PASSWORD = "PLANTED-5f0c"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def ledger(url: str) -> SqlLedger:
    return SqlLedger(url, "here")


class TestSqliteLedger(LedgerConformance):
    """The suite that ships, with another connection as the other process."""

    @pytest.fixture(autouse=True)
    def _file(self, url: str) -> None:
        self.url = url

    def ledger(self) -> Ledger:
        return SqlLedger(self.url)

    def another(self, ledger: Ledger) -> Ledger:
        return SqlLedger(self.url)


class TestSqliteLedgerOverAnEngine(LedgerConformance):
    """The suite again, over an engine that the caller has made."""

    @pytest.fixture(autouse=True)
    def _engine(self, url: str) -> Iterator[None]:
        self.engine = create_engine(url)
        yield
        self.engine.dispose()

    def ledger(self) -> Ledger:
        return SqlLedger(self.engine)


def started(ledger: SqlLedger, key: str = "k", *, execution_id: str = "e-1", **fields: Any) -> Entry:
    """A key whose execution has started."""
    ledger.claim(key, event(State.INTENT, generation="0", **fields), None)
    return ledger.append(key, event(State.STARTED, execution_id=execution_id, **fields))


class TestWriting:
    def test_lost_claim_says_so(self, ledger: SqlLedger) -> None:
        """Whoever is too late is told that it was somebody else, not that the database failed; it leaves no trace."""
        ledger.claim("k", event(State.INTENT), None)
        first = ledger.append("k", event(State.REJECTED))
        ledger.claim("k", event(State.INTENT), first)
        for after in (None, first):
            with pytest.raises(LedgerError, match="Another caller has claimed"):
                ledger.claim("k", event(State.INTENT), after)
        assert len(lines(ledger)) == 3

    def test_append_that_was_overtaken_is_folded_anew(self, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
        """An append whose entry changes under it keeps both writes."""
        started(ledger)
        other = SqlLedger(ledger.database, "here")
        overtaken: list[Entry] = []
        original = SqlLedger.read

        def read(self: SqlLedger, key: str) -> Entry | None:
            found = original(self, key)
            if self is ledger and not overtaken:
                overtaken.append(other.append(key, event(State.LINK_DELIVERED)))
            return found

        monkeypatch.setattr(SqlLedger, "read", read)
        entry = ledger.append("k", event(State.CANCEL_REQUESTED))
        assert (entry.version, entry.link_delivered, entry.cancel_requested) == (4, True, True)
        assert [line.version for line in lines(ledger)] == [1, 2, 3, 4]

    def test_appends_of_many_threads_are_all_kept(self, ledger: SqlLedger) -> None:
        """However many write to one entry at once, each write counts once."""
        started(ledger)
        threads = [
            threading.Thread(target=lambda: [ledger.append("k", event(State.CANCEL_REQUESTED)) for _ in range(10)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entry = ledger.read("k")
        assert entry is not None
        assert 42 == entry.version == len(lines(ledger))

    def test_trail_tells_every_write(self, ledger: SqlLedger) -> None:
        """Each write leaves time, state, execution, actor, action, reason and version."""
        started(ledger)
        ledger.append("k", event(State.CANCEL_REQUESTED, at=NOW + 5, reason="its deadline has passed"))
        said = [
            (line.version, line.state, line.action, line.execution_id, line.time, line.reason) for line in lines(ledger)
        ]
        assert said == [
            (1, State.INTENT, "claim", None, NOW, None),
            (2, State.STARTED, "record", "e-1", NOW, None),
            (3, State.CANCEL_REQUESTED, "record", None, NOW + 5, "its deadline has passed"),
        ]
        assert {line.actor for line in lines(ledger)} == {f"process {os.getpid()} on {os.uname().nodename}"}

    def test_entry_and_trail_are_written_together(self, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the trail cannot be written, neither is the entry."""
        before = started(ledger)

        def fails(*arguments: Any) -> None:
            raise RuntimeError("no room")

        monkeypatch.setattr("tl_orchestration.ledger.sql.note", fails)
        with pytest.raises(RuntimeError):
            ledger.append("k", event(State.SETTLED))
        with pytest.raises(RuntimeError):
            ledger.claim("other", event(State.INTENT), None)
        assert (before, None) == (ledger.read("k"), ledger.read("other"))

    @pytest.mark.parametrize("key", ["", "a\nb", "a\x00b", "\ud800", "ü" * LONGEST_KEY])
    def test_key_that_no_database_takes_is_refused(self, ledger: SqlLedger, key: str) -> None:
        """A key is printable and bounded; nothing is sent for any other."""
        with pytest.raises(InvalidRequest, match="key is printable text"):
            ledger.read(key)
        with pytest.raises(InvalidRequest, match="key is printable text"):
            ledger.claim(key, event(State.INTENT), None)

    def test_longest_key_is_kept_whole(self, ledger: SqlLedger) -> None:
        """The bound itself is a key, and another key than one that differs in its last character."""
        key = "k" * (LONGEST_KEY - 1)
        started(ledger, key + "a")
        assert ledger.read(key + "b") is None
        assert ledger.read(key + "a") is not None


class TestNamespaces:
    def test_same_key_elsewhere_is_another_step(self, ledger: SqlLedger) -> None:
        """A key means one step in each namespace."""
        started(ledger)
        there = SqlLedger(ledger.database, "there")
        assert there.read("k") is None
        started(there, execution_id="e-2")
        assert [found.execution_id for one in (ledger, there) if (found := one.read("k"))] == ["e-1", "e-2"]
        there.append("k", event(State.SETTLED))
        assert State.STARTED is getattr(ledger.read("k"), "state", None)
        assert (len(lines(ledger)), len(lines(there))) == (2, 3)

    def test_binding_shares_the_database(self, url: str) -> None:
        """A client's view uses the same connections and writes in its namespace; a bound ledger keeps its own."""
        free = SqlLedger(url)
        bound = free.for_namespace("client")
        assert free.database is bound.database
        assert (bound.namespace, free.namespace, bound.for_namespace("other").namespace) == ("client", "", "client")


def lines(ledger: SqlLedger, key: str = "k") -> list[Any]:
    """The trail of a key."""
    records = Records(ledger.database)
    return [line for record in records.find(key, ledger.namespace) for line in records.trail(record)]


class TestTombstone:
    def test_purged_key_starts_nothing(self, ledger: SqlLedger) -> None:
        """What was purged is forgotten but for its key, which no generation can claim again."""
        started(ledger)
        ended = ledger.append("k", event(State.SETTLED, raw_status="DONE", status="FAILED"))
        assert Records(ledger.database).purge(unchanged_since=NOW + 1, actor="jo", now=NOW + 9) == 1
        grave = ledger.read("k")
        assert Entry(version=ended.version + 1, state=State.PURGED, changed_at=NOW + 9) == grave
        for generation in ("0", "1"):
            for after in (grave, ended, None):
                with pytest.raises(LedgerError):
                    ledger.claim("k", event(State.INTENT, generation=generation), after)
            with pytest.raises(KeyPurged, match=r"purged from the ledger on 2026-09-21.* Use a new key"):
                ledger.claim("k", event(State.INTENT, generation=generation), grave)
        with pytest.raises(KeyPurged):
            ledger.append("k", event(State.STARTED, execution_id="e-2"))
        assert grave == ledger.read("k")


class TestFailures:
    def test_file_that_cannot_be_opened(self, tmp_path: Path) -> None:
        """A path where no file can be is a ledger error that names it."""
        with pytest.raises(LedgerError, match="unable to open database file") as caught:
            SqlLedger(f"sqlite:///{tmp_path}/missing/ledger.db").read("k")
        assert caught.value.retryable
        assert caught.value.__cause__ is None

    def test_file_that_is_no_database(self, tmp_path: Path) -> None:
        """Something else at that path is a ledger error, and left as it is."""
        path = tmp_path / "ledger.db"
        path.write_bytes(b"these are not the bytes of a database" * 100)
        with pytest.raises(LedgerError, match="not a database"):
            SqlLedger(f"sqlite:///{path}").claim("k", event(State.INTENT), None)
        assert path.read_bytes().startswith(b"these are not")

    def test_file_that_another_process_does_not_give_free(self, url: str, ledger: SqlLedger) -> None:
        """A lock that lasts longer than the patience is a ledger error; what was written stays."""
        before = started(ledger)
        impatient = SqlLedger(create_engine(url, connect_args={"timeout": 0.05}), "here")
        with sqlite3.connect(url.removeprefix("sqlite:///")) as other:
            other.execute("BEGIN IMMEDIATE")
            assert before == impatient.read("k")
            with pytest.raises(LedgerError, match="database is locked"):
                impatient.append("k", event(State.SETTLED))
            other.rollback()
        other.close()
        impatient.close()
        assert before == ledger.read("k")

    @pytest.mark.parametrize(
        "document", ["7", '"x"', "{", "null", '{"format": 9}', '{"format": 1, "state": "STARTED"}']
    )
    def test_document_that_is_none(self, ledger: SqlLedger, document: str) -> None:
        """An entry that cannot be read is never taken for an absent one."""
        started(ledger)
        with sqlite3.connect(ledger.database.address.removeprefix("sqlite:///")) as other:
            other.execute("UPDATE tl_ledger_entries SET document = ?", (document,))
        other.close()
        with pytest.raises(LedgerError):
            ledger.read("k")
        with pytest.raises(LedgerError):
            ledger.claim("k", event(State.INTENT), None)

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("", "not a URL"),
            ("ledger.db", "not a URL"),
            (f"postgresql+psycopg://jo:{PASSWORD}@host:port/db", "not a URL"),
            (f"mysql://jo:{PASSWORD}@host/db", "names mysql"),
            (f"postgresql+asyncpg://jo:{PASSWORD}@host/db", "names postgresql.asyncpg"),
            ("sqlite://", "must name a file"),
            ("sqlite:///:memory:", "must name a file"),
            ("sqlite:///file:x?mode=memory&uri=true", "must name a file"),
        ],
    )
    def test_url_that_cannot_be_used(self, given: str, says: str) -> None:
        """What is no usable URL is found when the ledger is made, and not quoted."""
        with pytest.raises(InvalidSettings, match=says) as caught:
            SqlLedger(given)
        assert PASSWORD not in f"{caught.value!r} {caught.value.__cause__!r}"

    def test_password_is_nowhere(self, caplog: pytest.LogCaptureFixture) -> None:
        """No representation, error or log record shows the password, be it in the login or in an option."""
        caplog.set_level("DEBUG")
        for given in (
            f"postgresql://jo:{PASSWORD}@127.0.0.1:1/db",
            f"postgresql+psycopg://jo@127.0.0.1:1/db?password={PASSWORD}&sslmode=disable",
        ):
            ledger = SqlLedger(make_url(given), "here")
            with pytest.raises(LedgerError, match=r"postgresql.psycopg://jo@127.0.0.1:1/db cannot be used") as caught:
                ledger.read("k")
            seen = [repr(ledger), str(ledger), repr(ledger.database), ledger.database.address, repr(vars(ledger))]
            seen += [repr(caught.value), str(vars(caught.value)), str(pickle.dumps(caught.value)), caplog.text]
            error: BaseException | None = caught.value
            while error is not None:
                seen.append(str(error))
                error = error.__cause__
            assert [text for text in seen if PASSWORD in text] == []

    def test_other_engines_are_refused(self) -> None:
        """A ledger over an engine that it was never tried with would be a guess."""
        engine = create_engine("sqlite:///x.db")
        engine.dialect.name = "mssql"
        with pytest.raises(InvalidSettings, match="SQLite or PostgreSQL"):
            SqlLedger(engine)


class TestProcesses:
    def test_nothing_is_opened_by_making_one(self, tmp_path: Path) -> None:
        """A ledger in a module that is only parsed makes no file and asks for none."""
        SqlLedger(f"sqlite:///{tmp_path}/missing/ledger.db")
        SqlLedger("postgresql+psycopg://jo@192.0.2.1/db")
        assert list(tmp_path.iterdir()) == []

    def test_processes_make_one_file_together(self, url: str) -> None:
        """However many processes open a new file at once, each finds the tables, and all writes are there."""
        context = multiprocessing.get_context("spawn")
        children = [context.Process(target=claim_in_a_process, args=(url, f"k-{n}")) for n in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * 4
        assert len(Records(Database(url)).matching()) == 4

    def test_forked_child_opens_its_own_connections(self, ledger: SqlLedger) -> None:
        """After a fork both sides go on, also if the fork came while another thread held the lock."""
        started(ledger)
        ledger.database._lock.acquire()
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # a child that waits for its parent's lock waits for ever
            try:
                ledger.database._fits = False
                os._exit(0 if ledger.append("k", event(State.LINK_DELIVERED)).version == 3 else 1)
            except BaseException:
                os._exit(2)
        ledger.database._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ledger.append("k", event(State.SETTLED)).version == 4

    def test_ledger_package_needs_no_database(self) -> None:
        """Importing the ledgers loads no SQL; asking for the SQL ledger without the extra names it."""
        program = (
            "import sys\n"
            "import tl_orchestration.ledger as ledger\n"
            "assert 'sqlalchemy' not in sys.modules and 'alembic' not in sys.modules\n"
            "assert 'SqlLedger' in ledger.__all__\n"
            "sys.modules['sqlalchemy'] = None\n"
            "try:\n"
            "    from tl_orchestration.ledger import SqlLedger\n"
            "except ImportError as error:\n"
            "    print(error)\n"
            "try:\n"
            "    ledger.RedisLedger\n"
            "except AttributeError as error:\n"
            "    print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        assert done.stdout.splitlines() == [
            "SqlLedger needs an extra: pip install 'tl-orchestration[sql]'",
            "module 'tl_orchestration.ledger' has no attribute 'RedisLedger'",
        ]


def claim_in_a_process(url: str, key: str) -> None:
    ledger = SqlLedger(url)
    assert fold(None, event(State.INTENT)) == ledger.claim(key, event(State.INTENT), None)
