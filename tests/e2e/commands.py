"""
The real ``tl`` as a person types it beside a real Airflow.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.canary import TOKEN

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle


def tl(airflow: AirflowRig, *arguments: str, oracle: Oracle | None = None) -> tuple[int, str, str]:
    """
    Exit code, stdout and stderr of the command, with the rig's Airflow as its ledger, and the sandbox, where it is
    given, as its service.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TRANSACTIONLINK_", "AIRFLOW"))}
    env["TRANSACTIONLINK_LEDGER_URL"] = f"airflow+{airflow.base_url}"
    env["AIRFLOW_API_TOKEN"] = airflow.request("GET", "token", root="/auth")["access_token"]
    if oracle is not None:
        env |= {"TRANSACTIONLINK_BASE_URL": oracle.url, "TRANSACTIONLINK_TOKEN": TOKEN}
    done = subprocess.run(
        [Path(sys.executable).with_name("tl"), *arguments], env=env, capture_output=True, text=True, timeout=180
    )
    return done.returncode, done.stdout, done.stderr
