"""
Every fence of the README runs, unchanged.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

PROJECT = Path(__file__).parents[2]
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", (PROJECT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def the_fence(language: str, word: str) -> str:
    (found,) = (text for kind, text in FENCES if kind == language and word in text)
    return str(found)


def test_no_fence_is_left_out() -> None:
    """
    Three Python examples and the two commands: whoever adds a fence adds its test. That of Prefect's is in
    ``tests/wire/prefect_blocks/test_readme.py``.
    """
    assert [language for language, _ in FENCES] == ["python", "python", "python", "bash"]


@pytest.mark.timeout(600)
def test_airflow_example_runs(airflow: AirflowRig, oracle: Oracle) -> None:
    """The DAG of the README, on a real Airflow: the account is opened after the check."""
    moment = airflow.write_dag("readme", the_fence("python", "airflow_provider"))
    airflow.wait_for_dag("onboarding", parsed_after=moment)

    run_id = airflow.trigger("onboarding")

    assert airflow.wait_for_run("onboarding", run_id) == "success"
    execution_id = airflow.xcom("onboarding", run_id, "check_customer")["execution_id"]
    assert airflow.xcom("onboarding", run_id, "open_account") == f"account opened after check {execution_id}"
    assert {"customerId": run_id} in [start["parameters"] for start in oracle.starts()]


def test_python_example_runs(oracle: Oracle, tmp_path: Path) -> None:
    """The plain Python example prints the decision. Only the base URL's default is the sandbox's."""
    (tmp_path / "token.txt").write_text("tot_sandbox\n")
    (tmp_path / "example.py").write_text(the_fence("python", "Client,"))
    # The example names no host, as a user's program would not: the vendor's is replaced before it runs.
    (tmp_path / "run.py").write_text(
        "import runpy, sys\n"
        "from tl_orchestration.services.transactionlink import Transactionlink\n"
        "Transactionlink.default_base_url = sys.argv[1]\n"
        "runpy.run_path('example.py')\n"
    )

    done = subprocess.run(
        [sys.executable, "run.py", oracle.url],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=180,
    )

    assert (done.returncode, done.stdout.strip()) == (0, "approve"), done.stderr


def test_commands_are_targets_of_the_makefile() -> None:
    """The two commands exist; that they work is what running them shows."""
    targets = re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE)

    for command in the_fence("bash", "make").split("\n"):
        if command:
            assert command.removeprefix("make ") in targets
