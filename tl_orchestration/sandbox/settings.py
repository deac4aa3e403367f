"""How a sandbox is set up: tokens, definitions, and the variants of what the documentation leaves open."""

import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import attrs

from tl_orchestration.sandbox.checks import is_flag, is_object, is_text, is_whole, require, require_known
from tl_orchestration.sandbox.definitions import SCRIPTED, Definition, merged

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
"""The written form of a uuid; `uuid.UUID` would also take braces, `urn:` and missing hyphens."""

SANDBOX_JWT = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJ3b3Jrc3BhY2VJZCI6InNhbmRib3gifQ.c2FuZGJveA"
"""A value shaped like a JWT; it opens nothing but this sandbox."""


@attrs.frozen
class Token:
    """
    One accepted credential and its permissions.

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
        # The value itself is kept out of the sentence: somebody may have written a real token here.
        require(is_text(self.value), "a token's value must be a non-empty text", type(self.value).__name__)
        require(is_flag(self.can_run), "can_run must be true or false", self.can_run)
        require(is_flag(self.can_view), "can_view must be true or false", self.can_view)

    @property
    def header(self) -> str:
        """The only value of the `Authorization` header that presents this token."""
        return self.value if self.value.startswith("tot_") else f"Bearer {self.value}"


def _tokens(given: Iterable[Any]) -> tuple[Token, ...]:
    require(isinstance(given, list | tuple), "tokens must be a list", type(given).__name__)
    tokens = []
    for token in given:
        if not isinstance(token, Token):
            require(is_object(token), "a token must be a table", type(token).__name__)
            require_known(token, ("value", "can_run", "can_view"))
            require("value" in token, "a token must have a value", sorted(token))
            token = Token(**token)
        tokens.append(token)
    return tuple(tokens)


def _definitions(given: Mapping[str, Any]) -> Mapping[str, Definition]:
    require(is_object(given), "definitions must be a table", given)
    return merged(SCRIPTED, given)


def _public_url(given: str | None) -> str | None:
    if given is None:
        return None
    require(is_text(given), "public_url must be a text", given)
    parts = urlsplit(given)
    whole = parts.scheme in {"http", "https"} and bool(parts.netloc) and not (parts.query or parts.fragment)
    require(whole, "public_url must be an http or https address without query", given)
    return given.rstrip("/")


@attrs.frozen(kw_only=True)
class SandboxSettings:
    """
    The settings of one sandbox.

    Args:
        tokens: accepted credentials; by default `tot_sandbox` (may do everything), `tot_sandbox_no_run`,
            `tot_sandbox_no_view` and `SANDBOX_JWT`.
        definitions: by name, laid over the scripted ones: a `Definition`, or an object of fields to change.
        seed: makes ids repeat from run to run. Without one they are fresh, so that a client that remembers
            an id never meets another execution under it.
        workspace_id: a uuid, told in every answer.
        cancel_finished: the answer to cancelling a finished execution: 200 or 400; undocumented.
        link_in_status: whether the status answer of an interactive execution repeats `link` and `token`;
            undocumented.
        public_url: base of the hosted page's links, where the request's own host is not reachable for people.
        clock: gives epoch seconds.

    Raises:
        ValueError: a setting has the wrong type or value.
    """

    tokens: tuple[Token, ...] = attrs.field(
        converter=_tokens,
        default=(
            Token("tot_sandbox"),
            Token("tot_sandbox_no_run", can_run=False),
            Token("tot_sandbox_no_view", can_view=False),
            Token(SANDBOX_JWT),
        ),
    )
    definitions: Mapping[str, Definition] = attrs.field(converter=_definitions, factory=dict)
    seed: int | None = None
    workspace_id: str = "3f0c1d52-7a54-4a0e-9d0b-5f1f6a2f9c11"
    cancel_finished: int = 200
    link_in_status: bool = True
    public_url: str | None = attrs.field(converter=_public_url, default=None)
    clock: Callable[[], float] = time.time

    def __attrs_post_init__(self) -> None:
        """Refuse values of the wrong type: they come from files."""
        require(self.seed is None or is_whole(self.seed), "seed must be a whole number", self.seed)
        require(
            is_text(self.workspace_id) and UUID.fullmatch(self.workspace_id) is not None,
            "workspace_id must be a uuid",
            self.workspace_id,
        )
        variant = self.cancel_finished
        require(is_whole(variant) and variant in {200, 400}, "cancel_finished must be 200 or 400", variant)
        require(is_flag(self.link_in_status), "link_in_status must be true or false", self.link_in_status)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """
        Read settings from a TOML file: the fields of this class except `clock`.

        `[[tokens]]` tables have `value`, `can_run`, `can_view`; `[definitions.NAME]` tables have the fields
        of `Definition`, and `like`. A duration of `inf` means never.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not TOML, or a setting is unknown or wrong; the sentence begins with the path.
        """
        try:
            given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            require_known(given, set(attrs.fields_dict(cls)) - {"clock"})
            return cls(**given)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
