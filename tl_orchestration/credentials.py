"""
Credentials as httpx authentication flows, which drive the synchronous and the asynchronous client alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

import httpx

from tl_orchestration.errors import InvalidSettings
from tl_orchestration.secret import Secret

#: Organization tokens start with this (contract A2.1).
ORGANIZATION_TOKEN_PREFIX = "tot_"  # noqa: S105 -- a prefix, not a token


@runtime_checkable
class Credentials(Protocol):
    """
    What a client needs of a credential.
    """

    def auth(self) -> httpx.Auth:
        """
        The flow that puts the credential on a request.
        """

    def fingerprint_secret(self) -> bytes:
        """
        Key material for request fingerprints; see :mod:`tl_orchestration.fingerprint`.
        """


class OrganizationToken:
    """
    A token of the current API: an organization token (``tot_…``, sent as it is) or a JWT (sent as ``Bearer``).

    A token that is given as a callable or as a file is read again when the service answers 401 or 403, so that a
    rotated token takes effect without a restart; the request is repeated once, if the token has changed.

    Args:
        token: The token, or a callable that returns it. It may block for a moment, not for seconds.

    Raises:
        InvalidSettings: The token is empty or has characters that no header can carry.
    """

    def __init__(self, token: str | Callable[[], str]) -> None:
        self._source: Callable[[], str] | None = token if callable(token) else None
        self._header = Secret(header_value(token() if callable(token) else token))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> OrganizationToken:
        """
        Read the token from a file, and again when the service refuses it.
        """
        file = Path(path)

        def read() -> str:
            try:
                return file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidSettings(f"The token file {file} cannot be read ({type(error).__name__}).") from None

        return cls(read)

    def auth(self) -> httpx.Auth:
        return _TokenAuth(self)

    def fingerprint_secret(self) -> bytes:
        return self._header.reveal().encode()

    def header(self) -> str:
        return self._header.reveal()

    def renew(self) -> bool:
        """
        Read the token again. True if it has changed.
        """
        if self._source is None:
            return False
        fresh = Secret(header_value(self._source()))
        if fresh == self._header:
            return False
        self._header = fresh
        return True

    def __repr__(self) -> str:
        return "OrganizationToken('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential is not pickled; build the client where it is used")


class _TokenAuth(httpx.Auth):
    def __init__(self, token: OrganizationToken) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._token.header()
        response = yield request
        # Both answers mean that the request was not processed, so repeating it is safe even for a start.
        if response.status_code in {401, 403} and self._token.renew():
            request.headers["Authorization"] = self._token.header()
            yield request


def header_value(token: str) -> str:
    """
    The ``Authorization`` value for a token (contract C4).

    Raises:
        InvalidSettings: It cannot be one. The message does not quote it.
    """
    value = token.strip()
    if value.lower().startswith("bearer "):
        value = value[len("bearer ") :].strip()
    if not value:
        raise InvalidSettings("The token is empty.")
    if not all("!" <= character <= "~" for character in value):
        raise InvalidSettings("The token has white space or characters that a header cannot carry.")
    return value if value.startswith(ORGANIZATION_TOKEN_PREFIX) else f"Bearer {value}"
