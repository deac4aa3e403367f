"""
What cannot be run, as files: key, column and reason, never a value.
"""

from __future__ import annotations

import json
from typing import Any

from tl_orchestration.batch.places import Place

#: Lines of one file, and how many are told in the report as well.
_LINES = 10_000
_SAMPLES = 10


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
        self.samples: list[dict[str, Any]] = []
        self.files: list[str] = []

    def add(self, row: int, key: str | None, column: str | None, reason: str) -> None:
        """
        One more. ``row`` counts the records from 1.
        """
        line = {"row": row, "key": key, "column": column, "reason": reason}
        self.count += 1
        if len(self.samples) < _SAMPLES:
            self.samples.append(line)
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
