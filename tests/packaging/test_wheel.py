"""
What is installed: the wheel alone, away from its source.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dev.distribution import build

PROJECT = Path(__file__).parents[2]


def call(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, PROJECT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it requires, and no extra."""
    home = tmp_path_factory.mktemp("bare")
    call(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, home / "env", cwd=home)
    python = home / "env" / "bin" / "python"
    constraints = PROJECT / "constraints" / "airflow.txt"
    call(sys.executable, "-m", "uv", "pip", "install", "-q", "--python", python, "-c", constraints, wheel, cwd=home)
    return python


def test_wheel_has_exactly_our_names(wheel: Path) -> None:
    """The wheel brings our packages, typed, and nothing else that could be imported."""
    names = zipfile.ZipFile(wheel).namelist()

    top = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert top == {"airflow_provider", "prefect_blocks", "tl_orchestration"}
    assert {f"{package}/py.typed" for package in top} <= set(names)


def test_core_works_without_extras(bare_python: Path, tmp_path: Path) -> None:
    """The core imports with its own requirements alone, and brings neither orchestrator nor server."""
    heavy = ("airflow", "prefect", "sqlalchemy", "starlette", "uvicorn", "click", "rich")
    script = (
        "import sys, tl_orchestration as t, tl_orchestration.outcome;"
        "client = t.Client(t.OrganizationToken('tot_x'));"
        f"print(client.base_url, sorted(set(sys.modules) & set({heavy!r})))"
    )
    assert call(bare_python, "-c", script, cwd=tmp_path).split() == ["https://api.transactionlink.io", "[]"]


def test_command_names_the_extra_that_is_missing(bare_python: Path, tmp_path: Path) -> None:
    """`tl` without its extra says in one line how to get it."""
    done = subprocess.run(
        [bare_python.parent / "tl", "run", "x"], cwd=tmp_path, capture_output=True, text=True, timeout=180
    )

    assert done.returncode == 2
    assert done.stderr.strip() == "tl needs an extra: pip install 'tl-orchestration[cli]'"


@pytest.mark.slow
def test_airflow_finds_what_the_wheel_brings(wheel: Path, tmp_path: Path) -> None:
    """Provider, plugin and `@task.transactionlink` come from the installed wheel, in an environment with Airflow."""
    call(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    call(sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--python", python, wheel, cwd=tmp_path)
    # Airflow and all else from here, but not the installation of this checkout, whose metadata would be found as well.
    installed, ours = (
        Path(call(one, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
        for one in (python, sys.executable)
    )
    for found in ours.iterdir():
        if "tl_orchestration" not in found.name and not (installed / found.name).exists():
            (installed / found.name).symlink_to(found)
    script = (
        "import airflow_provider, tl_orchestration\n"
        "from airflow.plugins_manager import get_plugin_info\n"
        "from airflow.providers_manager import ProvidersManager\n"
        "from airflow.sdk import task\n"
        "providers = ProvidersManager()\n"
        "found = [airflow_provider.__file__, tl_orchestration.__file__, task.transactionlink.__module__,"
        " 'tl-orchestration' in providers.providers, 'transactionlink' in providers.hooks,"
        " 'transactionlink' in [plugin['name'] for plugin in get_plugin_info(['name'])]]\n"
        "print('FOUND', *found)\n"
    )
    env = {"AIRFLOW_HOME": str(tmp_path / "airflow"), "PATH": os.environ["PATH"]}
    done = subprocess.run([python, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

    (said,) = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FOUND")]
    files = [str(installed / name / "__init__.py") for name in ("airflow_provider", "tl_orchestration")]
    assert said == [*files, "airflow_provider.decorators", "True", "True", "True"]


def test_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    """Wheel and source distribution depend on the source alone: not on its place, times, rights or the calendar."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "docs", "constraints")
    built = []
    for place, mode, moment in (("a", 0o644, 1_600_000_000), ("far/away/b", 0o664, 1_700_000_000)):
        source = tmp_path / place / "checkout"
        shutil.copytree(PROJECT, source, ignore=ignored)
        for file in source.rglob("*.py"):
            file.chmod(mode)
            os.utime(file, (moment, moment))
        built.append(
            {path.name: path.read_bytes() for path in build(source, tmp_path / place / "out", epoch="1700000000")}
        )

    assert len(built[0]) == 2
    assert built[0] == built[1]
