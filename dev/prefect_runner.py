"""
A process runner for flows of several files: ``python -m dev.prefect_runner file.py:flow ...``.

Each flow gets a deployment with the name :data:`DEPLOYMENT`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

DEPLOYMENT = "rig"


def main(entrypoints: list[str]) -> None:
    """
    Serve flows until a signal comes.

    Args:
        entrypoints: ``path/of/file.py:name_of_flow`` or ``name.of.module:name_of_flow``. No two files have the same
            name.
    """
    from prefect import serve

    deployments = []
    for file, _, name in (entrypoint.rpartition(":") for entrypoint in entrypoints):
        module = file
        if file.endswith(".py"):
            sys.path.insert(0, str(Path(file).parent))  # flow processes inherit it
            module = Path(file).stem
        flow = getattr(importlib.import_module(module), name)
        deployments.append(flow.to_deployment(DEPLOYMENT))
    serve(*deployments)


if __name__ == "__main__":
    main(sys.argv[1:])
