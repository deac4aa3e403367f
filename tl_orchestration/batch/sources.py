"""
What a campaign reads: a source gives its records in portions, and each portion again by its locator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from tl_orchestration.batch.places import PathOfAStorage, Place, place
from tl_orchestration.errors import InvalidSettings

#: By the name of the column, a value or an :class:`Unreadable`.
Record = Mapping[str, Any]


@frozen
class Unreadable:
    """
    A record, or a value of one, that cannot be read at all, and why; without any value.
    """

    reason: str


@frozen
class Portion:
    """
    Some consecutive records, and how they are found again.

    Args:
        locator: JSON values; no value of the source.
        records: What was read.
    """

    locator: Mapping[str, Any]
    records: Sequence[Record | Unreadable]


class Source(Protocol):
    """
    Where records come from. Reading costs memory for one portion only.
    """

    def identity(self) -> str | None:
        """
        Changes when the content does; None where only reading it can tell.
        """

    def portions(self, size: int) -> Iterator[Portion]:
        """
        Everything, in portions of at most ``size`` records.

        Raises:
            InvalidSettings: From some record on, the source is not of its kind.
            StorageFailed: It cannot be read.
        """

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        """
        The records of one portion, or at least those with these keys.
        """

    def with_columns(self, key: str, columns: frozenset[str]) -> Source:
        """
        The same source, once it is known which columns are read.

        Raises:
            InvalidSettings: It does not have one of them.
        """


def check_names(what: str, names: Sequence[str], wanted: frozenset[str]) -> None:
    """
    Raises:
        InvalidSettings: A column is missing, or there twice.
    """
    if missing := sorted(wanted - set(names)):
        raise InvalidSettings(f"{what} has no column {', '.join(missing)}.")
    if double := [name for name, count in Counter(names).items() if count > 1]:
        raise InvalidSettings(f"{what} has a column twice: {', '.join(name or '(no name)' for name in double)}.")


def source(where: str | Path | Place | PathOfAStorage) -> Source:
    """
    The source for a file, by the end of its name: ``.jsonl`` or ``.ndjson``, ``.csv``, ``.parquet``.

    Raises:
        InvalidSettings: It is none of them, or its storage cannot be used here.
    """
    file = place(where)
    if file.suffix in {".jsonl", ".ndjson"}:
        from tl_orchestration.batch.jsonl import JsonLines

        return JsonLines(file)
    if file.suffix == ".csv":
        from tl_orchestration.batch.delimited import Delimited

        return Delimited(file)
    if file.suffix == ".parquet":
        from tl_orchestration.batch.parquet import Parquet

        return Parquet(file)
    raise InvalidSettings(
        f"The source {file} must end in .jsonl, .ndjson, .csv or .parquet; files must not be compressed, because rows"
        " are read again from the middle."
    )


__all__ = ["Portion", "Record", "Source", "Unreadable", "check_names", "source"]
