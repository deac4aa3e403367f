"""What is remembered of every start and cancel: the oracle in a hunt for duplicates and stray cancels."""

from collections.abc import Mapping
from typing import Any

import attrs

from tl_orchestration.sandbox.clock import to_text

_OF_INTEREST = ("accept", "content-type", "traceparent", "user-agent", "x-request-id")


def headers_of_interest(headers: Mapping[str, str]) -> dict[str, str]:
    """Those headers of a start that are remembered: never `Authorization`."""
    return {name: headers[name] for name in _OF_INTEREST if name in headers}


@attrs.frozen(kw_only=True)
class Start:
    """
    One committed start.

    Args:
        service: which API it came by, one of `SERVICES`.
        time: epoch seconds.
        expires_at: epoch seconds as asked for; `None` where the request named none.
        details: what only this service knows, such as `case_id` or `idempotency_key`.
        request: number of the request that did it, counted from 1 over all requests but `/_sandbox`.
        headers: those of interest, never the value of `Authorization`.
    """

    execution_id: str
    definition: str
    time: float
    service: str
    record_id: str | None
    locale: str | None
    expires_at: float | None
    parameters: Mapping[str, Any] = attrs.field(repr=False)
    details: Mapping[str, Any]
    headers: Mapping[str, str]
    request: int

    def described(self) -> dict[str, Any]:
        """The fields as JSON members, with times as text."""
        expires_at = None if self.expires_at is None else to_text(self.expires_at)
        return attrs.asdict(self, recurse=False) | {"time": to_text(self.time), "expires_at": expires_at}


@attrs.frozen(kw_only=True)
class Cancel:
    """
    One cancel of an execution that exists.

    Args:
        time: epoch seconds.
        status_before: the status it found.
        took_effect: whether the execution was still active.
        request: number of the request that did it.
    """

    execution_id: str
    definition: str
    time: float
    status_before: str
    took_effect: bool
    request: int

    def described(self) -> dict[str, Any]:
        """The fields as JSON members, with the time as text."""
        return attrs.asdict(self) | {"time": to_text(self.time)}
