"""What the body of `POST /workflows` must look like."""

from typing import Any

import attrs

from tl_orchestration.sandbox.checks import is_object, is_text, read_object, require
from tl_orchestration.sandbox.clock import to_epoch
from tl_orchestration.sandbox.settings import UUID
from tl_orchestration.sandbox.variants import Variants

SHORTEST_LIFETIME = 30 * 60
LONGEST_LIFETIME = 30 * 24 * 3600
"""Bounds of `expiresAt`, in seconds from now."""


@attrs.frozen(kw_only=True)
class StartBody:
    """The checked members of a start."""

    definition: str
    locale: str
    parameters: dict[str, Any]
    expires_at: float | None
    record_id: str | None


def read_start(raw: bytes, now: float, variants: Variants) -> StartBody:
    """
    Check the body of a start. Raises `ValueError` with the sentence for the answer.

    Absent `parameters` are normally taken as none: the vendor's own sample leaves them out. Unknown members are
    ignored, such as `uiMode` of older samples.
    """
    body = read_object(raw)
    definition: Any = body.get("workflowDefinitionId")
    locale: Any = body.get("locale")
    parameters: Any = body.get("parameters", None if variants["parameters_required"] else {})
    require(is_text(definition), "workflowDefinitionId must be a non-empty string", definition)
    require(is_text(locale), "locale must be a non-empty string", locale)
    require(is_object(parameters), "parameters must be an object", parameters)
    return StartBody(
        definition=definition,
        locale=locale,
        parameters=parameters,
        expires_at=_expiry(body.get("expiresAt"), now, variants),
        record_id=optional_uuid(body, "recordId"),
    )


def optional_uuid(body: dict[str, Any], name: str) -> str | None:
    """A member that is a uuid, null or absent. Raises `ValueError` for anything else."""
    value = body.get(name)
    whole = value is None or (isinstance(value, str) and UUID.fullmatch(value) is not None)
    require(whole, f"{name} must be a uuid", value)
    return value


def _expiry(given: Any, now: float, variants: Variants) -> float | None:
    if given is None:
        return None
    try:
        expires_at = to_epoch(given)
    except ValueError as error:
        raise ValueError(f"expiresAt is {error}") from error
    if variants["expiry_rule"] == "enforced":
        within = SHORTEST_LIFETIME <= expires_at - now <= LONGEST_LIFETIME
        require(within, "expiresAt must be between 30 minutes and 30 days from now", given)
    return expires_at
