"""
What cannot be run, or not as the source has it now, as files: key, column and reason, never a value.
"""

from __future__ import annotations

import json
from typing import Any

from tl_orchestration.batch.places import Place

#: Lines of one file, and how many are told in the report as well: of what cannot be run, and of the others.
_LINES = 10_000
_SAMPLES = 10
_NOTED = 5


class Rejects:
    """
    Args:
        folder: Where the files go; None: nowhere.
        load: The pass over the source, for their names.
    """

    def __init__(self, folder: Place | None, load: int) -> None:
        self._folder = folder
        self._load = load
        self._lines: list[str] = []
        self.count = 0
        self._rejected: list[dict[str, Any]] = []
        self._noted: list[dict[str, Any]] = []
        self.files: list[str] = []

    @property
    def samples(self) -> list[dict[str, Any]]:
        """
        Some of it; what cannot be run comes first.
        """
        return [*self._rejected, *self._noted]

    def add(self, row: int, key: str | None, column: str | None, reason: str) -> None:
        """
        One more that cannot be run. ``row`` counts the records from 1.
        """
        self.count += 1
        self._tell({"row": row, "key": key, "column": column, "reason": reason}, self._rejected, _SAMPLES)

    def note(self, row: int, key: str, reason: str) -> None:
        """
        One that somebody should know of. It is not counted.
        """
        self._tell({"row": row, "key": key, "column": None, "reason": reason}, self._noted, _NOTED)

    def _tell(self, line: dict[str, Any], samples: list[dict[str, Any]], most: int) -> None:
        if len(samples) < most:
            samples.append(line)
        if self._folder is not None:
            self._lines.append(json.dumps(line, ensure_ascii=False) + "\n")
            if len(self._lines) >= _LINES:
                self.flush()

    def flush(self) -> None:
        """
        Write what has been added.

        Raises:
            StorageFailed: It was not written.
        """
        if self._lines and self._folder is not None:
            name = f"rejects-{self._load:03}-{len(self.files):03}.jsonl"
            (self._folder / name).write("".join(self._lines).encode(errors="backslashreplace"))
            self.files.append(name)
            self._lines = []


__all__ = ["Rejects"]
