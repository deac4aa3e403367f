"""
Parameters and options of a start, from a file or standard input; what is personal never from the command line, which
every process can read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tl_orchestration import strict_json


def read_parameters(source: str | None) -> dict[str, Any]:
    """
    Read the JSON object that ``--parameters`` names.

    Raises:
        click.UsageError: See :func:`read_object`.
    """
    return {} if source is None else read_object(source, "--parameters")


def read_object(source: str, option: str, *, inline: bool = False) -> dict[str, Any]:
    """
    Read a JSON object.

    Args:
        source: A file, ``-`` for standard input, or, where ``inline``, the object itself.
        option: Which option named it, for messages.
        inline: Whether the object may stand in the argument, because its values are nobody's secret.

    Raises:
        click.UsageError: It cannot be read or is not a JSON object. The sentence quotes neither the content nor
            ``source``, which may be JSON that was given by mistake.
    """
    is_inline = source.lstrip().startswith(("{", "["))
    if is_inline and not inline:
        raise click.UsageError(f"{option} takes a file, or - for standard input; values do not belong in arguments.")
    try:
        text = source if is_inline else _read(source)
        document = strict_json.read(text)
    except OSError as error:
        raise click.UsageError(f"The {option} file cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{option} is not UTF-8.") from None
    except strict_json.NotJson as error:
        raise click.UsageError(f"{option} is not JSON ({error}).") from None
    if not isinstance(document, dict):
        raise click.UsageError(f"{option} must be a JSON object, such as {{…}}.")
    return document


def _read(source: str) -> str:
    if source == "-":
        # The bytes where there are any: JSON is UTF-8 whatever the locale says.
        buffer = getattr(sys.stdin, "buffer", None)
        return sys.stdin.read() if buffer is None else buffer.read().decode("utf-8-sig")
    return Path(source).read_bytes().decode("utf-8-sig")
