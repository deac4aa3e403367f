"""The credentials that a sandbox accepts, and what each one may do."""

from collections.abc import Iterable
from typing import Any, TypeVar

import attrs

from tl_orchestration.sandbox.checks import is_flag, is_object, is_text, require, require_known

SCOPES = ("read", "read-write")
"""What a B3OS key may do."""

_One = TypeVar("_One")


def _require_secret(value: object, what: str) -> None:
    # The value itself is kept out of the sentence: somebody may have written a real one here.
    require(is_text(value), f"{what} must be a non-empty text", type(value).__name__)


@attrs.frozen
class Token:
    """
    One credential that is sent as it is.

    Args:
        value: an organization token (`tot_...`, sent raw) or else a JWT (sent as `Bearer <jwt>`).
        can_run: may start executions.
        can_view: may read and cancel executions.
    """

    value: str = attrs.field(repr=False)
    can_run: bool = True
    can_view: bool = True

    def __attrs_post_init__(self) -> None:
        """Refuse values of the wrong type: they come from files."""
        _require_secret(self.value, "a token's value")
        require(is_flag(self.can_run), "can_run must be true or false", self.can_run)
        require(is_flag(self.can_view), "can_view must be true or false", self.can_view)

    @property
    def is_organization_token(self) -> bool:
        """Whether it is an organization token and no JWT."""
        return self.value.startswith("tot_")


@attrs.frozen
class Key:
    """
    One key and secret for `POST /auth/authorize`.

    Args:
        key: names the pair.
        secret: proves it.
        can_run: its JWTs may start executions.
        can_view: its JWTs may read and cancel executions.
    """

    key: str = attrs.field(repr=False)
    secret: str = attrs.field(repr=False)
    can_run: bool = True
    can_view: bool = True

    def __attrs_post_init__(self) -> None:
        """Refuse values of the wrong type: they come from files."""
        _require_secret(self.key, "a key")
        _require_secret(self.secret, "a secret")
        require(is_flag(self.can_run), "can_run must be true or false", self.can_run)
        require(is_flag(self.can_view), "can_view must be true or false", self.can_view)


@attrs.frozen
class ApiKey:
    """
    One B3OS key, sent as `Bearer <key>`.

    Args:
        value: the key, by custom `b3sk_...`.
        scope: `read` or `read-write`.
    """

    value: str = attrs.field(repr=False)
    scope: str = "read-write"

    def __attrs_post_init__(self) -> None:
        """Refuse values of the wrong type: they come from files."""
        _require_secret(self.value, "an api key's value")
        require(self.scope in SCOPES, "scope must be read or read-write", self.scope)


def read_list(kind: type[_One], what: str, given: Iterable[Any]) -> tuple[_One, ...]:
    """
    Read a list of credentials, each one given whole or as a table of its fields.

    Raises:
        ValueError: no list, or an entry has an unknown field, lacks one, or has a wrong value.
    """
    require(isinstance(given, list | tuple), f"{what}s must be a list", type(given).__name__)
    return tuple(one if isinstance(one, kind) else kind(**_fields(kind, what, one)) for one in given)


def _fields(kind: type, what: str, given: Any) -> dict[str, Any]:
    require(is_object(given), f"a {what} must be a table", type(given).__name__)
    known = attrs.fields_dict(kind)
    require_known(given, known)
    for name, field in known.items():
        require(name in given or field.default is not attrs.NOTHING, f"a {what} must have a {name}", sorted(given))
    return dict(given)
