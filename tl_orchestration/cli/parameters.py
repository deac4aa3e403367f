"""
Parameters and options of a start, from a file or standard input; what is personal never from the command line, which
every process can read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click


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
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except OSError as error:
        raise click.UsageError(f"The {option} file cannot be read ({error.strerror}).") from None
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{option} is not JSON (line {error.lineno}, column {error.colno}).") from None
    except (ValueError, RecursionError) as error:
        reason = error.args[0] if isinstance(error, _NotJson) else type(error).__name__
        raise click.UsageError(f"{option} is not JSON ({reason}).") from None
    if not isinstance(document, dict):
        raise click.UsageError(f"{option} must be a JSON object, such as {{…}}.")
    return document


def _read(source: str) -> str:
    if source == "-":
        # The bytes where there are any: JSON is UTF-8 whatever the locale says.
        buffer = getattr(sys.stdin, "buffer", None)
        return sys.stdin.read() if buffer is None else buffer.read().decode("utf-8-sig")
    return Path(source).read_bytes().decode("utf-8-sig")


class _NotJson(ValueError):
    """
    Carries a reason that quotes nothing.
    """


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _NotJson("duplicate keys")
    return document


def _no_constant(name: str) -> NoReturn:
    raise _NotJson("NaN and Infinity are not JSON")
