"""
The rows of a SQL query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen
from sqlalchemy import URL, ColumnElement, Engine, RowMapping, bindparam, column, create_engine, func, select, text
from sqlalchemy.exc import (
    ArgumentError,
    InvalidRequestError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from tl_orchestration.answers import scrubbed
from tl_orchestration.batch.sources import Portion, Record, Unreadable
from tl_orchestration.database.addresses import secrets_of
from tl_orchestration.errors import InvalidSettings, StorageFailed

_LONGEST_REASON = 200
_PADDED = "around the key are tabs, line ends or other blanks that SQL does not trim"


def _engine(value: str | URL | Engine) -> Engine:
    if isinstance(value, Engine):
        return value
    try:
        return create_engine(value, hide_parameters=True)
    except (ArgumentError, ImportError, ValueError):
        raise InvalidSettings("The URL of the source's database cannot be used, or its driver is missing.") from None


@frozen
class Query:
    """
    A query that gives one row per customer. It is run once to load a campaign; afterwards rows are read again by their
    keys, 200 at a time, each time with the query as a sub-query. So it must stand alone, without ``ORDER BY`` that
    matters and without a semicolon; and where the database cannot find a few keys in it faster than all rows, such as
    in aggregates, it should have put them into a table with an index on the key before.

    Args:
        database: SQLAlchemy URL or engine of where the customers are.
        statement: The query.
        parameters: Values for its ``:names``.
        key: The key's column; loading sets it.
    """

    database: Engine = field(converter=_engine, repr=False)
    statement: str
    parameters: Mapping[str, Any] = field(factory=dict, repr=False)
    key: str = ""

    def identity(self) -> str | None:
        return None

    def with_columns(self, key: str, columns: frozenset[str]) -> Query:
        try:
            with self.database.connect() as connection:
                probe = select(text("*")).select_from(self._rows()).where(text("1 = 0"))
                names = set(connection.execute(probe, dict(self.parameters)).keys())
        except SQLAlchemyError as error:
            # No row was read, so the text of the error is about the statement.
            raise _failed(error, self._told(error)) from None
        if missing := sorted(columns - names):
            raise InvalidSettings(f"The query has no column {', '.join(missing)}.")
        return Query(self.database, self.statement, self.parameters, key)

    def portions(self, size: int) -> Iterator[Portion]:
        try:
            with self.database.connect().execution_options(stream_results=True, yield_per=size) as connection:
                found = connection.execute(text(self.statement), dict(self.parameters))
                for rows in found.mappings().partitions(size):
                    found_keys = [row[self.key] for row in rows if row[self.key] is not None]
                    whole = all(isinstance(one, int) for one in found_keys)
                    locator = {"column": self.key, "keys": "integer" if whole else "text"}
                    yield Portion(locator, [self._record(row) for row in rows])
        except SQLAlchemyError as error:
            raise _failed(error) from None

    def _record(self, row: RowMapping) -> Record:
        key = row[self.key]
        # It could never be found again.
        is_lost = isinstance(key, str) and key.strip() and key.strip() != key.strip(" ")
        return dict(row) | ({self.key: Unreadable(_PADDED)} if is_lost else {})

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        key: ColumnElement[Any] = column(locator["column"])
        if locator["keys"] == "integer":
            return self._having(key, [int(one) for one in keys])
        found = self._having(key, keys)
        there = {str(record[locator["column"]]).strip() for record in found}
        padded = [one for one in keys if one not in there]
        return found + self._having(func.trim(key), padded) if padded else found

    def _having(self, key: ColumnElement[Any], values: Sequence[Any]) -> list[Record]:
        query = (
            select(text("*"))
            .select_from(self._rows())
            .where(key.in_(bindparam("tl_keys", expanding=True, value=list(values))))
        )
        try:
            with self.database.connect() as connection:
                return [dict(row) for row in connection.execute(query, dict(self.parameters)).mappings()]
        except SQLAlchemyError as error:
            raise _failed(error) from None

    def _rows(self) -> Any:
        # The statement is the user's own query, and its values are bound.
        return text(f"({self.statement.strip().rstrip(';')}\n) AS tl_source")  # it may end in a comment

    def _told(self, error: SQLAlchemyError) -> str:
        """
        What the driver says of the statement: the first line, without parameters and secrets.
        """
        cause = getattr(error, "orig", None)
        if not isinstance(error, OperationalError | ProgrammingError) and not isinstance(cause, InvalidRequestError):
            return ""
        sent = [*map(str, self.parameters.values()), *secrets_of(self.database.url)]
        return scrubbed(str(cause).strip().partition("\n")[0], sorted(sent, key=len, reverse=True))[:_LONGEST_REASON]


def _failed(error: SQLAlchemyError, told: str = "") -> StorageFailed:
    return StorageFailed(
        f"The query for the campaign's rows failed ({type(error).__name__}{': ' if told else ''}{told})."
    )


__all__ = ["Query"]
