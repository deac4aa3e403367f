"""
Credentials as httpx authentication flows, which drive the synchronous and the asynchronous client alike.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, NoReturn, Protocol, runtime_checkable

import httpx

from tl_orchestration.answers import safe_id
from tl_orchestration.authorization import RENEWAL_INTERVAL, InThread, SteppedAuth, Steps, leave_unread
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.secret import Secret

log = logging.getLogger(__name__)

#: Organization tokens start with this (contract A2.1).
ORGANIZATION_TOKEN_PREFIX = "tot_"  # noqa: S105 -- a prefix, not a token


@runtime_checkable
class Credentials(Protocol):
    """
    What a client needs of a credential. One that also has ``services``, the names of the services that it is for, is
    refused by a client of another service.
    """

    def auth(self) -> httpx.Auth:
        """
        The flow that puts the credential on a request.
        """

    def fingerprint_secret(self) -> bytes:
        """
        Key material for request fingerprints; see :mod:`tl_orchestration.fingerprint`.
        """


class Confined:
    """
    A credential stays in the process that it was made in, and is not shown.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential is not pickled; build the client where it is used")


class _Renewable(Confined):
    """
    A header that a source may give anew after the service has refused it.

    However many requests are refused at once, the source is read once, and not again for some seconds unless what was
    read is accepted.
    """

    def __init__(self, source: str | Callable[[], str], monotonic: Callable[[], float]) -> None:
        self._source: Callable[[], str] | None = source if callable(source) else None
        self._header = Secret(self._checked(source() if callable(source) else source))
        self._monotonic = monotonic
        self._reading = threading.Lock()
        self._not_before = float("-inf")
        self._unproven = False

    def auth(self) -> httpx.Auth:
        return _RenewableAuth(self)

    def fingerprint_secret(self) -> bytes:
        return self.header().encode()

    def header(self) -> str:
        return self._header.reveal()

    def other_headers(self) -> Mapping[str, str]:
        """
        What goes on every request beside the credential itself.
        """
        return {}

    def renew(self, refused: str) -> bool:
        """
        Read the source again after the service refused this header. True if there is another one now, whoever read it.

        A source that fails for a moment, as a file does while it is replaced, changes nothing: the refusal stands.
        """
        source = self._source
        if source is None:
            return False
        if self._reading.acquire(timeout=RENEWAL_INTERVAL):
            try:
                if self.header() == refused and self._monotonic() >= self._not_before:
                    self._not_before = self._monotonic() + RENEWAL_INTERVAL
                    self._read(source)
                    self._unproven = self.header() != refused
            finally:
                self._reading.release()
        return self.header() != refused

    def accepted(self, header: str) -> None:
        """
        Take note that the service accepts this header: once it is refused, it is time to read again.
        """
        if self._unproven and header == self.header():
            self._unproven = False
            self._not_before = float("-inf")

    def _checked(self, value: str) -> str:
        return header_value(value)

    def _read(self, source: Callable[[], str]) -> None:
        try:
            self._header = Secret(self._checked(source()))
        except Exception as error:  # the source is the caller's
            log.warning("The credential was refused and could not be read again (%s).", type(error).__name__)


class _RenewableAuth(SteppedAuth):
    def __init__(self, credential: _Renewable) -> None:
        self._credential = credential

    def steps(self, request: httpx.Request) -> Steps:
        request.headers.update(self._credential.other_headers())
        header = self._credential.header()
        request.headers["Authorization"] = header
        response = yield request
        if response.status_code not in {401, 403}:
            self._credential.accepted(header)
            return
        # Both answers mean that the request was not processed, so repeating it is safe even for a start.
        changed = self._credential.header() != header or (yield InThread(lambda: self._credential.renew(header)))
        if changed:
            leave_unread(response)
            header = self._credential.header()
            request.headers["Authorization"] = header
            response = yield request
            if response.status_code not in {401, 403}:
                self._credential.accepted(header)


