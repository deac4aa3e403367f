"""
JSON in one reading only: UTF-8, each member once, finite numbers.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def strict_object(data: bytes) -> dict[str, Any]:
    """
    The bytes as a JSON object.

    Raises:
        ValueError: They are not one, or two readers could understand them in different ways. Quotes nothing of them.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError):
        raise ValueError("not JSON in one reading") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members
