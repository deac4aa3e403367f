"""
A CSV file with a header. A record may span lines, so its place is counted in the bytes that its reading took.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from attrs import evolve, frozen

from tl_orchestration.batch.lines import LONGEST_LINE, lines
from tl_orchestration.batch.places import Place
from tl_orchestration.batch.sources import Portion, Record, Unreadable, check_names
from tl_orchestration.errors import InvalidSettings


@frozen
class Delimited:
    """
    Where its quotes do not pair, nobody can tell where the next record begins. Such a file is refused as a whole, so
    that no customer's data is sent as another's.

    Args:
        file: Where it is.
        delimiter: Between two values.
        encoding: Of the text; a byte-order mark of UTF-8 is skipped.
        key: The key's column; loading sets it.
    """

    file: Place
    delimiter: str = ","
    encoding: str = "utf-8"
    key: str = ""

    def identity(self) -> str | None:
        return self.file.identity()

    def with_columns(self, key: str, columns: frozenset[str]) -> Delimited:
        with self.file.reading() as file:
            names, _ = self._header(file)
        check_names(f"The source {self.file}", names, columns)
        return evolve(self, key=key)

    def portions(self, size: int) -> Iterator[Portion]:
        with self.file.reading() as file:
            names, reading = self._header(file)
            records, begin = list[Record | Unreadable](), reading.end
            for end, record in self._records(file, names, begin, None, reading.line):
                records.append(record)
                if len(records) >= size:
                    yield Portion({"offset": begin, "length": end - begin}, records)
                    begin, records = end, []
        if records:
            yield Portion({"offset": begin, "length": end - begin}, records)

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        found = list[Record]()
        with self.file.reading() as file:
            names, _ = self._header(file)
            with contextlib.suppress(_Torn):  # the file is another one by now
                for _, record in self._records(file, names, locator["offset"], locator["length"]):
                    if not isinstance(record, Unreadable):
                        found.append(record)
        return found

    def _header(self, file: IO[bytes]) -> tuple[list[str], _Lines]:
        reading = _Lines(file, 0, None, self.encoding)
        try:
            names = next(_values(reading, self.delimiter), [])
        except (csv.Error, _Torn):
            raise InvalidSettings(f"The header of the source {self.file} is not CSV.") from None
        if not any(names):
            raise InvalidSettings(f"The source {self.file} has no header.")
        return names, reading

    def _records(
        self, file: IO[bytes], names: list[str], offset: int, length: int | None, line: int = 0
    ) -> Iterator[tuple[int, Record | Unreadable]]:
        reading = _Lines(file, offset, length, self.encoding, line)
        rows, number = _values(reading, self.delimiter), 0
        while True:
            reading.begin()
            number += 1
            try:
                values = next(rows)
            except StopIteration:
                return
            except _Torn:
                raise _Torn(f"{self._until(number, reading)}: it has a line over {LONGEST_LINE} bytes.") from None
            except csv.Error:
                if len(reading.lines) > 1 or reading.lines[0].count('"') % 2:
                    raise _Torn(
                        f"{self._until(number, reading)}: a quote is not closed there, or not in its place, and nobody"
                        " can tell where the next row begins. Nothing of the file is started."
                    ) from None
                yield reading.end, Unreadable(f"it is not CSV ({reading.place})")
                continue
            if not values:
                number -= 1
            elif reading.bad:
                yield reading.end, Unreadable(f"it is not {self.encoding}")
            elif len(values) != len(names):
                yield reading.end, Unreadable(f"it has another number of values than the header ({reading.place})")
            elif self.key and self._holds_another(names.index(self.key), values, reading.lines[1:]):
                what = f"a quoted value goes over {reading.place}, where another row seems to begin"
                yield reading.end, Unreadable(f"{what} (a quote may be missing)")
            else:
                yield reading.end, dict(zip(names, values, strict=True))

    def _until(self, row: int, reading: _Lines) -> str:
        return f"The source {self.file} can be read only until row {row} ({reading.place})"

    def _holds_another(self, key: int, values: Sequence[str], lines: Sequence[str]) -> bool:
        """
        Whether a further line of a record has as many values as the header, and a key that is built like the record's.
        """
        own = values[key].strip()
        for line in lines:
            parts = line.split(self.delimiter)
            if len(parts) == len(values):
                other = parts[key].strip().strip('"')
                if other != own and _shape(other) == _shape(own):
                    return True
        return False


class _Torn(InvalidSettings):
    """
    Where the next record begins is not known.
    """


class _Lines:
    """
    The lines that a reader of CSV takes, and how far it has got.

    Args:
        line: Lines of the file before the offset.
    """

    def __init__(self, file: IO[bytes], offset: int, length: int | None, encoding: str, line: int = 0) -> None:
        self._lines = lines(file, offset, length)
        self._encoding = encoding
        self.end = offset
        self.line = line
        self.begin()

    def begin(self) -> None:
        """
        What comes belongs to another record.
        """
        self.bad = False
        self.lines: list[str] = []

    @property
    def place(self) -> str:
        first = self.line - len(self.lines) + 1
        return f"line {first}" if first >= self.line else f"lines {first} to {self.line}"

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        end, line = next(self._lines)
        if len(line) > LONGEST_LINE:
            self.lines.append("")
            self.line += 1
            raise _Torn("A line is too long.")
        try:
            text = line.decode(self._encoding)
        except UnicodeDecodeError:
            self.bad, text = True, line.decode(self._encoding, "replace")
        if not self.end:
            text = text.removeprefix("\ufeff")
        self.end = end
        self.line += 1
        self.lines.append(text)
        return text


def _values(reading: _Lines, delimiter: str) -> Iterator[list[str]]:
    if csv.field_size_limit() < LONGEST_LINE:
        csv.field_size_limit(LONGEST_LINE)  # the whole process's, so it is never lowered
    return csv.reader(reading, delimiter=delimiter, strict=True)


def _shape(key: str) -> tuple[bool, list[str]]:
    return any(map(str.isdigit, key)), [sign for sign in key if not sign.isalnum()]


__all__ = ["Delimited"]
