"""
The remote APIs. A service file is the only place that knows paths, headers and JSON names.

Each verb is a generator: it yields a request, is sent the response and returns a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Protocol

from tl_orchestration.errors import InvalidSettings
from tl_orchestration.exchange import Flow, Send
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.services.transactionlink import Transactionlink


class Service(Protocol):
    """
    One remote API in our vocabulary. ``send`` decides how persistently each request is sent.
    """

    name: ClassVar[str]
    default_base_url: ClassVar[str]

    def run(self, request: RunRequest, expires_at: datetime, send: Send) -> Flow[Execution]: ...
    def poll(self, execution_id: str, send: Send) -> Flow[Execution]: ...
    def result(self, execution_id: str, send: Send) -> Flow[dict[str, Any]]: ...
    def cancel(self, execution_id: str, send: Send) -> Flow[Execution]: ...
    def check(self, probe_id: str, send: Send) -> Flow[None]: ...


SERVICES: Mapping[str, Callable[..., Service]] = {Transactionlink.name: Transactionlink}


def service_named(name: str) -> Callable[..., Service]:
    """
    The service of that name.

    Raises:
        InvalidSettings: There is none.
    """
    try:
        return SERVICES[name]
    except KeyError:
        known = ", ".join(sorted(SERVICES))
        raise InvalidSettings(f"There is no service {name!r}; known are: {known}.") from None


__all__ = ["SERVICES", "Service", "service_named"]
