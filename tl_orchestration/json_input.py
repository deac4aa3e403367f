"""
JSON that a user hands in: checked before anything is sent, copied, and never quoted in an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from tl_orchestration.errors import InvalidRequest

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_DEEPEST = 64


def json_copy(value: object, name: str) -> dict[str, Any]:
    """
    A deep copy of a JSON object, which later changes of the original do not reach.

    Args:
        name: What the object is called, for the error.

    Raises:
        InvalidRequest: It is not a JSON object. The message names the first wrong place by its path and type.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} must be a JSON object (a dict), not {kind_of(value)}.")
    try:
        _check(value, name, depth=0)
        return json.loads(json.dumps(deepcopy(dict(value)), allow_nan=False))  # type: ignore[no-any-return]
    except InvalidRequest:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} cannot be written as JSON ({type(error).__name__}).") from None


def check_scalar(value: object, path: str) -> None:
    """
    Raises:
        InvalidRequest: JSON cannot hold the value.
    """
    if isinstance(value, str):
        if _LONE_SURROGATE.search(value):
            raise InvalidRequest(f"{path} is text with half of a surrogate pair, which no encoding can hold.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"{path} is not a finite number.")
    elif value is not None and not isinstance(value, int):
        raise InvalidRequest(f"{path} is {kind_of(value)}, which JSON cannot hold.")


def kind_of(value: object) -> str:
    """
    What a value is, in words that do not show it.
    """
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _check(value: object, path: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidRequest(f"{path} is nested too deeply.")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidRequest(f"{path} has a key that is {kind_of(key)}; JSON keys are strings.")
            check_scalar(key, f"{path} has a key that")
            _check(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth + 1)
    else:
        check_scalar(value, path)
