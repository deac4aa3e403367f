"""
The rows of a SQL query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen
from sqlalchemy import URL, ColumnElement, Engine, bindparam, column, create_engine, func, select, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tl_orchestration.batch.sources import Portion, Record
from tl_orchestration.errors import InvalidSettings, StorageFailed


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
    keys, as a sub-query: so it must stand alone, without ``ORDER BY`` that matters and without a semicolon.

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
            raise _failed(error) from None
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
                    yield Portion(locator, [dict(row) for row in rows])
        except SQLAlchemyError as error:
            raise _failed(error) from None

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
        return text(f"({self.statement.strip().rstrip(';')}) AS tl_source")


def _failed(error: SQLAlchemyError) -> StorageFailed:
    return StorageFailed(f"The query for the campaign's rows failed ({type(error).__name__}).")


__all__ = ["Query"]
