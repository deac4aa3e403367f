"""
What a batch is asked for, in values that Prefect can store and show, and the batch that the core makes of it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prefect_blocks.credentials import TransactionlinkCredentials
    from tl_orchestration.batch import Batch, Book, Columns, Limits, Policy


class BatchColumn(BaseModel):
    """
    Where a parameter's value comes from, and what it must be. See :class:`tl_orchestration.batch.Column`.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="The column.")
    type: Literal["as-is", "text", "integer", "number", "boolean", "date", "json"] = Field(
        default="as-is", description="What its values are, or have to be read as."
    )
    required: bool = Field(default=True, description="Whether a row without a value is bad.")


class BatchColumns(BaseModel):
    """
    Which column is what. See :class:`tl_orchestration.batch.Columns`.
    """

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="Column with the business key of a row, which must not be personal.")
    parameters: dict[str, str | BatchColumn] = Field(
        default_factory=dict, description="By the name of the workflow's parameter, its column."
    )
    parameters_from: str | None = Field(default=None, description="Column with a JSON object of parameters.")
    record_id: str | None = Field(default=None, description="Column with the record's UUID.")
    locale: str | None = Field(default=None, description="Column with the language.")
    expires_in: str | None = Field(default=None, description="Column with the seconds from start to expiry.")
    default_locale: str = Field(default="en", description="Language where that column is empty, or not named.")
    options: dict[str, str | BatchColumn] = Field(
        default_factory=dict,
        description="By the name of what only the credentials' service takes, its column; over service_options.",
    )

    def columns(self) -> Columns:
        """
        As the core takes them.
        """
        from tl_orchestration.batch import Columns

        return Columns.from_dict(self.model_dump())


@frozen(kw_only=True)
class BatchOrder:
    """
    A campaign, in names. It goes from the flow to its tasks, into whatever process they run in.

    Args:
        credentials: Name of a saved TransactionlinkCredentials block with a ``ledger_url``.
        campaign: Its name, without placeholders.
        flow_run: Id of the outermost flow run.
        workflow_definition_id: What is run for each row.
        columns: Which column is what; None for whoever only looks or cancels.
        source: File with the rows.
        query: SQL query for the rows, instead.
        query_secret: Name of a saved Secret block with the URL of the database that is queried.
        service_options: What only the service of the credentials takes, for all rows.
        output: Folder for results.
        limits: The quota that it shares.
        policy: Brakes and formats.
    """

    credentials: str
    campaign: str
    flow_run: str
    workflow_definition_id: str = ""
    columns: BatchColumns | None = None
    source: str | None = None
    query: str | None = field(default=None, repr=False)
    query_secret: str | None = None
    service_options: Mapping[str, Any] | None = field(default=None, repr=False)
    output: str | None = None
    limits: Limits | None = None
    policy: Policy | None = None

    def check(self) -> None:
        """
        Refuse what could not work, before anything is read.

        Raises:
            InvalidRequest: A source is missing, given twice, or shows a credential; the service does not take the
                options, or they describe a case; or the credentials allow results elsewhere only.
            InvalidSettings: The campaign's name cannot be used, or the credentials have no ledger.
        """
        from tl_orchestration.batch.policy import checked_campaign
        from tl_orchestration.errors import InvalidRequest
        from tl_orchestration.options import LegacyOptions, options_for
        from tl_orchestration.result_uri import ResultUri

        checked_campaign(self.campaign)
        if (self.source is None) == (self.query is None) or (self.query is None) != (self.query_secret is None):
            raise InvalidRequest(
                "Name the rows by source, or by query and query_secret, and not by both. Nothing was sent."
            )
        block = self._block()
        options = options_for(block.service, self.service_options, "service_options")
        if isinstance(options, LegacyOptions) and options.describes_case:
            raise InvalidRequest(
                "Fields of a case are personal, and Prefect stores the parameters of flows: take them from columns, by"
                " the options of BatchColumns. Nothing was sent."
            )
        for where in (self.source, self.output):
            if where is not None and "://" in where:
                _check_uri(where)
        if self.output is not None:
            place = ResultUri.parse(self.output) if "://" in self.output else None
            block.result_policy().check_uri(place, "the output of the batch")

    @contextlib.contextmanager
    def opened(self, shard: int | None = None) -> Iterator[Batch]:
        """
        The batch, with a client and a ledger of its own.

        Args:
            shard: Of this flow run: so is its worker named. None: for whoever only looks.

        Raises:
            InvalidSettings: The credentials have no ledger, or what it needs is not installed; the source or the output
                cannot be used here.
        """
        from tl_orchestration.batch import Batch

        block = self._block()
        ledger: Any = block.sql_ledger()
        book = None if self.columns is None else self._book(self.columns, block.service)
        try:
            yield Batch(
                block.get_async_client(ledger=ledger),
                self.campaign,
                book,
                output=self.output,
                limits=self.limits,
                policy=self.policy,
                worker=None if shard is None else f"{self.flow_run}-{shard}",
            )
        finally:
            ledger.close()
            if self.query is not None and book is not None:
                book.source.database.dispose()  # type: ignore[attr-defined]  # a query's

    def _block(self) -> TransactionlinkCredentials:
        from prefect_blocks.credentials import TransactionlinkCredentials
        from prefect_blocks.versions import load_block
        from tl_orchestration.errors import InvalidSettings

        block = load_block(TransactionlinkCredentials, self.credentials)
        if block.ledger_url is None or not block.ledger_url.get_secret_value().strip():
            raise InvalidSettings(
                "A batch keeps its campaign beside a SQL ledger, and the credentials block"
                f" {self.credentials!r} names none in ledger_url, such as postgresql+psycopg://user@host/database."
                " Nothing was sent."
            )
        return block

    def _book(self, columns: BatchColumns, service: str) -> Book:
        from tl_orchestration.batch import Book, Query, source
        from tl_orchestration.options import options_for

        options = options_for(service, self.service_options, "service_options")
        if self.source is not None:
            rows: Any = source(self.source)
        else:
            rows = Query(self._database(), self.query or "")
        return Book(
            workflow_definition_id=self.workflow_definition_id, source=rows, columns=columns.columns(), options=options
        )

    def _database(self) -> str:
        from prefect.blocks.system import Secret

        from prefect_blocks.versions import load_block
        from tl_orchestration.errors import InvalidSettings

        url: Any = load_block(Secret, self.query_secret or "").get()
        if not isinstance(url, str) or not url.strip():
            raise InvalidSettings(
                f"The Secret block {self.query_secret!r} holds no text: it must be the URL of the database with the"
                " rows. Nothing was sent."
            )
        return url.strip()


def _check_uri(where: str) -> None:
    """
    Raises:
        InvalidRequest: Prefect would store a credential with it.
    """
    from tl_orchestration.errors import InvalidRequest
    from tl_orchestration.result_uri import ResultUri

    if ResultUri.parse(where).connection is not None:
        raise InvalidRequest(
            "A storage URI of a batch has a name in front of '@', and Prefect stores the parameters of flows; the"
            " storage's credentials belong into its own configuration. Nothing was sent."
        )


__all__ = ["BatchColumn", "BatchColumns", "BatchOrder"]
