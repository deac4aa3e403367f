"""
Where to send, and how: checked once, before anything is sent.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # documented nowhere, stable since 3.0; httpx uses it too

import certifi
from attrs import field, frozen, validators

from tl_orchestration.errors import InvalidSettings
from tl_orchestration.status import Status, StatusMap

ALLOWED_HOSTS_VARIABLE = "TRANSACTIONLINK_ALLOWED_HOSTS"
#: Of the current and the legacy API (contract A1).
VENDOR_URL = "https://api.transactionlink.io"
#: The vendors' own hosts (contract A1, B1).
VENDOR_HOSTS = frozenset({"api.transactionlink.io", "api.b3os.org"})
_DECOMMISSIONED = frozenset({"api.sandbox.transactionlink.io"})


def base_url(value: str, allowed: Iterable[str] | None = None) -> str:
    """
    A base URL that may be called, without a trailing slash.

    https only, except that loopback and a host that is named with ``http://`` in the allow-list may be http. No
    user-info, no query, no fragment. Hosts outside the allow-list are refused; without one, it is the vendors' hosts
    and loopback. A list that is given replaces both.

    Args:
        value: The URL.
        allowed: Host names, or ``http://host`` for a sandbox without TLS; None: the environment variable
            ``TRANSACTIONLINK_ALLOWED_HOSTS`` (comma-separated).

    Raises:
        InvalidSettings: It may not be called. The message never quotes user-info.
    """
    try:
        parts = urlsplit(value.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidSettings("The base URL is not a URL.") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise InvalidSettings("The base URL must look like https://api.transactionlink.io.")
    if parts.username is not None or parts.password is not None:
        raise InvalidSettings("The base URL must not carry a user name or password; the token has its own field.")
    if parts.query or parts.fragment:
        raise InvalidSettings("The base URL must not have a query or a fragment.")
    if host in _DECOMMISSIONED:
        raise InvalidSettings(f"{host} was decommissioned by the vendor on 2026-04-29; use api.transactionlink.io.")
    secure, plain = _allow_list(allowed)
    if host not in secure | plain and not (secure is VENDOR_HOSTS and is_loopback(host)):
        raise InvalidSettings(
            f"The host {host} is not on the allow-list. If it is yours, name it in {ALLOWED_HOSTS_VARIABLE}"
            " (comma-separated)."
        )
    if parts.scheme == "http" and host not in plain and not is_loopback(host):
        raise InvalidSettings(f"{host} must be called by https; only loopback may be http.")
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{path}"


def _allow_list(allowed: Iterable[str] | None) -> tuple[frozenset[str], frozenset[str]]:
    named = os.environ.get(ALLOWED_HOSTS_VARIABLE, "").split(",") if allowed is None else list(allowed)
    entries = {entry.strip().lower() for entry in named if entry.strip()}
    plain = frozenset(entry.removeprefix("http://").rstrip("/") for entry in entries if entry.startswith("http://"))
    secure = frozenset(
        entry.removeprefix("https://").rstrip("/") for entry in entries if not entry.startswith("http://")
    )
    return (secure if entries else VENDOR_HOSTS), plain


def is_loopback(host: str) -> bool:
    """
    Whether the host is this machine, by name or by address. No look-up is made.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def environment_proxy(url: str) -> str | None:
    """
    The proxy that ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` name for a URL; never one for loopback.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or proxy_bypass_environment(host):
        return None
    proxies = getproxies_environment()
    named = proxies.get(parts.scheme) or proxies.get("all")
    return proxy_url(named) if named else None


def proxy_url(value: str) -> str:
    """
    The URL of an HTTP proxy; ``host:port`` alone, as many environments have it, is one by http.

    Raises:
        InvalidSettings: It is not one. The message does not quote it: it may hold a password.
    """
    url = value.strip() if "://" in value else f"http://{value.strip()}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidSettings("The proxy must look like http://proxy.example:3128; SOCKS is not supported.")
    return url


def tls_context(ca_bundle: str | None, client_cert: str | None) -> ssl.SSLContext:
    """
    One context per process and pair of files, as long as they are not replaced: building one costs about 16 ms and
    1 MiB. A client keeps the one that it was built with.

    Raises:
        InvalidSettings: A file is missing or not a certificate.
    """
    return _tls_context(ca_bundle, client_cert, (_stamp(ca_bundle), _stamp(client_cert)))


def _stamp(path: str | None) -> tuple[int, int, int] | None:
    """
    What changes when a file is replaced: a rotated certificate has the same path.
    """
    if path is None:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@lru_cache(maxsize=16)
def _tls_context(ca_bundle: str | None, client_cert: str | None, stamps: object) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_bundle or certifi.where())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if client_cert:
            context.load_cert_chain(client_cert)
    except (OSError, ssl.SSLError) as error:
        files = " or ".join(str(path) for path in (ca_bundle, client_cert) if path)
        raise InvalidSettings(f"{files} cannot be loaded as a certificate file ({type(error).__name__}).") from None
    return context


def _status_map(value: Any) -> StatusMap:
    try:
        return {str(literal): Status(str(status).upper()) for literal, status in dict(value or {}).items()}
    except (TypeError, ValueError):
        known = ", ".join(Status)
        raise InvalidSettings(f"status_map must map the service's literals to one of: {known}.") from None


def _path(value: str | os.PathLike[str] | None) -> str | None:
    return str(Path(value)) if value else None


def _stripped(value: str | None) -> str | None:
    return (value.strip() or None) if value else None


def _proxy(value: str | None) -> str | None:
    return proxy_url(value) if value else None


def _above_zero(instance: object, attribute: Any, value: float) -> None:
    if not value > 0:
        raise InvalidSettings(f"{attribute.name} must be greater than zero, not {value!r}.")


@frozen(kw_only=True)
class Settings:
    """
    How a client talks to its service.

    Args:
        request_timeout: Longest time for one request and its whole answer, seconds.
        connect_timeout: Longest time to open a connection, seconds.
        max_connections: Requests in flight at once; more of them wait.
        requests_per_second: Requests of all waits of an AsyncClient together, spread evenly; None: as many as are due.
        max_answer_bytes: A larger result is refused, and one with more values than one for each 64 bytes of this. Any
            other answer may have 1 MiB, or this if it is less.
        proxy: URL of a proxy; None: what the usual environment variables name.
        ca_bundle: File with the certificate authorities to trust, instead of certifi's.
        client_cert: PEM file with a client certificate and its key.
        accept: ``Accept`` header of the current API; for the legacy one, another value than ``*/*`` replaces the header
            that names its version. B3OS has no versions.
        status_map: The service's literals that this version does not know, each with the Status it stands for.
        workspace_id: If given, a start answered from another workspace (B3OS: organization) is refused. The legacy API
            is not known to say where it started.
        allowed_hosts: Overrides the environment's allow-list.
    """

    request_timeout: float = field(default=30.0, validator=_above_zero)
    connect_timeout: float = field(default=3.0, validator=_above_zero)
    max_connections: int = field(default=10, validator=_above_zero)
    requests_per_second: float | None = field(default=None, validator=validators.optional(_above_zero))
    max_answer_bytes: int = field(default=8 * 1024 * 1024, validator=_above_zero)
    proxy: str | None = field(
        default=None,
        converter=_proxy,
        repr=lambda value: "None" if value is None else "'***'",
    )
    ca_bundle: str | None = field(default=None, converter=_path)
    client_cert: str | None = field(default=None, converter=_path)
    accept: str = "*/*"
    status_map: StatusMap = field(factory=dict, converter=_status_map)
    workspace_id: str | None = field(default=None, converter=_stripped)
    allowed_hosts: tuple[str, ...] | None = None
