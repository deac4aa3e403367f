"""
A file with one JSON object a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from tl_orchestration import strict_json
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
        with self.file.reading() as file:
            for end, line in lines(file):
                if line.strip():
                    records.append(_read(line))
                if len(records) >= size:
                    yield Portion({"offset": begin, "length": end - begin}, records)
                    begin, records = end, []
        if records:
            yield Portion({"offset": begin, "length": end - begin}, records)

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        with self.file.reading() as file:
            found = [_read(line) for _, line in lines(file, locator["offset"], locator["length"]) if line.strip()]
        return [record for record in found if not isinstance(record, Unreadable)]


def _read(line: bytes) -> Record | Unreadable:
    if len(line) > LONGEST_LINE:
        return Unreadable(f"the line has more than {LONGEST_LINE} bytes")
    try:
        record = strict_json.read(line.removeprefix(b"\xef\xbb\xbf"))
    except strict_json.NotJson as error:
        return Unreadable(f"it is not JSON ({error})")
    return record if isinstance(record, dict) else Unreadable("it is not a JSON object")


__all__ = ["JsonLines"]
