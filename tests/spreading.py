"""
Tests in several processes, with ``pytest -n``: most of them wait most of the time.

A file is one process's, and so are all files that need the real Airflow or the real Prefect: there is one of each.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # it has no types

if TYPE_CHECKING:
    import pytest

_REAL = re.compile(r"tests/(e2e/|examples/test_(airflow|readme))")
#: What takes long comes first, or one process would end it alone.
_ORDER = ("tests/faults/", "tests/packaging/", "tests/wire/", "tests/examples/", "tests/unit/")


class Spreading(LoadFileScheduling):  # type: ignore[misc]  # likewise
    """
    Where a test runs.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "real" if _REAL.match(file) else file


def order(items: list[pytest.Item]) -> None:
    """
    Put what takes long before what is fast.
    """

    def place(item: pytest.Item) -> int:
        if _REAL.match(item.nodeid):
            return -1
        return next((at for at, folder in enumerate(_ORDER) if item.nodeid.startswith(folder)), len(_ORDER))

    items.sort(key=place)
