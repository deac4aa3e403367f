"""The tables on SQLite and PostgreSQL: what the migrations make is what the code expects, and upgrades keep entries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

import tl_orchestration.database
from tests.builders import event
from tests.postgres import Postgres
from tl_orchestration.database import schema
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import REVISIONS, VERSION_TABLE, metadata
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import Entry, SqlLedger, State

OLDER = REVISIONS[:-1]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/ledger.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return lambda: postgres.url(postgres.empty_database())


def left_at(url: str, revision: str) -> None:
    """A database as an older version left it."""
    engine = create_engine(url)
    with engine.begin() as connection:
        schema.migrate(connection, revision)
    engine.dispose()


def test_revisions_are_those_of_the_migrations() -> None:
    """The list in the code and the migrations beside it are one line of the same revisions."""
    config = Config()
    folder = Path(tl_orchestration.database.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    script = ScriptDirectory.from_config(config)
    assert tuple(reversed([each.revision for each in script.walk_revisions()])) == REVISIONS
    assert script.get_current_head() == REVISIONS[-1]


def test_migrations_make_the_tables_of_the_code(new_url: Callable[[], str]) -> None:
    """After an upgrade no table, column, type, index or constraint differs from what the code says."""
    url = new_url()
    Database(url).upgrade()
    engine = create_engine(url)
    with engine.connect() as connection:
        options = {"compare_type": True, "version_table": VERSION_TABLE}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        indexes = {index["name"] for index in inspect(connection).get_indexes("tl_ledger_entries")}
        assert "tl_ledger_entries_by_state" in indexes
    engine.dispose()


@pytest.mark.parametrize("revision", OLDER)
def test_upgrade_keeps_every_entry(new_url: Callable[[], str], revision: str) -> None:
    """What an older version has written is there after the upgrade, and is gone on with."""
    url = new_url()
    left_at(url, revision)
    written = Entry(version=2, state=State.STARTED, execution_id="e-1", changed_at=5.5, suspects=("e-0",))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO tl_ledger_entries (namespace, key, version, state, execution_id, generation, changed_at,"
                " document) VALUES ('here', 'k', 2, 'STARTED', 'e-1', '', 5.5, '{\"format\": 1, \"version\": 2, "
                '"state": "STARTED", "execution_id": "e-1", "changed_at": 5.5, "suspects": ["e-0"]}\')'
            ).execution_options(autocommit=False)
        )
    engine.dispose()
    ledger = SqlLedger(url, "here")
    if not ledger.database.is_sqlite:
        with pytest.raises(LedgerError, match=f"have revision {revision} .*tl db upgrade --url"):
            ledger.read("k")
        ledger.database.upgrade()
    assert ledger.read("k") == written
    assert ledger.database.revision() == REVISIONS[-1]
    assert ledger.append("k", event(State.SETTLED)).version == 3


def test_newer_tables_are_left_alone(new_url: Callable[[], str]) -> None:
    """Tables of a version that is not known here are neither used nor changed; the error says what to upgrade."""
    url = new_url()
    Database(url).upgrade()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608 -- a name of ours
    engine.dispose()
    says = r"revision 9999, which this version does not know.*upgrade tl-orchestration"
    with pytest.raises(LedgerError, match=says):
        SqlLedger(url).read("k")
    with pytest.raises(LedgerError, match=says):
        Database(url).upgrade()
    assert Database(url).revision() == "9999"


def test_upgrade_that_breaks_changes_nothing(new_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade happens as a whole or not at all, also where a table is changed."""
    url = new_url()
    left_at(url, REVISIONS[0])
    original = schema.migrate

    def breaks(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]  # as it was called
        raise RuntimeError("power cut")

    monkeypatch.setattr(schema, "migrate", breaks)
    with pytest.raises(RuntimeError):
        Database(url).upgrade()
    monkeypatch.undo()
    database = Database(url)
    assert database.revision() == REVISIONS[0]
    engine = create_engine(url)
    with engine.connect() as connection:
        assert "tl_ledger_entries_by_state" not in {
            i["name"] for i in inspect(connection).get_indexes("tl_ledger_entries")
        }
    engine.dispose()
    database.upgrade()


def test_asking_makes_no_file(tmp_path: Path) -> None:
    """A look at a SQLite file that is not there does not make one."""
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    assert database.is_missing
    assert database.revision() is None
    assert list(tmp_path.iterdir()) == []
