"""
Fixtures that more than one folder of tests shares.
"""

from __future__ import annotations

pytest_plugins = ["tests.rig", "tests.postgres"]
