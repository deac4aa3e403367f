"""
Fixtures that more than one folder of tests shares.
"""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["tests.rig", "tests.postgres"]


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
