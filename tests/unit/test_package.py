"""The public surface is what it says, and importing it costs nothing."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import tl_orchestration
import tl_orchestration.ledger
import tl_orchestration.testing

PUBLIC = [tl_orchestration, tl_orchestration.ledger, tl_orchestration.testing]


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: str(module.__name__))
def test_public_names(module: object) -> None:
    """__all__ is sorted, has no double, and every name in it is there and documented."""
    names = list(getattr(module, "__all__", []))
    assert sorted(set(names)) == names
    values = [getattr(module, name) for name in names]
    assert [name for name, value in zip(names, values, strict=True) if not inspect.getdoc(value)] == []


def test_names_of_the_design_are_there() -> None:
    """What users rely on is importable from the top."""
    relied_on = {"Client", "AsyncClient", "RunRequest", "Execution", "Status", "OrganizationToken"}
    assert relied_on <= set(tl_orchestration.__all__)


def test_star_import_brings_the_public_names_only() -> None:
    """A star import brings __all__."""
    program = (
        "before = set(globals()); from tl_orchestration import *; print(*sorted(set(globals()) - before - {'before'}))"
    )
    assert sorted(tl_orchestration.__all__) == python(program).split()


def test_core_knows_no_orchestrator() -> None:
    """No module of the core, the command line and the sandbox aside, brings Airflow or Prefect with it."""
    program = (
        "import importlib, pkgutil, sys, tl_orchestration\n"
        "for one in pkgutil.walk_packages(tl_orchestration.__path__, 'tl_orchestration.'):\n"
        "    if not one.name.startswith(('tl_orchestration.cli', 'tl_orchestration.sandbox')):\n"
        "        try:\n"
        "            importlib.import_module(one.name)\n"
        "        except ModuleNotFoundError as missing:\n"
        "            assert not missing.name.startswith('tl_orchestration'), missing\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'airflow', 'airflow_provider', 'prefect'}))\n"
    )
    assert python(program) == ""


def test_importing_opens_no_connection() -> None:
    """Importing makes no socket, resolves no name and starts no thread."""
    program = (
        "import socket, sys, threading\n"
        "def refuse(event, arguments):\n"
        "    if event.startswith('socket.') and event not in {'socket.__new__', 'socket.gethostname'}:\n"
        "        raise RuntimeError(event)\n"
        "    if event == 'socket.__new__':\n"
        "        raise RuntimeError(event)\n"
        "sys.addaudithook(refuse)\n"
        "import tl_orchestration, tl_orchestration.ledger, tl_orchestration.errors\n"
        "print(threading.active_count())\n"
    )
    assert python(program) == "1"


@pytest.mark.parametrize("name", ["tl_orchestration.outcome", "tl_orchestration.ledger.conformance"])
def test_what_is_used_by_name_is_importable_alone(name: str) -> None:
    """Each module can be imported first."""
    assert python(f"import {name}") == ""
    assert importlib.import_module(name).__doc__
