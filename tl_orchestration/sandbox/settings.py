"""How a sandbox is set up: credentials, definitions, and the variants of what the documentation leaves open."""

import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import attrs

from tl_orchestration.sandbox.checks import (
    MOST_SECONDS,
    is_object,
    is_seconds,
    is_text,
    is_whole,
    require,
    require_known,
)
from tl_orchestration.sandbox.credentials import ApiKey, Key, Token, read_list
from tl_orchestration.sandbox.definitions import SCRIPTED, Definition, merged
from tl_orchestration.sandbox.variants import Value, checked
from tl_orchestration.sandbox.webhooks.scripts import Target, targets

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
"""The written form of a uuid; `uuid.UUID` would also take braces, `urn:` and missing hyphens."""

SANDBOX_JWT = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJ3b3Jrc3BhY2VJZCI6InNhbmRib3gifQ.c2FuZGJveA"
"""A value shaped like a JWT; it opens nothing but this sandbox."""


def _tokens(given: Iterable[Any]) -> tuple[Token, ...]:
    return read_list(Token, "token", given)


def _keys(given: Iterable[Any]) -> tuple[Key, ...]:
    return read_list(Key, "key", given)


def _api_keys(given: Iterable[Any]) -> tuple[ApiKey, ...]:
    return read_list(ApiKey, "api_key", given)


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
        tokens: Transactionlink credentials; by default `tot_sandbox` (may do everything), `tot_sandbox_no_run`,
            `tot_sandbox_no_view` and `SANDBOX_JWT`.
        keys: for `POST /auth/authorize`; by default `sandbox-key` with `sandbox-secret`.
        token_lifetime: whole seconds that an authorization lasts.
        api_keys: B3OS keys; by default `b3sk_sandbox` (read-write) and `b3sk_sandbox_read`.
        organization_id: the B3OS organization that these keys belong to.
        resume_secret: what a B3OS node is resumed with.
        definitions: by name, laid over the scripted ones: a `Definition`, or an object of fields to change.
        seed: makes ids repeat from run to run. Without one they are fresh, so that a client that remembers
            an id never meets another execution under it.
        workspace_id: a uuid, told in every answer.
        variants: readings of what is undocumented, by name (see `variants.TABLE`), where not the default.
        cancel_finished: the variant of this name; one among `variants` goes before it.
        link_in_status: likewise.
        webhooks: where webhooks are delivered to; by default nowhere.
        webhook_retries: how often a failed delivery is tried again.
        webhook_interval: seconds between its attempts.
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
    keys: tuple[Key, ...] = attrs.field(converter=_keys, default=(Key("sandbox-key", "sandbox-secret"),))
    token_lifetime: int = 3600
    api_keys: tuple[ApiKey, ...] = attrs.field(
        converter=_api_keys,
        default=(ApiKey("b3sk_sandbox"), ApiKey("b3sk_sandbox_read", "read")),
    )
    organization_id: str = "org_sandbox"
    resume_secret: str = attrs.field(default="sandbox-resume", repr=False)
    definitions: Mapping[str, Definition] = attrs.field(converter=_definitions, factory=dict)
    seed: int | None = None
    workspace_id: str = "3f0c1d52-7a54-4a0e-9d0b-5f1f6a2f9c11"
    variants: Mapping[str, Value] = attrs.field(converter=checked, factory=dict)
    cancel_finished: int = 200
    link_in_status: bool = True
    webhooks: tuple[Target, ...] = attrs.field(converter=targets, default=())
    webhook_retries: int = 5
    webhook_interval: float = 5.0
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
        lifetime = self.token_lifetime
        require(is_whole(lifetime) and 1 <= lifetime <= MOST_SECONDS, "token_lifetime must be whole seconds", lifetime)
        retries = self.webhook_retries
        require(is_whole(retries) and retries >= 0, "webhook_retries must be a whole number from 0", retries)
        require(is_seconds(self.webhook_interval), "webhook_interval must be seconds from 0", self.webhook_interval)
        require(is_text(self.organization_id), "organization_id must be a non-empty text", self.organization_id)
        # The value itself is kept out of the sentence, as with the other credentials.
        require(
            is_text(self.resume_secret), "resume_secret must be a non-empty text", type(self.resume_secret).__name__
        )
        checked(self._shorthands())

    @property
    def first_variants(self) -> dict[str, Value]:
        """The variants to begin with, where not the default."""
        return self._shorthands() | dict(self.variants)

    def _shorthands(self) -> dict[str, Value]:
        return {"cancel_finished": self.cancel_finished, "link_in_status": self.link_in_status}

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """
        Read settings from a TOML file: the fields of this class except `clock`.

        `[[tokens]]`, `[[keys]]`, `[[api_keys]]` and `[[webhooks]]` tables have the fields of `Token`, `Key`, `ApiKey`
        and `Target`;
        `[definitions.NAME]` tables have the fields of `Definition`, and `like`; `[variants]` has readings by
        name. A duration of `inf` means never.

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
