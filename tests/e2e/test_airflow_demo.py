"""
The demonstration as a person runs it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.rig import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("arguments", "how"), [((), "end told by a webhook"), (("--drop-webhooks",), "end found by a poll")]
)
def test_ends_well(arguments: tuple[str, ...], how: str) -> None:
    """It ends well by webhooks, and also when every one of them is lost."""
    command = [sys.executable, "-m", "dev.demo", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(how) == 2