class OrganizationToken(_Renewable):
    """
    A token of the current API: an organization token (``tot_…``, sent as it is) or a JWT (sent as ``Bearer``).

    A token that is given as a callable or as a file is read again when the service answers 401 or 403, so that a
    rotated token takes effect without a restart; the request is repeated once, if the token has changed. However many
    requests are refused at once, it is read once, and not again for some seconds unless what was read is accepted.

    Args:
        token: The token, or a callable that returns it. It may block for a moment, not for seconds. From an
            :class:`~tl_orchestration.AsyncClient` it is called in another thread than the event loop's.
        bearer: Send an organization token as ``Bearer`` too, as the vendor's text of 2025 had it; that of 2026 wants
            it as it is (contract C4). For a service that answers 401 to the token as it is.
        monotonic: For tests.

    Raises:
        InvalidSettings: The token is empty or has characters that no header can carry.
    """

    services: ClassVar[frozenset[str]] = frozenset({"transactionlink", "transactionlink-legacy"})

    def __init__(
        self,
        token: str | Callable[[], str],
        *,
        bearer: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bearer = bearer
        super().__init__(token, monotonic)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, bearer: bool = False) -> OrganizationToken:
        """
        Read the token from a file, and again when the service refuses it.
        """
        return cls(partial(secret_in, path, "token"), bearer=bearer)

    def fingerprint_secret(self) -> bytes:
        return header_value(self.header()).encode()  # the same token in either form

    def _checked(self, value: str) -> str:
        header = header_value(value)
        return f"Bearer {header}" if self._bearer and header.startswith(ORGANIZATION_TOKEN_PREFIX) else header


class B3osKey(_Renewable):
    """
    An API key of B3OS (``b3sk_…``, contract B1), sent as ``Bearer``.

    Args:
        key: The key, or a callable that returns it, which is read again as that of :class:`OrganizationToken` is.
        organization_id: Sent as ``X-Org-ID``; only keys that are bound to no organization need it.
        monotonic: For tests.

    Raises:
        InvalidSettings: One of them is empty or cannot stand in a header, or the key is of another service.
    """

    services: ClassVar[frozenset[str]] = frozenset({"b3os"})

    def __init__(
        self,
        key: str | Callable[[], str],
        organization_id: str | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(key, monotonic)
        if organization_id is not None and safe_id(organization_id) is None:
            raise InvalidSettings("organization_id must be an id such as org_….")
        self._organization_id = organization_id

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], organization_id: str | None = None) -> B3osKey:
        """
        Read the key from a file, and again when the service refuses it.
        """
        return cls(partial(secret_in, path, "key"), organization_id)

    def other_headers(self) -> Mapping[str, str]:
        return {} if self._organization_id is None else {"X-Org-ID": self._organization_id}

    def _checked(self, value: str) -> str:
        header = header_value(value)
        if not header.startswith("Bearer "):
            raise InvalidSettings("That is an organization token of Transactionlink, not a key of B3OS.")
        return header


class B3osPublic(Confined):
    """
    No credential: for B3OS workflows of the visibility ``public_execute``, which everybody may start (contract B2).

    What a start returns is the only thing that lets anybody look at the execution, and only in the process that
    started it. Results and cancelling need a :class:`B3osKey`.
    """

    services: ClassVar[frozenset[str]] = frozenset({"b3os"})

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)  # nothing else here is secret, and a digest must not be guessable

    def auth(self) -> httpx.Auth:
        return httpx.Auth()

    def fingerprint_secret(self) -> bytes:
        return self._secret

    def __repr__(self) -> str:
        return "B3osPublic()"


def secret_in(path: str | os.PathLike[str], name: str) -> str:
    """
    The secret that a file holds.

    Args:
        name: What it is, for the message.

    Raises:
        InvalidSettings: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"The {name} file {path} cannot be read ({type(error).__name__}).") from None


def header_value(token: str) -> str:
    """
    The ``Authorization`` value for a token (contract C4).

    Raises:
        InvalidSettings: It cannot be one. The message does not quote it.
    """
    value = token.strip()
    if value.lower() == "bearer" or value.lower().startswith("bearer "):
        value = value[len("bearer") :].strip()
    if not value:
        raise InvalidSettings("The token is empty.")
    if not all("!" <= character <= "~" for character in value):
        raise InvalidSettings("The token has white space or characters that a header cannot carry.")
    return value if value.startswith(ORGANIZATION_TOKEN_PREFIX) else f"Bearer {value}"
