"""The SQL ledger over PostgreSQL: the laws of every ledger, rights, schema, and connections that come and go."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.builders import NOW, event
from tests.postgres import Postgres
from tl_orchestration.database.engine import Database
from tl_orchestration.errors import InvalidSettings, KeyPurged, LedgerError
from tl_orchestration.ledger import Ledger, SqlLedger, State
from tl_orchestration.ledger.conformance import LedgerConformance
from tl_orchestration.ledger.records import Records

PASSWORD = "PLANTED-77ab"
#: What the tables need of a role that runs workflows; the documentation has the same lines.
GRANTS = """
GRANT SELECT, INSERT, UPDATE ON tl_ledger_entries TO {role};
GRANT SELECT, INSERT ON tl_ledger_trail TO {role};
GRANT SELECT ON tl_schema_version TO {role};
"""


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[SqlLedger]:
    """A ledger in a namespace that no other test uses."""
    ledger = SqlLedger(postgres_url, uuid.uuid4().hex)
    yield ledger
    ledger.close()


class TestPostgresLedger(LedgerConformance):
    """The suite that ships."""

    @pytest.fixture(autouse=True)
    def _url(self, postgres_url: str) -> None:
        self.url = postgres_url

    def ledger(self) -> Ledger:
        return SqlLedger(self.url)

    def another(self, ledger: Ledger) -> Ledger:
        return SqlLedger(self.url)


def test_url_without_a_driver_gets_one(postgres_url: str) -> None:
    """postgresql:// means the driver that the extra brings."""
    for scheme in ("postgresql", "postgres"):
        assert SqlLedger(postgres_url.replace("postgresql+psycopg", scheme)).read("k") is None


def test_engine_of_the_callers_is_used(postgres_url: str) -> None:
    """A ledger can share the caller's engine, and does not close it."""
    engine = create_engine(postgres_url)
    ledger = SqlLedger(engine, uuid.uuid4().hex)
    ledger.claim("k", event(State.INTENT), None)
    del ledger
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_lost_claim_says_so(ledger: SqlLedger) -> None:
    """Whoever is too late is told that it was somebody else, not that the database failed."""
    first = ledger.claim("k", event(State.INTENT), None)
    rejected = ledger.append("k", event(State.REJECTED))
    ledger.claim("k", event(State.INTENT), rejected)
    for after in (None, first, rejected):
        with pytest.raises(LedgerError, match=r"(Another caller has claimed|cannot record)"):
            ledger.claim("k", event(State.INTENT), after)
    (record,) = Records(ledger.database).find("k", ledger.namespace)
    assert [line.action for line in Records(ledger.database).trail(record)] == ["claim", "record", "claim"]


def test_tombstone_blocks(ledger: SqlLedger) -> None:
    """A purged key starts nothing, whoever claims it."""
    ledger.claim("k", event(State.INTENT), None)
    ledger.append("k", event(State.REJECTED))
    records = Records(ledger.database)
    assert records.purge(unchanged_since=NOW + 1, actor="jo", now=NOW, namespace=ledger.namespace) == 1
    with pytest.raises(KeyPurged):
        ledger.claim("k", event(State.INTENT), ledger.read("k"))
    with pytest.raises(LedgerError, match="Another caller"):
        ledger.claim("k", event(State.INTENT), None)


@pytest.fixture(scope="module")
def runner_url(postgres: Postgres) -> str:
    """A database with tables, as a role that may only use them."""
    name = postgres.empty_database()
    Database(postgres.url(name)).upgrade()
    postgres.execute(f"CREATE ROLE runner LOGIN PASSWORD '{PASSWORD}'")
    for statement in GRANTS.format(role="runner").split(";"):
        if statement.strip():
            postgres.execute(statement, database=name)
    return postgres.url(name, user="runner", password=PASSWORD)


