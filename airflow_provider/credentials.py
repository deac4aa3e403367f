"""
From the login and password of a connection to the credential of its service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Connection

    from tl_orchestration.credentials import Credentials

CURRENT, LEGACY, B3OS = "transactionlink", "transactionlink-legacy", "b3os"
_ORGANIZATION_TOKEN, _B3OS_KEY = "tot_", "b3sk_"


@frozen
class Fields:
    """
    What the form's two fields must hold for a service.

    Args:
        missing: What is said where the password is empty.
        refused: How a password begins that is a credential of another service, and what that one is.
        accepted: What the service is said to accept when the connection was tested.
    """

    missing: str
    refused: tuple[str, str]
    accepted: str


_FIELDS = {
    CURRENT: Fields(
        "has no token. Put the organization token into its password field",
        (_B3OS_KEY, "a key of B3OS"),
        "accepts the token, and it may view the workspace",
    ),
    LEGACY: Fields(
        "has no API secret. Put the API key into its login field and the API secret into its password field",
        (_ORGANIZATION_TOKEN, "an organization token"),
        "accepts key and secret, and they may read",
    ),
    B3OS: Fields(
        "has no key. Put a B3OS key (b3sk_…) into its password field: what is started without one can be followed only"
        " in the process that started it, and a task may go on in another",
        (_ORGANIZATION_TOKEN, "an organization token"),
        "accepts the key, and it may read",
    ),
}


def accepted_by(service: str) -> str:
    """
    What a connection test that went well has shown.
    """
    return _FIELDS[service].accepted


def credential(
    service: str,
    organization_id: str | None,
    connection: Connection,
    look_up: Callable[[], Connection] | None = None,
) -> Credentials:
    """
    The credential that a connection holds.

    Args:
        service: Which one is meant; a service that is not known here is refused by the client.
        organization_id: Organization of a B3OS key that is bound to none.
        connection: As it was read.
        look_up: Reads the connection anew, once the service has refused what it held; None: it stays as it was read.

    Raises:
        InvalidSettings: A field is empty, of another service, or cannot be sent. The message quotes none.
    """
    from tl_orchestration import B3osKey, OrganizationToken, WorkspaceKey

    check_fields(service, connection)
    if look_up is None:
        if service == LEGACY:
            return WorkspaceKey(connection.login or "", connection.password or "")
        if service == B3OS:
            return B3osKey(connection.password or "", organization_id)
        return OrganizationToken(connection.password or "")
    source = _Source(service, connection, look_up)
    if service == LEGACY:
        return WorkspaceKey.from_source(source.pair)
    if service == B3OS:
        return B3osKey(source.password, organization_id)
    return OrganizationToken(source.password)


def check_fields(service: str, connection: Connection) -> None:
    """
    Raises:
        InvalidSettings: Login and password are not those of this service.
    """
    from tl_orchestration.errors import InvalidSettings

    name, expected = f"Connection {connection.conn_id!r}", _FIELDS.get(service, _FIELDS[CURRENT])
    if not connection.password:
        raise InvalidSettings(f"{name} {expected.missing}.")
    prefix, kind = expected.refused
    if connection.password.strip().removeprefix("Bearer ").startswith(prefix):
        raise InvalidSettings(
            f"The password of connection {connection.conn_id!r} is {kind}, and its service is {service}: change one of"
            " them."
        )
    if service == LEGACY and not connection.login:
        raise InvalidSettings(
            f"{name} has no API key. Put it into the login field; the API secret is in the password field."
        )
    if service != LEGACY and connection.login:
        raise InvalidSettings(
            f"{name} has a login, which the service {service} has no use for. Empty the field, or choose the service"
            f" {LEGACY}, where login and password are API key and API secret."
        )


class _Source:
    """
    Login and password: as the connection had them at first, and read anew at every later call.
    """

    def __init__(self, service: str, connection: Connection, look_up: Callable[[], Connection]) -> None:
        self._service = service
        self._unused: Connection | None = connection
        self._look_up = look_up

    def password(self) -> str:
        return self.pair()[1]

    def pair(self) -> tuple[str, str]:
        connection, self._unused = self._unused or self._look_up(), None
        check_fields(self._service, connection)
        return connection.login or "", connection.password or ""
