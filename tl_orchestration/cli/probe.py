"""
One look at the way to the service, for ``tl doctor``: a request without a credential, and what TLS said about it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from attrs import field, frozen

from tl_orchestration.settings import tls_context

#: Longest time for a connection, and for an answer, seconds.
CONNECT_TIMEOUT = 5.0
_ANSWER_TIMEOUT = 10.0
_PORTS = {"http": 80, "https": 443}


@frozen(kw_only=True)
class Route:
    """
    The way to the service.

    Args:
        url: Base URL.
        proxy: URL of the proxy on the way; may have a password in it.
        ca_bundle: File of the authorities to trust; None: certifi's.
        client_cert: File of the client certificate.
    """

    url: str
    proxy: str | None = field(repr=False)
    ca_bundle: str | None
    client_cert: str | None

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https://")

    @property
    def service(self) -> tuple[str, int]:
        """
        Host and port of the service.
        """
        return _address(self.url)

    @property
    def nearest(self) -> tuple[str, int]:
        """
        Host and port that this machine itself connects to: the proxy's where there is one.
        """
        return _address(self.proxy or self.url)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


@frozen(kw_only=True)
class Peer:
    """
    What a completed handshake said about the service.
    """

    version: str
    issuer: str
    expires: float

    @classmethod
    def of(cls, version: str, certificate: Mapping[str, Any]) -> Self:
        """
        From a decoded certificate, as the ssl module gives it.
        """
        return cls(
            version=version,
            issuer=_name(certificate["issuer"]),
            expires=ssl.cert_time_to_seconds(certificate["notAfter"]),
        )


def _name(parts: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    names = {key: value for part in parts for key, value in part}
    known = [names[key] for key in ("organizationName", "commonName") if key in names]
    return ", ".join(known) or "an issuer without a name"


@frozen(kw_only=True)
class Answer:
    """
    What came back.

    Args:
        at: When, epoch seconds.
        peer: None without TLS, or where the handshake did not complete.
        date: The answer's Date header.
        error: Why there is no answer.
    """

    at: float
    peer: Peer | None = None
    date: str | None = None
    error: Exception | None = None

    @property
    def tls_error(self) -> ssl.SSLError | None:
        """
        The TLS failure behind the error, if that is what it was.
        """
        cause: BaseException | None = self.error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        return cause


def ask(route: Route) -> Answer:
    """
    Request the root of the base URL, by the same way and with the same trust as the client, but without a credential.
    """
    peer: Peer | None = None

    def trace(event: str, info: Mapping[str, Any]) -> None:
        nonlocal peer
        # With an https proxy there are two handshakes; the later one is the service's.
        if event.endswith("start_tls.complete"):
            secured = info["return_value"].get_extra_info("ssl_object")
            peer = Peer.of(secured.version(), secured.getpeercert())

    date, error = None, None
    context = tls_context(route.ca_bundle, route.client_cert)
    transport = httpx.HTTPTransport(verify=context, proxy=route.proxy, trust_env=False)
    timeout = httpx.Timeout(_ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT)
    headers = {"User-Agent": "tl-orchestration doctor"}
    with httpx.Client(transport=transport, timeout=timeout, headers=headers, trust_env=False) as client:
        try:
            with client.stream("GET", f"{route.url}/", extensions={"trace": trace}) as response:
                date = response.headers.get("date")
        except httpx.HTTPError as failure:
            error = failure
    return Answer(at=time.time(), peer=peer, date=date, error=error)


def presented_issuer(host: str, port: int) -> str | None:
    """
    Who issued the certificate that is presented there, trusted or not. Nothing is sent over these connections.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        certificate = ssl.get_server_certificate((host, port), timeout=CONNECT_TIMEOUT)
        # The ssl module decodes a certificate only once it is verified: so trust this one, for this look.
        context = ssl.create_default_context(cadata=certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False
        with (
            socket.create_connection((host, port), CONNECT_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            return Peer.of(secured.version() or "", secured.getpeercert() or {}).issuer
    return None
