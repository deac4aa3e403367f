"""What may come in: predicates over untrusted values, and readers that refuse with one sentence."""

import json
from collections.abc import Iterable
from typing import Any, Never, TypeGuard

MOST_SECONDS = 1e9
"""About 31 years: longer would run out of the calendar."""


def require(holds: bool, sentence: str, value: object) -> None:
    """Raise `ValueError` with the sentence and the value it is about, unless `holds`."""
    if not holds:
        raise ValueError(f"{sentence}, not {value!r}")


def require_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ValueError` naming the first unknown key, so that a misspelt setting is never ignored."""
    known = sorted(known)
    for key in given:
        if key not in known:
            raise ValueError(f"unknown key {key!r}; known keys: {', '.join(known)}")


def is_text(value: object) -> bool:
    """Whether the value is a string with something in it."""
    return isinstance(value, str) and value != ""


def is_number(value: object) -> TypeGuard[float]:
    """Whether the value is an int or float, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_seconds(value: object) -> TypeGuard[float]:
    """Whether the value is a number from 0 to `MOST_SECONDS`."""
    return is_number(value) and 0 <= value <= MOST_SECONDS


def is_whole(value: object) -> bool:
    """Whether the value is an int, and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_flag(value: object) -> bool:
    """Whether the value is a boolean."""
    return isinstance(value, bool)


def is_object(value: object) -> bool:
    """Whether the value is a JSON object: a dict with text keys."""
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def is_json_object(value: object) -> bool:
    """Whether the value is an object that can be written as JSON; TOML has times, which cannot."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return is_object(value)


def read_json(body: bytes) -> Any:
    """Read strict JSON (no NaN, no Infinity). Raises `ValueError` with one sentence."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError("the body is not JSON") from error


def read_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises `ValueError` with one sentence."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise ValueError("the body is not a JSON object")
    return value


def _refuse_constant(name: str) -> Never:
    raise ValueError(name)
