"""
A process runner for flows of several files: ``python -m dev.prefect_runner file.py:flow ...``.

Each flow gets a deployment with the name :data:`DEPLOYMENT`.
"""

from __future__ import annotations

import sys

DEPLOYMENT = "rig"


def main(entrypoints: list[str]) -> None:
    """
    Serve flows until a signal comes.

    Args:
        entrypoints: ``path/of/file.py:name_of_flow``.
    """
    from prefect import serve
    from prefect.flows import load_flow_from_entrypoint

    flows = [load_flow_from_entrypoint(entrypoint) for entrypoint in entrypoints]
    serve(*[flow.to_deployment(DEPLOYMENT) for flow in flows])


if __name__ == "__main__":
    main(sys.argv[1:])
