"""
The checks of ``tl doctor``: each takes what it needs and returns one finding.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from enum import StrEnum
from urllib.parse import urlsplit

import certifi
import httpx
from attrs import frozen

from tl_orchestration.cli.outcomes import SUCCESS, code_of_error
from tl_orchestration.cli.probe import CONNECT_TIMEOUT, Answer, Route, presented_issuer
from tl_orchestration.cli.settings import Choices
from tl_orchestration.client import Client
from tl_orchestration.credentials import B3osKey, B3osPublic, OrganizationToken
from tl_orchestration.errors import NoAnswer, TransactionlinkError
from tl_orchestration.settings import is_loopback, tls_context
from tl_orchestration.workspace_key import WorkspaceKey

#: A certificate that expires in fewer days than this deserves a word.
EXPIRES_SOON = 14
#: Seconds by which two clocks may differ.
CLOCK_TOLERANCE = 30.0
_NETWORK = "Check firewall, routes, and whether this network needs a proxy (TRANSACTIONLINK_PROXY)."
#: OpenSSL's verification codes: the chain ends in an authority that is not trusted here.
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})
_WRONG_TIME = frozenset({9, 10})
#: By service: the credential that it takes, and what reading and starting need, where the vendor says so.
_TAKEN = {
    "transactionlink": ("the token", " (can_view_workspace)", " (can_run on a definition)"),
    "transactionlink-legacy": ("the workspace's credential", "", ""),
    "b3os": ("the key", " (scope read)", " (scope read-write)"),
}


class Verdict(StrEnum):
    """
    How a check went.
    """

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@frozen
class Check:
    """
    One finding.

    Args:
        name: What was looked at.
        status: How it went.
        detail: What was found.
        advice: What to do about it; empty where there is nothing to do.
        code: Exit code that stands for the failure.
    """

    name: str
    status: Verdict
    detail: str
    advice: str = ""
    code: int = SUCCESS


def _ok(name: str, detail: str, advice: str = "") -> Check:
    return Check(name, Verdict.OK, detail, advice)


def _unreachable(name: str, detail: str, advice: str) -> Check:
    return Check(name, Verdict.FAIL, detail, advice, code_of_error(NoAnswer))


def _failed(name: str, error: TransactionlinkError) -> Check:
    """
    The finding that is an error's own sentence, which says what to do.
    """
    return Check(name, Verdict.FAIL, error.message, code=code_of_error(type(error)))


def check_settings(choices: Choices) -> tuple[Check, Route | None]:
    """
    Whether base URL, service, proxy and certificate files can be used; and the way that they make.
    """
    try:
        url = choices.checked_url()
        proxy = choices.checked_proxy(url)
        tls_context(choices.ca_bundle, choices.client_cert)
    except TransactionlinkError as error:
        return _failed("settings", error), None
    route = Route(url=url, proxy=proxy, ca_bundle=choices.ca_bundle, client_cert=choices.client_cert)
    return _ok("settings", f"{url} may be called, service {choices.service}"), route


def check_token(choices: Choices) -> Check:
    """
    Whether there is a credential that could be sent. It is not shown.
    """
    try:
        credentials = choices.credentials()
    except TransactionlinkError as error:
        return _failed("token", error)
    if isinstance(credentials, B3osPublic):
        return _ok("token", "no key of B3OS", "Only `tl run --wait` of a public workflow works without one.")
    if isinstance(credentials, WorkspaceKey):
        origin = "the environment" if choices.secret is not None else f"the environment and {choices.secret_file}"
        return _ok("token", f"key and secret of a workspace from {origin}")
    if isinstance(credentials, B3osKey):
        kind = "a key of B3OS"
    else:
        is_jwt = isinstance(credentials, OrganizationToken) and credentials.header().startswith("Bearer ")
        kind = "a JWT" if is_jwt else "an organization token"
    origin = "the environment" if choices.token is not None else f"the file {choices.token_file}"
    return _ok("token", f"{kind} from {origin}")


def check_dns(host: str, port: int) -> Check:
    """
    Whether the name of the host that we connect to has an address.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return _ok("dns", f"{host} is an address and needs no look-up")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return _unreachable(
            "dns", f"{host} has no address ({reason})", "Check its spelling and this machine's name servers."
        )
    return _ok("dns", f"{host} is {', '.join(dict.fromkeys(str(entry[4][0]) for entry in found))}")


def check_proxy(proxy: str | None, *, chosen: bool) -> Check:
    """
    Which proxy is on the way, without its password.
    """
    if proxy is None:
        return _ok("proxy", "none in use")
    parts = urlsplit(proxy)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    shown = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"
    origin = "TRANSACTIONLINK_PROXY" if chosen else "the environment (HTTPS_PROXY and its like)"
    return _ok("proxy", f"{shown} from {origin}, {'with' if parts.username else 'without'} a user name")


