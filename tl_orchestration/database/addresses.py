"""
Database URLs: which are taken, and what of them may be shown.
"""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tl_orchestration.errors import InvalidSettings

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
_EXAMPLES = "sqlite:///ledger.db or postgresql+psycopg://user@host/database"
_SECRET_OPTIONS = ("pass", "secret", "token", "key")
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


def database_url(value: str | URL) -> URL:
    """
    The URL, checked. A PostgreSQL URL without a driver gets psycopg.

    Raises:
        InvalidSettings: It cannot be used. The message quotes nothing of it but the driver's name.
    """
    try:
        url = make_url(value.strip() if isinstance(value, str) else value)
    except (ArgumentError, ValueError):
        raise InvalidSettings(f"The database URL is not a URL such as {_EXAMPLES}.") from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise InvalidSettings(f"The database URL names {url.drivername}; known are {_EXAMPLES}.")
    if driver == SQLITE and (not url.database or url.database == ":memory:" or url.database.startswith("file:")):
        raise InvalidSettings(
            "A SQLite URL must name a file, such as sqlite:///ledger.db. MemoryLedger() keeps entries in the process."
        )
    return url.set(drivername=driver)


def shown(url: URL) -> str:
    """
    The URL for people and for a command line: without password, and without options, which may hold one.
    """
    bare = URL.create(url.drivername, url.username, host=url.host, port=url.port, database=url.database)
    return bare.render_as_string(hide_password=True)


def secrets_of(url: URL) -> list[str]:
    """
    What must not be seen of it, longest first.
    """
    options = [
        value
        for name, values in url.normalized_query.items()
        if any(word in name.lower() for word in _SECRET_OPTIONS)
        for value in values
    ]
    found = {value for value in (url.password, *options) if value}
    return sorted(found, key=len, reverse=True)
