"""Where webhooks go, and what happens to those of a definition on the way."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from tl_orchestration.sandbox.checks import (
    is_number,
    is_object,
    is_seconds,
    is_text,
    is_whole,
    require,
    require_known,
)
from tl_orchestration.sandbox.services import B3OS, CURRENT

FORGERIES = ("signature", "body", "key", "unsigned")
"""A byte of the signature changed; a byte added to the body after signing; signed by another key; not signed."""

_MOST_COPIES = 20


@attrs.frozen(kw_only=True)
class Target:
    """
    One URL that webhooks are delivered to.

    Args:
        url: http or https.
        service: `transactionlink` (executions of the legacy API as well) or `b3os`.
        secret: signing secret, for B3OS.
    """

    url: str
    service: str = CURRENT
    secret: str | None = attrs.field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        """Refuse values of the wrong type: they come from files and over HTTP."""
        whole = is_text(self.url) and urlsplit(self.url).scheme in {"http", "https"} and bool(urlsplit(self.url).netloc)
        require(whole, "url must be an http or https address", self.url)
        require(self.service in {CURRENT, B3OS}, f"service must be {CURRENT} or {B3OS}", self.service)
        # The value itself is kept out of the sentence.
        needs = self.service == B3OS
        require(is_text(self.secret) == needs, f"a secret belongs to {B3OS} and must be a non-empty text", "this")


@attrs.frozen(kw_only=True)
class Script:
    """
    What happens to the deliveries of one definition; each event by itself, by chance where it is a share.

    Args:
        copies: how often an event is delivered.
        drop: share of the events, 0 to 1, that are never delivered.
        delay: seconds before the first copy, in real time.
        spread: each copy waits up to so many seconds more, so that deliveries overtake each other.
        forge: one of `FORGERIES`: with each event a forged delivery is sent, once.
    """

    copies: int = 1
    drop: float = 0.0
    delay: float = 0.0
    spread: float = 0.0
    forge: str | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse values of the wrong type: they come from files and over HTTP."""
        copies = is_whole(self.copies) and 1 <= self.copies <= _MOST_COPIES
        require(copies, f"copies must be a whole number from 1 to {_MOST_COPIES}", self.copies)
        require(is_number(self.drop) and 0 <= self.drop <= 1, "drop must be a share from 0 to 1", self.drop)
        require(is_seconds(self.delay), "delay must be seconds from 0", self.delay)
        require(is_seconds(self.spread), "spread must be seconds from 0", self.spread)
        require(self.forge is None or self.forge in FORGERIES, f"forge must be one of {FORGERIES}", self.forge)


def targets(given: Iterable[Any]) -> tuple[Target, ...]:
    """
    Read a list of targets, each one given whole or as a table of its fields.

    Raises:
        ValueError: no list, or one of them is unknown or wrong.
    """
    require(isinstance(given, list | tuple), "webhooks must be a list", type(given).__name__)
    return tuple(one if isinstance(one, Target) else Target(**_fields(Target, one)) for one in given)


def script(given: Any) -> Script:
    """
    Read a script, given whole or as an object of its fields.

    Raises:
        ValueError: a field is unknown or wrong.
    """
    return given if isinstance(given, Script) else Script(**_fields(Script, given))


def _fields(kind: type, given: Any) -> Mapping[str, Any]:
    require(is_object(given), f"a {kind.__name__.lower()} must be an object of fields", given)
    require_known(given, attrs.fields_dict(kind))
    require(kind is not Target or "url" in given, "a target must have a url", sorted(given))
    return dict(given)