def check_tcp(host: str, port: int) -> Check:
    """
    Whether a connection opens.
    """
    began = time.monotonic()
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        return _unreachable("tcp", f"{host} port {port} takes no connection ({reason})", _NETWORK)
    return _ok("tcp", f"{host} port {port} takes connections ({(time.monotonic() - began) * 1000:.0f} ms)")


def check_tls(route: Route, answer: Answer) -> Check:
    """
    Whether the service proves who it is, to whom we trust, and for how long it will.
    """
    host, port = route.service
    if not route.is_tls:
        where = "this machine" if is_loopback(host) else f"{host}, as the allow-list says"
        return Check("tls", Verdict.SKIPPED, f"http to {where}: nothing is encrypted")
    bundle = f"authorities from {route.ca_bundle or certifi.where()}"
    if isinstance(answer.tls_error, ssl.SSLCertVerificationError):
        return _untrusted(route, answer.tls_error, bundle)
    if answer.tls_error is not None:
        reason = (answer.tls_error.reason or "no reason given").replace("_", " ").lower()
        advice = (
            "Give a client certificate: TRANSACTIONLINK_CLIENT_CERT."
            if "certificate required" in reason
            else f"Check that {host} port {port} speaks https, with TLS 1.2 or later."
        )
        return _unreachable("tls", f"the handshake with {host} failed ({reason})", advice)
    if answer.peer is None:
        return _no_handshake(host, answer.error)
    days = (answer.peer.expires - answer.at) / 86400
    detail = f"{answer.peer.version}, certificate from {answer.peer.issuer}, valid for {days:.0f} days; {bundle}"
    if days < EXPIRES_SOON:
        return Check("tls", Verdict.WARN, detail, "Whoever runs the service, or the proxy, has to renew it.")
    return _ok("tls", detail)


def _untrusted(route: Route, error: ssl.SSLCertVerificationError, bundle: str) -> Check:
    host, port = route.service
    issuer = presented_issuer(host, port) if route.proxy is None else None
    detail = f"the certificate of {host}{f', from {issuer},' if issuer else ''} is not accepted"
    detail += f" ({error.verify_message}); {bundle}"
    if error.verify_code in _UNKNOWN_AUTHORITY:
        advice = (
            "It looks like an intercepting proxy or a private authority: get its CA certificate, and name the file in"
            " TRANSACTIONLINK_CA_BUNDLE."
        )
    elif error.verify_code in _WRONG_NAME:
        advice = "Check the base URL: another host answers there."
    elif error.verify_code in _WRONG_TIME:
        advice = "Check this machine's clock; if it is right, the service has to renew its certificate."
    else:
        advice = "Ask whoever runs the service, or the proxy, about its certificate."
    return _unreachable("tls", detail, advice)


def _no_handshake(host: str, error: Exception | None) -> Check:
    if isinstance(error, httpx.ProxyError):
        status = str(error)[:3]
        refusal = f"HTTP {status}" if status.isdigit() else "no reason given"
        advice = (
            "Give its user name and password in TRANSACTIONLINK_PROXY."
            if status == "407"
            else f"Ask whoever runs it to let {host} through."
        )
        return _unreachable("tls", f"the proxy lets nobody through to {host} ({refusal})", advice)
    return _unreachable("tls", f"the handshake with {host} did not complete ({type(error).__name__})", _NETWORK)


def check_clock(answer: Answer) -> Check:
    """
    Whether this machine's clock agrees with the service's: deadlines and expiries are computed from it.
    """
    if answer.error is not None:
        return Check("clock", Verdict.SKIPPED, f"no answer to compare with ({type(answer.error).__name__})")
    try:
        ahead = answer.at - parsedate_to_datetime(answer.date or "").timestamp()
    except (ValueError, OverflowError):
        return Check("clock", Verdict.SKIPPED, "the answer has no usable Date header")
    if abs(ahead) > CLOCK_TOLERANCE:
        detail = f"this machine is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the service"
        return Check("clock", Verdict.WARN, detail, "Set the clock (NTP): deadlines and expiries come from it.")
    return _ok("clock", f"within {CLOCK_TOLERANCE:.0f} s of the service's")


def check_credential(client: Client, choices: Choices) -> Check:
    """
    Whether the service takes the credential, and lets it read. Starts nothing.
    """
    try:
        client.check()
    except TransactionlinkError as error:
        return _failed("credential", error)
    if choices.is_keyless:
        return _ok("credential", "the service answers without a key")
    credential, permission, start = _TAKEN[choices.service]
    return _ok(
        "credential",
        f"the service takes {credential}, which may read{permission}",
        f"Whether it may start{start} cannot be asked without starting something.",
    )
