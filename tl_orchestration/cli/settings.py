"""
From environment and options to a client.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import click
from attrs import field, frozen

from tl_orchestration.client import Client
from tl_orchestration.credentials import B3osKey, B3osPublic, Credentials, OrganizationToken, secret_in
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.ledger import Ledger
from tl_orchestration.secret import Secret
from tl_orchestration.services import service_named
from tl_orchestration.settings import Settings, environment_proxy, proxy_url
from tl_orchestration.settings import base_url as checked_base_url
from tl_orchestration.workspace_key import WorkspaceKey

_PREFIX = "TRANSACTIONLINK_"
_LEGACY, _B3OS = "transactionlink-legacy", "b3os"


@frozen(kw_only=True)
class Choices:
    """
    What a user chose, not checked yet. None: the default, or nothing.
    """

    base_url: str | None
    service: str
    token: Secret | None
    token_file: str | None
    key: Secret | None
    secret: Secret | None
    secret_file: str | None
    organization_id: str | None
    proxy: str | None = field(repr=False)
    ca_bundle: str | None
    client_cert: str | None

    @classmethod
    def of(
        cls,
        environment: Mapping[str, str],
        *,
        base_url: str | None = None,
        service: str | None = None,
        token_file: str | None = None,
    ) -> Self:
        """
        Take an option where one is given, else the environment's variable; an empty variable counts as none.
        """

        def variable(name: str) -> str | None:
            return environment.get(_PREFIX + name, "").strip() or None

        def hidden(name: str) -> Secret | None:
            value = None if token_file else variable(name)
            return Secret(value) if value else None

        return cls(
            base_url=base_url or variable("BASE_URL"),
            service=service or variable("SERVICE") or "transactionlink",
            token=hidden("TOKEN"),
            token_file=token_file or variable("TOKEN_FILE"),
            key=hidden("KEY"),
            secret=hidden("SECRET"),
            secret_file=None if token_file else variable("SECRET_FILE"),
            organization_id=variable("ORGANIZATION_ID"),
            proxy=variable("PROXY"),
            ca_bundle=variable("CA_BUNDLE"),
            client_cert=variable("CLIENT_CERT"),
        )

    @property
    def is_keyless(self) -> bool:
        """
        Whether only what B3OS lets everybody do can be done: start a public workflow, and follow it in one command.
        """
        return self.service == _B3OS and self.token is None and self.token_file is None

    def credentials(self) -> Credentials:
        """
        The credential of the chosen service. One from a file is read again when the service refuses it.

        Raises:
            InvalidSettings: There is none, there are two, or it is not usable.
        """
        if self.service == _LEGACY and (self.key or self.secret or self.secret_file):
            return self._workspace_key()
        if self.token is not None and self.token_file is not None:
            raise _ambiguous("TOKEN", "token")
        if self.service == _B3OS:
            if self.token is not None:
                return B3osKey(self.token.reveal(), self.organization_id)
            if self.token_file is not None:
                return B3osKey.from_file(self.token_file, self.organization_id)
            return B3osPublic()
        if self.token is not None:
            return OrganizationToken(self.token.reveal())
        if self.token_file is not None:
            return OrganizationToken.from_file(self.token_file)
        if self.service == _LEGACY:
            raise InvalidSettings(
                f"There is no key of the workspace: set {_PREFIX}KEY, and {_PREFIX}SECRET or {_PREFIX}SECRET_FILE; or a"
                f" JWT in {_PREFIX}TOKEN."
            )
        raise InvalidSettings(f"There is no token: set {_PREFIX}TOKEN, or {_PREFIX}TOKEN_FILE to a file that holds it.")

    def _workspace_key(self) -> WorkspaceKey:
        if self.secret is not None and self.secret_file is not None:
            raise _ambiguous("SECRET", "secret")
        if self.key is None:
            raise InvalidSettings(f"There is a secret of the workspace and no key: set {_PREFIX}KEY.")
        key, file = self.key.reveal(), self.secret_file
        if file is not None:
            return WorkspaceKey.from_source(lambda: (key, secret_in(file, "secret")))
        if self.secret is None:
            raise InvalidSettings(
                f"There is a key of the workspace and no secret: set {_PREFIX}SECRET, or {_PREFIX}SECRET_FILE to a file"
                " that holds it."
            )
        return WorkspaceKey(key, self.secret.reveal())

    def checked_url(self) -> str:
        """
        The base URL in use.

        Raises:
            InvalidSettings: There is no such service, or the URL may not be called.
        """
        service = service_named(self.service)
        return checked_base_url(self.base_url or service.default_base_url)

    def checked_proxy(self, url: str) -> str | None:
        """
        The proxy on the way to a URL: the chosen one, else what ``HTTPS_PROXY`` and its like name.

        Raises:
            InvalidSettings: It is not the URL of a proxy. The message does not quote it.
        """
        proxy = self.proxy or environment_proxy(url)
        if proxy is None:
            return None
        origin = f"{_PREFIX}PROXY" if self.proxy else "the environment (HTTPS_PROXY and its like)"
        try:
            return proxy_url(proxy)
        except InvalidSettings as error:
            raise InvalidSettings(f"From {origin}: {error}") from None

    def client(self, ledger: Ledger | None = None, *, keyless: bool = False) -> Client:
        """
        A client for these choices.

        Args:
            ledger: For a run with a key.
            keyless: Whether the command can work without a credential, where the service has that.

        Raises:
            InvalidSettings: Something about them is wrong. Nothing was sent.
        """
        if self.is_keyless and not keyless:
            raise InvalidSettings(
                f"There is no key of B3OS: set {_PREFIX}TOKEN, or {_PREFIX}TOKEN_FILE to a file that holds it. Without"
                " one, only `tl run --wait` works: nobody can ask for an execution after the command that started it."
            )
        proxy = self.checked_proxy(self.checked_url())
        settings = Settings(proxy=proxy, ca_bundle=self.ca_bundle, client_cert=self.client_cert)
        return Client(self.credentials(), self.base_url, self.service, ledger, settings)


def _ambiguous(variable: str, what: str) -> InvalidSettings:
    return InvalidSettings(
        f"{_PREFIX}{variable} and {_PREFIX}{variable}_FILE are both set, and it is not clear which {what} is meant:"
        " unset one of them."
    )


def _be_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        # This package's log alone: those of httpx and httpcore would show headers.
        logging.getLogger("tl_orchestration").setLevel(logging.DEBUG)


verbose_option = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_be_verbose,
    help="Log to stderr what is done; no secret and no parameter value.",
)

_OPTIONS = (
    click.option("--base-url", metavar="URL", help=f"Where the service is.  [env: {_PREFIX}BASE_URL]"),
    click.option("--service", metavar="NAME", help=f"Which API.  [env: {_PREFIX}SERVICE; default: transactionlink]"),
    click.option(
        "--token-file",
        metavar="FILE",
        help=f"File that holds the token, or the B3OS key.  [env: {_PREFIX}TOKEN_FILE, or the token itself in"
        f" {_PREFIX}TOKEN]",
    ),
    verbose_option,
    click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object to stdout."),
)


def connecting(command: Callable[..., int]) -> Callable[..., int]:
    """
    Give a command the options of a connection; it receives them as ``choices``, and ``as_json``.
    """

    @functools.wraps(command)
    def with_choices(*, base_url: str | None, service: str | None, token_file: str | None, **others: Any) -> int:
        choices = Choices.of(os.environ, base_url=base_url, service=service, token_file=token_file)
        return command(choices=choices, **others)

    decorated: Callable[..., int] = with_choices
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
