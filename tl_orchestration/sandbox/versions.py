"""Which form of an answer a request asks for by its `Accept` header, as far as anybody knows."""

from typing import Literal

import attrs
from starlette.requests import Request

from tl_orchestration.sandbox.answers import RefusedError
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.services import LEGACY
from tl_orchestration.sandbox.store import Store

Form = Literal["current", 1, 2]
"""The current API's own form, or one of the legacy versions."""


@attrs.frozen
class Accepted:
    """
    What an `Accept` header says.

    Args:
        version: of JSON, where it names one.
        names_json: whether it names JSON, with or without a version.
    """

    version: int | None = None
    names_json: bool = False


def accepted(header: str) -> Accepted:
    """Read an `Accept` header: of several JSON types the first with a version counts."""
    found = Accepted()
    for kind in header.split(","):
        name, *parameters = (part.strip().lower() for part in kind.split(";"))
        if name != "application/json":
            continue
        found = attrs.evolve(found, names_json=True)
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "version" and value.strip().isdecimal():
                return Accepted(int(value), names_json=True)
    return found


def check_version(store: Store, request: Request) -> None:
    """Refuse a version that may not exist, if it is to be refused."""
    version = accepted(request.headers.get("accept", "")).version
    if version is not None and version > 2 and store.variants["version_3"] != "taken":
        raise RefusedError(store.variants["version_3"], "NOT_ACCEPTABLE", f"There is no version {version}")


def legacy_version(request: Request) -> Literal[1, 2]:
    """The version that a legacy endpoint answers in: 1 unless another is asked for."""
    version = accepted(request.headers.get("accept", "")).version
    return 1 if version is None or version < 2 else 2


def form_of(store: Store, request: Request, execution: Execution) -> Form:
    """The form of an answer on a path that the current and the legacy API share."""
    asked = accepted(request.headers.get("accept", ""))
    match store.variants["status_shape"]:
        case "by-accept":
            legacy = asked.version in {1, 2} or (asked.version is None and asked.names_json)
        case "by-start":
            legacy = execution.service == LEGACY
        case shape:
            legacy = shape == "legacy"
    return legacy_version(request) if legacy else "current"
