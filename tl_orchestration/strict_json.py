"""
JSON in one reading only: UTF-8, each member once, finite numbers, not too deep.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class NotJson(ValueError):
    """
    Its text says why, and quotes nothing.
    """


def read(data: str | bytes) -> Any:
    """
    The value of a JSON text.

    Raises:
        NotJson: It is none, or two readers could understand it in different ways.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        raise NotJson(f"line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError:
        raise NotJson("not UTF-8") from None
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except ValueError:
        raise NotJson("a number out of range") from None  # more digits than Python reads


def strict_object(data: str | bytes) -> dict[str, Any]:
    """
    The same of a JSON object.

    Raises:
        NotJson: As :func:`read`, or it is something else.
    """
    value = read(data)
    if not isinstance(value, dict):
        raise NotJson("not an object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise NotJson("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # 1e999 is JSON, but no number that anybody can go on with
        raise NotJson("a number out of range")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotJson("an object with duplicate keys")
    return members


__all__ = ["NotJson", "read", "strict_object"]
