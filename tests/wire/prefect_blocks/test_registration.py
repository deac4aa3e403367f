"""
What Prefect's command line makes of this package.
"""

from __future__ import annotations

import os
import subprocess
import sys

from prefect.settings import PREFECT_API_URL


def test_blocks_are_registered_by_module_name() -> None:
    """``prefect block register -m prefect_blocks`` finds both blocks."""
    command = [sys.executable, "-W", "ignore", "-m", "prefect", "block", "register", "-m", "prefect_blocks"]
    environment = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value(), "NO_COLOR": "1", "COLUMNS": "200"}

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)

    assert done.returncode == 0, done.stderr
    assert "Transactionlink Credentials" in done.stdout
    assert "Transactionlink Workflow" in done.stdout
