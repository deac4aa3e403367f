"""
Fixtures that more than one folder of tests shares.
"""

from __future__ import annotations

import gc
import os
import tempfile
from importlib.util import find_spec

import pytest

pytest_plugins = ["tests.rig", "tests.postgres"]

#: Airflow and Prefect cannot share an environment: each has its own, where only its own tests are collected.
collect_ignore_glob: list[str] = []
if find_spec("airflow") is None:
    collect_ignore_glob += [
        "tests/unit/airflow_provider",
        "tests/wire/ledger/test_airflow.py",
        "tests/examples",
        "tests/packaging",
        "tests/e2e/test_airflow_*.py",
    ]
if find_spec("prefect") is None:
    collect_ignore_glob += ["tests/unit/prefect_blocks", "tests/wire/prefect_blocks", "tests/e2e/prefect"]
else:
    # Prefect reads its home at import: it must not be the one of whoever runs the tests.
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-home-")
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Leave the slow ones to ``make soak`` and ``make e2e-airflow``.
    """
    if os.environ.get("SOAK"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_collection_finish() -> None:
    """
    Take what collecting has imported, most of it an orchestrator, out of every later garbage collection.
    """
    gc.collect()
    gc.freeze()
