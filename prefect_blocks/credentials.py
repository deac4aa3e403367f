"""
Credentials block -> client. Nothing else of this package builds a client's settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, SecretStr, model_validator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tl_orchestration import AsyncClient, Client
    from tl_orchestration.credentials import Credentials
    from tl_orchestration.ledger import Ledger
    from tl_orchestration.result_policy import ResultPolicy
    from tl_orchestration.retry import RetryPolicy

CURRENT, LEGACY, B3OS = "transactionlink", "transactionlink-legacy", "b3os"
_SECRETS = ("token", "secret", "proxy", "ledger_url")
#: What Prefect stores instead of a secret, where a block is the parameter of a flow.
_MASK = "**********"
_REFUSED = {
    CURRENT: ("b3sk_", "a key of B3OS"),
    LEGACY: ("tot_", "an organization token"),
    B3OS: ("tot_", "an organization token"),
}


class TransactionlinkCredentials(CredentialsBlock):
    """
    How to reach a Transactionlink service, and as whom.

    Pass its *name* to flows, never the block: Prefect stores the parameters of flows, and masks secrets in them, so
    that a flow that is resumed or retried from the UI would get a block without its token.

    Raises:
        InvalidSettings: When it is made: a field cannot be used, or does not belong to the service. No message quotes a
            secret.

    Example:
        Load saved credentials, and ask the service for an execution:
        ```python
        from prefect_blocks import TransactionlinkCredentials

        credentials = TransactionlinkCredentials.load("BLOCK_NAME")
        with credentials.get_client() as client:
            print(client.poll("EXECUTION_ID").status)
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "Transactionlink Credentials"
    _block_type_slug = "transactionlink-credentials"
    _logo_url = "https://www.transactionlink.io/favicon.ico"  # type: ignore[assignment]  # as every collection does
    _documentation_url = "https://docs.transactionlink.io"  # type: ignore[assignment]
    _description = "How to reach a Transactionlink service, and as whom."

    service: Literal["transactionlink", "transactionlink-legacy", "b3os"] = Field(
        default="transactionlink", description="Which API: the current one, the legacy one, or B3OS."
    )
    token: SecretStr | None = Field(
        default=None, description="Organization token (tot_…); for B3OS its key (b3sk_…). Not for the legacy API."
    )
    key: str | None = Field(default=None, description="API key of the legacy API.")
    secret: SecretStr | None = Field(default=None, description="API secret of the legacy API.")
    organization_id: str | None = Field(default=None, description="Organization of a B3OS key that is bound to none.")
    base_url: str | None = Field(
        default=None,
        description="Where the service is; empty: the vendor's own host. Other hosts must be named in"
        " TRANSACTIONLINK_ALLOWED_HOSTS wherever flows run.",
    )
    workspace_id: str | None = Field(
        default=None, description="If given, a start that is answered from another workspace is refused."
    )
    request_timeout: float = Field(
        default=30.0, description="Longest time for one request and its whole answer, seconds."
    )
    max_connections: int = Field(default=10, description="Requests in flight at once.")
    requests_per_second: float | None = Field(
        default=None, description="Requests of all waits of one asynchronous client together; empty: no limit."
    )
    proxy: SecretStr | None = Field(
        default=None, description="URL of an HTTP proxy; empty: what the environment variables name."
    )
    ca_bundle: str | None = Field(
        default=None, description="File with the certificate authorities to trust, where flows run."
    )
    client_cert: str | None = Field(
        default=None, description="PEM file with a client certificate and its key, where flows run."
    )
    status_map: dict[str, str] = Field(
        default_factory=dict, description="Status words that this version does not know, each with its meaning."
    )
    ledger_url: SecretStr | None = Field(
        default=None,
        description="SQL ledger for business keys, such as postgresql+psycopg://user:password@host/database.",
    )
    execution_url: str | None = Field(
        default=None,
        description="Page of yours about an execution, such as https://kyc.example/runs/{execution_id}: a link in"
        " Prefect's pages leads there. Empty: no link.",
    )
    forbid_full_result: bool = Field(
        default=False, description="Keep whole results out of what steps and tasks return, whatever they ask for."
    )
    result_uri_prefixes: list[str] = Field(
        default_factory=list, description="Storage URIs below which results may be written; none: anywhere."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        # InvalidSettings is no ValueError: pydantic would wrap one, together with the input.
        from tl_orchestration.errors import InvalidSettings
        from tl_orchestration.settings import base_url

        if self.model_extra:
            raise InvalidSettings(
                f"TransactionlinkCredentials has no field {', '.join(sorted(map(repr, self.model_extra)))}."
            )
        for name in _SECRETS:
            if self._secret(name) == _MASK:
                raise InvalidSettings(
                    f"The {name} of these credentials is only the mask that Prefect stores instead of it: the block was"
                    " a parameter of a flow, and the flow was resumed or retried. Pass the block's name to the flow"
                    " and load it there: TransactionlinkCredentials.load(NAME)."
                )
        self._check_fields()
        self._credential()
        settings = self._settings()
        if self.base_url:
            base_url(self.base_url, settings.allowed_hosts)
        return self

    def _check_fields(self) -> None:
        """
        Raises:
            InvalidSettings: The secrets are not those of the service.
        """
        from tl_orchestration.errors import InvalidSettings

        token, secret = self._secret("token"), self._secret("secret")
        if self.service == LEGACY:
            if token or not self.key or not secret:
                raise InvalidSettings(
                    "Credentials of transactionlink-legacy have key and secret (API key and API secret), and no token."
                )
        elif not token or self.key or secret:
            raise InvalidSettings(f"Credentials of {self.service} have a token, and neither key nor secret.")
        prefix, kind = _REFUSED[self.service]
        if (token or secret).strip().removeprefix("Bearer ").startswith(prefix):
            raise InvalidSettings(
                f"These credentials hold {kind}, and their service is {self.service}: change one of them."
            )
        if self.organization_id and self.service != B3OS:
            raise InvalidSettings("organization_id is for the service b3os only.")
        self.result_policy().prefixes()
        self._check_execution_url()

    def _check_execution_url(self) -> None:
        from urllib.parse import urlsplit

        from tl_orchestration.errors import InvalidSettings

        if not self.execution_url:
            return
        try:
            parts = urlsplit(self.execution_url)
            fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
        except ValueError:
            fits = False
        if not fits or "{execution_id}" not in self.execution_url:
            raise InvalidSettings(
                "execution_url must be an http or https address with {execution_id} in it and no user information."
            )

    def get_client(
        self,
        *,
        ledger: Ledger | None = None,
        status_map: Mapping[str, str] | None = None,
        retry: RetryPolicy | None = None,
        request_timeout: float | None = None,
    ) -> Client:
        """
        A client. Close it, or use it as a context manager.

        Args:
            ledger: Keeps starts with a key from happening twice.
            status_map: Adds to the block's own.
            retry: How persistently requests that may be repeated are repeated.
            request_timeout: Instead of the block's, seconds.

        Raises:
            InvalidSettings: A file cannot be read here, or the token cannot be sent.
        """
        from tl_orchestration import Client

        return Client(**self._arguments(status_map, request_timeout), ledger=ledger, retry=retry)

    def get_async_client(
        self, *, ledger: Ledger | None = None, status_map: Mapping[str, str] | None = None
    ) -> AsyncClient:
        """
        A client for an event loop. Close it, or use it as a context manager.

        Raises:
            InvalidSettings: As :meth:`get_client`.
        """
        from tl_orchestration import AsyncClient

        return AsyncClient(**self._arguments(status_map, None), ledger=ledger)

    def sql_ledger(self) -> Ledger:
        """
        The ledger for business keys. Nothing is opened before its first use.

        Raises:
            InvalidSettings: There is none, it cannot be used, or what it needs is not installed.
        """
        from tl_orchestration.errors import InvalidSettings

        url = self._secret("ledger_url").strip()
        if not url:
            raise InvalidSettings(
                "A key needs a SQL ledger, and these credentials name none in ledger_url, such as"
                " postgresql+psycopg://user@host/database. Nothing was started."
            )
        try:
            from tl_orchestration.ledger import SqlLedger
        except ImportError as error:
            raise InvalidSettings(f"A key is kept in a SQL ledger, and {error}.") from None
        return SqlLedger(url)

    def result_policy(self) -> ResultPolicy:
        """
        What these credentials decide about results, for all workflows.
        """
        from tl_orchestration.result_policy import ResultPolicy

        return ResultPolicy(
            owner="This credentials block",
            forbids_full=self.forbid_full_result,
            result_uri_prefixes=self.result_uri_prefixes,
        )

    def link_to(self, execution_id: str) -> str | None:
        """
        Where a person looks at an execution, as ``execution_url`` says; None without one.
        """
        return self.execution_url.replace("{execution_id}", execution_id) if self.execution_url else None

    def saved_name(self) -> str | None:
        """
        Under which name this block was saved, or loaded; None: it was not.
        """
        return None if self._is_anonymous else self._block_document_name

    def _arguments(self, status_map: Mapping[str, str] | None, request_timeout: float | None) -> dict[str, Any]:
        return {
            "credentials": self._credential(),
            "base_url": self.base_url or None,
            "service": self.service,
            "settings": self._settings(status_map, request_timeout),
        }

    def _settings(self, status_map: Mapping[str, str] | None = None, request_timeout: float | None = None) -> Any:
        from tl_orchestration import Settings

        return Settings(
            request_timeout=self.request_timeout if request_timeout is None else request_timeout,
            max_connections=self.max_connections,
            requests_per_second=self.requests_per_second,
            proxy=self._secret("proxy") or None,
            ca_bundle=self.ca_bundle or None,
            client_cert=self.client_cert or None,
            status_map={**self.status_map, **(status_map or {})},
            workspace_id=self.workspace_id or None,
        )

    def _credential(self) -> Credentials:
        from tl_orchestration import B3osKey, OrganizationToken, WorkspaceKey

        source = _Source(self)
        if self.service == LEGACY:
            return WorkspaceKey.from_source(source.pair)
        if self.service == B3OS:
            return B3osKey(source.token, self.organization_id or None)
        return OrganizationToken(source.token)

    def _secret(self, name: str) -> str:
        value: SecretStr | None = getattr(self, name)
        return "" if value is None else value.get_secret_value()


class _Source:
    """
    The secrets: as the block had them at first, and at every later call as its document has them, where it was saved.
    """

    def __init__(self, block: TransactionlinkCredentials) -> None:
        self._block = block
        self._read = False

    def token(self) -> str:
        return self._current()._secret("token")

    def pair(self) -> tuple[str, str]:
        block = self._current()
        return block.key or "", block._secret("secret")

    def _current(self) -> TransactionlinkCredentials:
        name = self._block.saved_name()
        if not self._read or name is None:
            self._read = True
            return self._block
        from prefect_blocks.versions import PREFECT_FAILURES, load_block
        from tl_orchestration.errors import InvalidSettings

        try:
            return load_block(TransactionlinkCredentials, name)
        except PREFECT_FAILURES as error:
            raise InvalidSettings(
                f"The credentials block {name!r} could not be read again ({type(error).__name__})."
            ) from None
