"""
A file with one JSON object a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from tl_orchestration.batch.lines import LONGEST_LINE, lines
from tl_orchestration.batch.places import Place
from tl_orchestration.batch.sources import Portion, Record, Unreadable


@frozen
class JsonLines:
    """
    Args:
        file: Where it is.
    """

    file: Place

    def identity(self) -> str | None:
        return self.file.identity()

    def with_columns(self, key: str, columns: frozenset[str]) -> JsonLines:
        return self

    def portions(self, size: int) -> Iterator[Portion]:
        begin, records, end = 0, list[Record | Unreadable](), 0
        with self.file.open() as file:
            for end, line in lines(file):
                if line.strip():
                    records.append(_read(line))
                if len(records) >= size:
                    yield Portion({"offset": begin, "length": end - begin}, records)
                    begin, records = end, []
        if records:
            yield Portion({"offset": begin, "length": end - begin}, records)

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        with self.file.open() as file:
            found = [_read(line) for _, line in lines(file, locator["offset"], locator["length"]) if line.strip()]
        return [record for record in found if not isinstance(record, Unreadable)]


def _read(line: bytes) -> Record | Unreadable:
    if len(line) > LONGEST_LINE:
        return Unreadable(f"the line has more than {LONGEST_LINE} bytes")
    try:
        record = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        return Unreadable("a name occurs twice in the object" if isinstance(error, _TwiceError) else "it is not JSON")
    return record if isinstance(record, dict) else Unreadable("it is not a JSON object")


class _TwiceError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


__all__ = ["JsonLines"]
