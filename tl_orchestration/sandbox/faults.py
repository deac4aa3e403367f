"""Faults on order: which requests get a wrong answer, a late one, or none."""

import re
import threading
from collections.abc import Mapping
from typing import Any

import attrs

from tl_orchestration.sandbox.checks import is_object, is_seconds, is_text, is_whole, require, require_known
from tl_orchestration.sandbox.services import SERVICES

STEPS = (
    "start",
    "status",
    "result",
    "cancel",
    "authorize",
    "refresh",
    "cases",
    "case",
    "parameters",
    "token",
    "retry",
    "resume",
    "key",
)
"""
What faults strike. `start`, `status` and `cancel` exist in every service (POST and GET of B3OS runs among them),
`result` in both Transactionlink APIs, `authorize` to `token` in the legacy one (`cases` makes a case, `case`
reads one), `retry` and `resume` in B3OS.
"""

KINDS = ("status", "hold", "drop", "lose")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# The server writes these from the body; a second value would make the answer unreadable.
_FRAMING = frozenset({"content-length", "content-type", "transfer-encoding"})


@attrs.frozen(kw_only=True)
class Fault:
    """
    What happens to the next matching requests.

    Args:
        on: the step it strikes, one of `STEPS`.
        kind: `status` answers with another status and commits nothing; `drop` closes the connection and
            commits nothing; `hold` commits, then answers late; `lose` commits, then closes the connection
            without an answer.
        definition: strikes only this workflow definition, if given.
        service: strikes only this service, if given: one of `SERVICES`.
        times: how many requests it strikes.
        status: HTTP status to answer (kind `status`, where it is required).
        headers: more headers of that answer, such as `Retry-After`.
        body: its text; without one it is the service's own error body.
        content_type: of that text.
        seconds: how long to hold the answer, in real time, whatever the sandbox's clock says (kind `hold`,
            where it is required).

    Raises:
        ValueError: a value has the wrong type or range, or does not belong to this kind.
    """

    on: str
    kind: str
    definition: str | None = None
    service: str | None = None
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: str | None = None
    content_type: str = "text/plain;charset=UTF-8"
    seconds: float | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what could not be carried out: it comes over HTTP."""
        require(self.on in STEPS, f"on must be one of {', '.join(STEPS)}", self.on)
        require(self.kind in KINDS, f"kind must be one of {', '.join(KINDS)}", self.kind)
        require(self.definition is None or is_text(self.definition), "definition must be a name", self.definition)
        known = self.service is None or self.service in SERVICES
        require(known, f"service must be one of {', '.join(SERVICES)}", self.service)
        require(is_whole(self.times) and self.times >= 1, "times must be a whole number from 1", self.times)
        require((self.seconds is not None) == (self.kind == "hold"), "seconds belong to hold", self.seconds)
        require(self.seconds is None or is_seconds(self.seconds), "seconds must be 0 or more", self.seconds)
        require((self.status is not None) == (self.kind == "status"), "status belongs to status", self.status)
        self._require_sendable()

    def _require_sendable(self) -> None:
        statuses = range(200, 600)
        require(
            self.status is None or (is_whole(self.status) and self.status in statuses),
            "status must be a whole number from 200 to 599",
            self.status,
        )
        require(self.body is None or _is_any_text(self.body), "body must be a text", self.body)
        require(self.body is None or self.status not in {204, 304}, f"a {self.status} has no body", self.body)
        require(
            _is_header("content-type", self.content_type),
            "content_type is no header value",
            self.content_type,
        )
        require(is_object(self.headers), "headers must be an object", self.headers)
        for name, value in self.headers.items():
            require(_is_header(name, value), "headers must be names and texts", {name: value})
            require(name.lower() not in _FRAMING, "this header comes from the body and content_type", name)

    @classmethod
    def from_json(cls, given: Any) -> "Fault":
        """Read one fault. Raises `ValueError` for an unknown member, a missing one or a wrong value."""
        require(is_object(given), "a fault must be an object", given)
        require_known(given, attrs.fields_dict(cls))
        require("on" in given and "kind" in given, "a fault must say on and kind", sorted(given))
        return cls(**given)

    def described(self) -> dict[str, Any]:
        """The members that are set, as JSON."""
        return {name: value for name, value in attrs.asdict(self).items() if value not in (None, {})}


class Faults:
    """The faults still to come, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._lock = threading.Lock()

    @property
    def pending(self) -> list[Fault]:
        """What is still to come; `times` is what is left of it."""
        with self._lock:
            return list(self._pending)

    def add(self, *faults: Fault) -> None:
        """Put faults behind those already waiting."""
        with self._lock:
            self._pending.extend(faults)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._pending.clear()

    def take(self, step: str, definition: str | None, service: str | None = None) -> Fault | None:
        """The first fault for this step, definition and service, used up by one; `None` where there is none."""
        with self._lock:
            for place, fault in enumerate(self._pending):
                if fault.on == step and fault.definition in (None, definition) and fault.service in (None, service):
                    left = [attrs.evolve(fault, times=fault.times - 1)] if fault.times > 1 else []
                    self._pending[place : place + 1] = left
                    return fault
        return None


def _is_any_text(value: object) -> bool:
    return isinstance(value, str)


def _is_header(name: object, value: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, str)
        and _HEADER_NAME.fullmatch(name) is not None
        and _HEADER_VALUE.fullmatch(value) is not None
    )
