"""
A Parquet file, read by row groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from tl_orchestration.batch.places import Place
from tl_orchestration.batch.sources import Portion, Record, Unreadable, check_names
from tl_orchestration.errors import InvalidSettings

_UNREADABLE = "it cannot be read, such as a time that is out of range or has nanoseconds"


@frozen
class Parquet:
    """
    Args:
        file: Where it is.
        columns: Those that are read; None: all.
    """

    file: Place
    columns: tuple[str, ...] | None = field(default=None)

    def identity(self) -> str | None:
        return self.file.identity()

    def with_columns(self, key: str, columns: frozenset[str]) -> Parquet:
        with self.file.reading() as file:
            names = self._reader(file).schema_arrow.names
        check_names(f"The source {self.file}", names, columns)
        return Parquet(self.file, tuple(sorted(columns)))

    def portions(self, size: int) -> Iterator[Portion]:
        with self.file.reading() as file:
            reader = self._reader(file)
            for group in range(reader.num_row_groups):
                begin = 0
                for batch in reader.iter_batches(size, row_groups=[group], columns=self._columns()):
                    records = _records(batch)
                    yield Portion({"group": group, "begin": begin, "rows": len(records), "size": size}, records)
                    begin += len(records)

    def again(self, locator: Mapping[str, Any], keys: Sequence[str]) -> list[Record]:
        with self.file.reading() as file:
            reader, begin = self._reader(file), 0
            if locator["group"] >= reader.num_row_groups:
                return []
            for batch in reader.iter_batches(
                locator["size"], row_groups=[locator["group"]], columns=self._columns(), use_threads=False
            ):
                if begin == locator["begin"]:
                    return _records(batch)
                begin += batch.num_rows
        return []

    def _columns(self) -> list[str] | None:
        return None if self.columns is None else list(self.columns)

    def _reader(self, file: Any) -> Any:
        try:
            from pyarrow import parquet  # type: ignore[import-untyped]  # it has no types
        except ImportError:
            raise InvalidSettings("Parquet needs an extra: pip install 'tl-orchestration[batch]'.") from None
        return parquet.ParquetFile(file)


def _records(batch: Any) -> list[Record]:
    try:
        return list(batch.to_pylist())
    except (ValueError, ArithmeticError):
        # One value is enough for that; each is tried by itself, so that it stops its own row only.
        columns = [[_value(one) for one in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, ArithmeticError):
        return Unreadable(_UNREADABLE)


__all__ = ["Parquet"]
