"""
From options to what a campaign runs: its source, and which column is what.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import frozen

from tl_orchestration.cli.parameters import read_object
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.options import Options, options_for

if TYPE_CHECKING:
    from tl_orchestration.batch import Book, Column, Columns
    from tl_orchestration.batch.sources import Source

SOURCE_URL = "TRANSACTIONLINK_BATCH_SOURCE_URL"


@frozen(kw_only=True)
class Described:
    """
    What the options say, not checked yet.
    """

    source: str | None
    query: Path | None
    definition: str
    columns: str | None
    key: str | None
    parameters: tuple[str, ...]
    service: str
    options: str | None
    option_columns: tuple[str, ...]
    others: dict[str, str | None]

    def book(self) -> Book:
        """
        Raises:
            click.UsageError: Options are missing or contradict one another.
            InvalidSettings: The source cannot be used.
            InvalidRequest: The service does not take the options, or needs some.
        """
        from tl_orchestration.batch import Query, source

        if (self.source is None) == (self.query is None):
            raise click.UsageError("Give either SOURCE or --query, and not both.")
        if self.options == self.columns == "-":
            raise click.UsageError("--options and --columns cannot both be read from standard input.")
        if self.source is not None:
            return self._over(source(self.source))
        url = os.environ.get(SOURCE_URL, "").strip()
        if not url:
            raise click.UsageError(f"--query needs {SOURCE_URL}: the URL of the database that has the rows.")
        assert self.query is not None
        try:
            statement = self.query.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise click.UsageError("The --query file cannot be read.") from None
        return self._over(Query(url, statement))

    def _over(self, rows: Source) -> Book:
        from tl_orchestration.batch import Book

        return Book(
            workflow_definition_id=self.definition, source=rows, columns=self._columns(), options=self._options()
        )

    def _options(self) -> Options | None:
        given = None if self.options is None else read_object(self.options, "--options", inline=self.service == "b3os")
        return options_for(self.service, given, "--options")

    def _columns(self) -> Columns:
        from tl_orchestration.batch import Columns

        if self.columns is None:
            if self.key is None:
                raise click.UsageError("Give --key-column, or --columns with the whole mapping.")
            named = {name: value for name, value in self.others.items() if value is not None}
            return Columns(
                key=self.key,
                parameters=dict(_typed(text, "--parameter") for text in self.parameters),
                options=dict(_typed(text, "--option-column") for text in self.option_columns),
                **named,
            )
        if self.key is not None or self.parameters or self.option_columns or any(self.others.values()):
            raise click.UsageError("--columns has the whole mapping: give no other option for columns.")
        document = read_object(self.columns, "--columns")
        try:
            return Columns.from_dict(document)
        except InvalidSettings as error:
            raise click.UsageError(f"--columns: {error}") from None


def _typed(text: str, option: str) -> tuple[str, Column]:
    from tl_orchestration.batch import Column

    name, equals, rest = text.partition("=")
    column, colon, kind = rest.rpartition(":")
    if not colon:
        column, kind = rest, "as-is"
    if not (name and equals and column):
        raise click.UsageError(f"{option} must be NAME=COLUMN or NAME=COLUMN:TYPE.")
    required = not kind.endswith("?")
    try:
        return name, Column(column, kind.removesuffix("?") or "as-is", required)  # type: ignore[arg-type]
    except ValueError:
        raise click.UsageError(
            f"The TYPE of {option} is text, integer, number, boolean, date or json, with ? where it may be missing."
        ) from None


__all__ = ["SOURCE_URL", "Described"]
