"""
Mutation testing of what decides whether a start may happen, and whether a webhook is genuine: which small changes no
test notices.

The work is done in a copy, so that the project's own files never change. A run is cut off after its time; mutants that
it has not come to are counted as not checked, never as found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

PROJECT = Path(__file__).parents[1]


@frozen
class Group:
    """
    What is changed, below ``tl_orchestration``, and what is run against it, below ``tests``.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "start": Group(
        ("start", "attempt", "fate", "claim", "retry", "ledger/entry"),
        (
            "unit/start",
            "unit/test_attempt.py",
            "unit/test_claim.py",
            "unit/test_correlation.py",
            "unit/test_idempotency.py",
            "unit/test_retry.py",
            "unit/test_retry_budget.py",
            "unit/ledger/test_entry.py",
        ),
    ),
    "webhooks": Group(
        ("webhooks/envelope", "webhooks/signatures", "webhooks/keys", "webhooks/public_key", "webhooks/inbox"),
        (
            "unit/webhooks/test_signatures.py",
            "unit/webhooks/test_keys.py",
            "unit/webhooks/test_inbox.py",
            "wire/webhooks/test_key_server.py",
        ),
    ),
}
CONFIGURATION = """
[tool.mutmut]
also_copy = ["conftest.py"]
source_paths = ["tl_orchestration"]
only_mutate = [{modules}]
do_not_mutate_patterns = ['log\\.']
pytest_add_cli_args_test_selection = [{tests}]
pytest_add_cli_args = ["-p", "no:cacheprovider"]

[tool.pytest.ini_options]
addopts = ["-q"]
"""
#: The tool runs all tests several times in one process, which Hypothesis takes for a mistake.
PROFILE = """
from hypothesis import HealthCheck, settings

settings.register_profile("mutants", suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
settings.load_profile("mutants")
"""
#: How a mutant ends that a test has noticed.
FOUND = frozenset({"killed", "timeout", "segfault", "suspicious"})


def main() -> None:
    """
    Run, and print score and survivors.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", nargs="?", choices=GROUPS, default="start", help="default: start")
    parser.add_argument("--seconds", type=float, default=420.0, help="longest time for the run (default: 420)")
    parser.add_argument("--only", nargs="*", default=[], help="names or patterns of mutants, such as '*fate*'")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _prepare(copy, GROUPS[arguments.group])
        _run(copy, arguments.seconds, arguments.only)
        _report(copy)


def _prepare(copy: Path, group: Group) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "e2e", "examples", "packaging")
    for folder in ("tl_orchestration", "tests"):
        shutil.copytree(PROJECT / folder, copy / folder, ignore=ignored)
    (copy / "conftest.py").write_text(PROFILE)
    modules = ", ".join(f'"tl_orchestration/{module}.py"' for module in group.modules)
    tests = ", ".join(f'"tests/{test}"' for test in group.tests)
    (copy / "pyproject.toml").write_text(CONFIGURATION.format(modules=modules, tests=tests))


def _run(copy: Path, seconds: float, only: list[str]) -> None:
    command = [sys.executable, "-m", "mutmut", "run", *only]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb"}
    with (copy / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=copy, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print(f"cut off after {seconds:.0f} s")
    if process.returncode > 0:
        print((copy / "log").read_text()[-3000:], file=sys.stderr)


def _mutmut(copy: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=copy, capture_output=True, text=True, check=True
    ).stdout


def _report(copy: Path) -> None:
    lines = [line.strip().rpartition(": ") for line in _mutmut(copy, "results", "--all", "true").splitlines()]
    states = {name: state for name, _, state in lines if "__mutmut_" in name}
    counts = Counter(states.values())
    found = sum(counts[state] for state in FOUND)
    survivors = sorted(name for name, state in states.items() if state in {"survived", "no tests"})
    checked = found + len(survivors)
    print(f"{len(states)} mutants, {checked} checked: {dict(counts)}")
    if checked:
        print(f"score: {found / checked:.1%} of those checked")
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for name, difference in zip(
            survivors, threads.map(lambda one: _mutmut(copy, "show", one), survivors), strict=True
        ):
            print(f"\n{name}: {states[name]}\n{difference}", flush=True)


if __name__ == "__main__":
    main()
