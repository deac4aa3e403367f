"""
Which service a key belongs to: the same key means another step at another service, host or workspace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tl_orchestration.ledger import Ledger

_DEFAULT_PORTS = {"https": 443, "http": 80}


@runtime_checkable
class Namespaced(Protocol):
    """
    A ledger that keeps the keys of several services apart.
    """

    def for_namespace(self, namespace: str) -> Ledger:
        """
        The same store, bound to a namespace. A ledger that is bound already stays as it is.
        """


def namespace_of(service: str, base_url: str, workspace_id: str | None) -> str:
    """
    One string for service, host and workspace: ``transactionlink@api.transactionlink.io/WORKSPACE``.

    The port is part of the host unless it is the usual one; the path is not, for it may change with a proxy.
    """
    parts = urlsplit(base_url)
    usual = parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme)
    host = (parts.hostname or "") + ("" if usual else f":{parts.port}")
    return f"{service}@{host}" + (f"/{workspace_id.lower()}" if workspace_id else "")


def bound(ledger: Ledger, namespace: str) -> Ledger:
    """
    The ledger for this namespace, or the ledger itself where it knows none.
    """
    return ledger.for_namespace(namespace) if isinstance(ledger, Namespaced) else ledger


__all__ = ["Namespaced", "bound", "namespace_of"]