class TestRights:
    def test_grants_are_the_documented_ones(self) -> None:
        """What these tests grant is what the documentation says."""
        reference = (Path(__file__).parents[3] / "docs/reference/ledger.md").read_text(encoding="utf-8")
        assert GRANTS.format(role="runner") in reference

    def test_running_needs_no_right_to_change_tables(self, runner_url: str) -> None:
        """A role with the documented grants leads a whole life of a step, and lists it."""
        ledger = SqlLedger(runner_url)
        ledger.claim("k", event(State.INTENT), None)
        for state in (State.STARTED, State.CANCEL_REQUESTED, State.SETTLED):
            ledger.append("k", event(state, execution_id="e-1"))
        (record,) = Records(ledger.database).matching()
        assert len(Records(ledger.database).trail(record)) == 4

    def test_trail_is_beyond_its_reach(self, runner_url: str) -> None:
        """That role cannot rewrite or remove what the trail says, so it cannot purge either."""
        ledger = SqlLedger(runner_url)
        ledger.claim("gone", event(State.INTENT), None)
        ledger.append("gone", event(State.REJECTED))
        with pytest.raises(LedgerError, match="permission denied for table tl_ledger_trail"):
            Records(ledger.database).purge(unchanged_since=NOW + 1, actor="jo", now=NOW, key="gone")
        assert getattr(ledger.read("gone"), "state", None) is State.REJECTED

    def test_upgrade_is_beyond_its_reach(self, runner_url: str, postgres: Postgres) -> None:
        """A role that may not change tables is told so."""
        old = Database(runner_url.replace(runner_url.partition("@/")[2].partition("?")[0], postgres.empty_database()))
        with pytest.raises(LedgerError, match="permission denied"):
            old.upgrade()

    @pytest.mark.parametrize("form", ["login", "option"])
    def test_wrong_password_is_not_told(self, runner_url: str, form: str, caplog: pytest.LogCaptureFixture) -> None:
        """A refused login names user and database; the password is in no message, log record or representation."""
        caplog.set_level("DEBUG")
        wrong = "PLANTED-wrong-0d3e"
        if form == "login":
            given = runner_url.replace(PASSWORD, wrong)
        else:
            given = runner_url.replace(f":{PASSWORD}", "") + f"&password={wrong}"
        ledger = SqlLedger(given)
        with pytest.raises(
            LedgerError, match=r"runner@/db\d+ cannot be used \(OperationalError.*password auth"
        ) as caught:
            ledger.read("k")
        assert caught.value.__cause__ is None
        assert wrong not in f"{caught.value!r} {ledger!r} {ledger.database!r} {caplog.text}"


class TestSchema:
    def test_missing_tables_are_refused_with_the_remedy(self, postgres: Postgres) -> None:
        """Whoever runs workflows is told which command somebody else has to run; nothing is made by itself."""
        url = postgres.url(postgres.empty_database(), password=PASSWORD)
        ledger = SqlLedger(url)
        line = f"tl db upgrade --url {ledger.database.address}"
        with pytest.raises(LedgerError) as caught:
            ledger.read("k")
        assert str(caught.value).endswith(line)
        assert PASSWORD not in str(caught.value)
        with pytest.raises(LedgerError, match="tl db upgrade"):
            ledger.claim("k", event(State.INTENT), None)
        assert ledger.database.revision() is None
        Database(url).upgrade()
        assert ledger.read("k") is None

    def test_upgrades_do_not_race(self, postgres: Postgres) -> None:
        """However many upgrade at once, the tables are made once and every one of them succeeds."""
        url = postgres.url(postgres.empty_database())
        failures: list[BaseException] = []

        def upgrade() -> None:
            try:
                Database(url).upgrade()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=upgrade) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        SqlLedger(url).claim("k", event(State.INTENT), None)

    def test_missing_driver_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without psycopg the error says what to install."""
        monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
        with pytest.raises(InvalidSettings, match=r"pip install 'tl-orchestration\[sql\]'"):
            SqlLedger("postgresql+psycopg://jo@host/db")


class TestConnections:
    def test_connection_that_was_cut_is_replaced(self, ledger: SqlLedger, postgres: Postgres) -> None:
        """A restarted server is no error for the next call."""
        ledger.claim("k", event(State.INTENT), None)
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tl-orchestration'"
        )
        assert ledger.append("k", event(State.REJECTED)).version == 2

    def test_connection_that_is_cut_in_a_write_leaves_nothing(
        self, ledger: SqlLedger, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A claim whose connection breaks is a ledger error, and half of it is not there."""
        from tl_orchestration.ledger import sql

        original = sql.note

        def cut(*arguments: Any) -> None:
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tl-orchestration'"
            )
            original(*arguments)

        monkeypatch.setattr(sql, "note", cut)
        with pytest.raises(LedgerError, match="cannot be used") as caught:
            ledger.claim("k", event(State.INTENT), None)
        assert caught.value.retryable
        monkeypatch.undo()
        assert ledger.read("k") is None

    def test_child_does_not_disturb_its_parents_connections(self, ledger: SqlLedger) -> None:
        """After a fork both sides go on with connections of their own."""
        ledger.claim("k", event(State.INTENT), None)
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                try:
                    for number in range(5):
                        ledger.append("k", event(State.UNKNOWN, reason=str(number)))
                    os._exit(0)
                except BaseException:
                    os._exit(1)
            children.append(child)
        for _ in range(5):
            ledger.append("k", event(State.UNKNOWN))
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
        assert getattr(ledger.read("k"), "version", None) == 21

    def test_server_that_is_not_there(self) -> None:
        """A server that cannot be reached is a ledger error that says where."""
        with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/db cannot be used .*Connection refused"):
            SqlLedger("postgresql+psycopg://jo@127.0.0.1:1/db").read("k")
