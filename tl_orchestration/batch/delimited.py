"""
A CSV file with a header. A record may span lines, so its place is counted in the bytes that its reading took.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from attrs import frozen

from tl_orchestration.batch.lines import LONGEST_LINE, lines
from tl_orchestration.batch.places import Place
from tl_orchestration.batch.sources import Portion, Record, Unreadable
from tl_orchestration.errors import InvalidSettings


@frozen
class Delimited:
    """
    Args:
        file: Where it is.
        delimiter: Between two values.
        encoding: Of the text; a byte-order mark of UTF-8 is skipped.
    """

    file: Place
    delimiter: str = ","
    encoding: str = "utf-8"

    def identity(self) -> str | None:
        return self.file.identity()

    def with_columns(self, key: str, columns: frozenset[str]) -> Delimited:
        with self.file.reading() as file:
            names, _ = self._header(file)
        if missing := sorted(columns - set(names)):
            raise InvalidSettings(f"The source {self.file} has no column {', '.join(missing)}.")
        if len(set(names)) != len(names):
            raise InvalidSettings(f"The source {self.file} has a column twice.")
        return self

    def portions(self, size: int) -> Iterator[Portion]:
        with self.file.reading() as file:
            names, begin = self._header(file)
            records, end = list[Record | Unreadable](), begin
            for end, record in self._records(file, names, begin, None):
                records.append(record)
                if len(records) >= size:
                    yield Portion({"offset": begin, "length": end - begin}, records)
                    begin, records = end, []
        if records:
            yield Portion({"offset": begin, "length": end - begin}, records)

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        with self.file.reading() as file:
            names, _ = self._header(file)
            found = [one for _, one in self._records(file, names, locator["offset"], locator["length"])]
        return [record for record in found if not isinstance(record, Unreadable)]

    def _header(self, file: IO[bytes]) -> tuple[list[str], int]:
        reading = _Lines(file, 0, None, self.encoding)
        names = next(csv.reader(reading, delimiter=self.delimiter), [])
        if not any(names):
            raise InvalidSettings(f"The source {self.file} has no header.")
        return [names[0].removeprefix("\ufeff"), *names[1:]], reading.end

    def _records(
        self, file: IO[bytes], names: list[str], offset: int, length: int | None
    ) -> Iterator[tuple[int, Record | Unreadable]]:
        reading = _Lines(file, offset, length, self.encoding)
        rows = csv.reader(reading, delimiter=self.delimiter)
        while True:
            try:
                values = next(rows)
            except StopIteration:
                return
            except csv.Error:
                yield reading.end, Unreadable("it is not CSV")
                continue
            if reading.bad:
                reading.bad = False
                yield reading.end, Unreadable(f"it is not {self.encoding}, or has a line over {LONGEST_LINE} bytes")
            elif not values:
                continue
            elif len(values) != len(names):
                yield reading.end, Unreadable("it has another number of values than the header")
            else:
                yield reading.end, dict(zip(names, values, strict=True))


class _Lines:
    """
    The lines that a reader of CSV takes, and how far it has got.
    """

    def __init__(self, file: IO[bytes], offset: int, length: int | None, encoding: str) -> None:
        self._lines = lines(file, offset, length)
        self._encoding = encoding
        self.end = offset
        self.bad = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.end, line = next(self._lines)
        try:
            text = line.decode(self._encoding)
        except UnicodeDecodeError:
            self.bad, text = True, line.decode(self._encoding, "replace")
        self.bad = self.bad or len(line) > LONGEST_LINE
        return text


__all__ = ["Delimited"]
