"""
The command line, ``tl``. Importing this needs no extra; running it needs ``tl-orchestration[cli]``.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """
    Run ``tl`` with the process's arguments, and exit as :mod:`tl_orchestration.cli.outcomes` says.
    """
    try:
        import click  # noqa: F401 -- both are only asked for here; the commands import what they use
        import rich  # noqa: F401
    except ImportError:
        sys.exit(missing_extra("cli"))
    try:
        from tl_orchestration.cli.commands import tl

        tl.main(prog_name="tl")
    except KeyboardInterrupt:
        sys.exit(130)


def missing_extra(extra: str) -> int:
    """
    Say on stderr which extra is missing. Returns the exit code.
    """
    print(f"tl needs an extra: pip install 'tl-orchestration[{extra}]'", file=sys.stderr)
    return 2
