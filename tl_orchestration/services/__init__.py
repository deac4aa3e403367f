"""
The remote APIs. A service file is the only place that knows paths, headers and JSON names.

Each verb is a generator: it yields a request, is sent the response and returns a value.
"""

from __future__ import annotations

from collections.abc import Mapping

from tl_orchestration.errors import InvalidSettings
from tl_orchestration.services.b3os import B3os
from tl_orchestration.services.legacy import Legacy
from tl_orchestration.services.service import Service
from tl_orchestration.services.transactionlink import Transactionlink

SERVICES: Mapping[str, type[Service]] = {service.name: service for service in (Transactionlink, Legacy, B3os)}


def service_named(name: str) -> type[Service]:
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
