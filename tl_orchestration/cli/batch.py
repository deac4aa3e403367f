"""
``tl batch``: an execution for each row of a source. Each command returns its exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from tl_orchestration.cli import stores
from tl_orchestration.cli.arguments import Command
from tl_orchestration.cli.batch_progress import BatchProgress
from tl_orchestration.cli.batch_report import answer, answer_check, tell_load
from tl_orchestration.cli.batch_source import SOURCE_URL, Described
from tl_orchestration.cli.durations import duration
from tl_orchestration.cli.interrupts import Interrupts
from tl_orchestration.cli.outcomes import SUCCESS
from tl_orchestration.cli.output import answer_json, tell
from tl_orchestration.cli.settings import Choices, connecting
from tl_orchestration.errors import InvalidSettings, LedgerError, WaitInterrupted

if TYPE_CHECKING:
    from tl_orchestration.batch import Batch
    from tl_orchestration.client import AsyncClient

_NOTICE = "Interrupted: ending in good order; executions go on. Ctrl-C again gives up."
_RETRIABLE = ("PARTIAL", "FAILED", "CANCELLED", "EXPIRED", "TIMED_OUT", "RESULT_MISSING", "REJECTED", "UNKNOWN")


@click.group()
def batch() -> None:
    """
    Run one execution for each row of a source, each started at most once; go on after any crash.

    CAMPAIGN names the whole, for example 2026-w47: the same name goes on with it, and every row of another one is
    started anew. Needs TRANSACTIONLINK_LEDGER_URL.
    """


@batch.command(cls=Command)
@click.argument("campaign")
@click.argument("source", required=False)
@click.option("--definition", required=True, metavar="ID", help="The workflow definition.")
@click.option("--query", type=click.Path(path_type=Path), metavar="FILE", help=f"SQL query, run in {SOURCE_URL}.")
@click.option("--columns", metavar="FILE", help="The whole mapping as a JSON object.")
@click.option("--key-column", metavar="COLUMN", help="The business key; must not be personal.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=COLUMN[:TYPE]", help="One for each parameter.")
@click.option("--parameters-from", metavar="COLUMN", help="A JSON object of parameters.")
@click.option("--record-id", metavar="COLUMN", help="The record's UUID.")
@click.option("--locale", metavar="COLUMN", help="Language of what a person sees.")
@click.option("--expires-in", metavar="COLUMN", help="Seconds until the service ends it.")
@click.option(
    "--options",
    metavar="FILE_OR_JSON",
    help="JSON object of what only the chosen service takes, for all rows; - for standard input. As the argument itself"
    " for B3OS alone.",
)
@click.option(
    "--option-column",
    "option_columns",
    multiple=True,
    metavar="NAME=COLUMN[:TYPE]",
    help="One for each of these that comes from a column.",
)
@click.option(
    "--output", metavar="FOLDER", help="Local folder or storage URI for results; none are fetched without it."
)
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True)
@click.option("--timeout", type=duration, default="1d", show_default=True, help="From a row's start to its deadline.")
@click.option("--quota", default="default", show_default=True, help="Name of the limits that campaigns share.")
@click.option("--in-flight", type=click.IntRange(1), metavar="N", help="Executions at once, of the whole quota.")
@click.option("--requests-per-second", type=click.FloatRange(0, min_open=True), metavar="N", help="Likewise.")
@click.option("--dry-run", is_flag=True, help="Check every row; send and keep nothing.")
@click.option("--canary", type=click.IntRange(1), metavar="N", help="Run so many rows to their end, then stop.")
@click.option("--max-starts", type=click.IntRange(1), metavar="N", help="Rows that the campaign may ever start.")
@click.option("--strict", is_flag=True, help="Start nothing if any row cannot be run.")
@click.option("--reload", "again", is_flag=True, help="Read the source again, also where it has not changed.")
@click.option("--resume", is_flag=True, help="Take an earlier `tl batch cancel` back.")
@click.option("--worker", metavar="NAME", help="Stable name of this worker, where several share the campaign.")
@connecting
@click.pass_obj
def run(
    console: Console,
    choices: Choices,
    campaign: str,
    source: str | None,
    definition: str,
    query: Path | None,
    columns: str | None,
    key_column: str | None,
    parameters: tuple[str, ...],
    parameters_from: str | None,
    record_id: str | None,
    locale: str | None,
    expires_in: str | None,
    options: str | None,
    option_columns: tuple[str, ...],
    output: str | None,
    form: Any,
    timeout: float,
    quota: str,
    in_flight: int | None,
    requests_per_second: float | None,
    dry_run: bool,
    canary: int | None,
    max_starts: int | None,
    strict: bool,
    again: bool,
    resume: bool,
    worker: str | None,
    as_json: bool,
) -> int:
    """
    Start every row of SOURCE that has not started, follow all to their ends, keep the results.

    SOURCE is a .jsonl, .csv or .parquet file, local or at a storage URI. TYPE is text, integer, number, boolean, date
    or json, with ? behind it where the value may be missing.
    """
    described = Described(
        source=source,
        query=query,
        definition=definition,
        columns=columns,
        key=key_column,
        parameters=parameters,
        service=choices.service,
        options=options,
        option_columns=option_columns,
        others={
            "parameters_from": parameters_from,
            "record_id": record_id,
            "locale": locale,
            "expires_in": expires_in,
        },
    )
    with _needing():
        from tl_orchestration.batch import Batch, Limits, Policy
    one = Batch(
        _client(choices, may_be_missing=True),
        campaign,
        described.book(),
        output=output,
        limits=Limits(quota=quota, in_flight=in_flight, requests_per_second=requests_per_second),
        policy=Policy(
            timeout=timeout,
            canary=canary,
            max_starts=max_starts,
            on_bad_rows="stop" if strict else "skip",
            format=form,
        ),
        worker=worker,
    )
    if dry_run:
        return answer_check(campaign, one.check(), as_json=as_json)
    with Interrupts(_NOTICE) as interrupts:
        try:
            report = one.load(again=again, stop=lambda: interrupts.happened)
        except LedgerError as error:
            if not interrupts.happened:
                raise
            raise WaitInterrupted(error.message) from None
        tell_load(report)
        if resume:
            if report.gone:
                raise InvalidSettings(
                    f"The source of campaign {campaign} is not there any more: no row of it can be started. Bring it"
                    " back, or leave --resume away. The campaign stays cancelled."
                )
            one.resume()
        with BatchProgress(console) as progress:
            summary = one.run(stop=lambda: interrupts.happened, on_progress=progress.show)
    return answer(summary, as_json=as_json)


@batch.command(cls=Command)
@click.argument("campaign")
@connecting
def status(choices: Choices, campaign: str, as_json: bool) -> int:
    """
    Print how a campaign stands.
    """
    return answer(_existing(choices, campaign).summary(), as_json=as_json)


@batch.command(cls=Command)
@click.argument("campaign")
@click.option("--drain", is_flag=True, help="Let what is in flight come to its end.")
@connecting
def cancel(choices: Choices, campaign: str, drain: bool, as_json: bool) -> int:
    """
    Start no more rows, and cancel what is in flight. `tl batch run` then sees to the ends; with --resume it goes on.
    """
    one = _existing(choices, campaign)
    cancelled = asyncio.run(_closing(one, drain=drain))
    if as_json:
        answer_json({"campaign": campaign, "cancelled": cancelled, "drain": drain})
    else:
        tell(f"Campaign {campaign} starts no more rows; {cancelled} cancels were accepted.")
    return SUCCESS


@batch.command(cls=Command)
@click.argument("campaign")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(_RETRIABLE, case_sensitive=False),
    help="Which rows.  [default: all of these]",
)
@click.option(
    "--unknown-anyway",
    is_flag=True,
    help="Also rows of unknown fate that nobody has said anything about: a check may run twice.",
)
@connecting
def retry(choices: Choices, campaign: str, states: tuple[str, ...], unknown_anyway: bool, as_json: bool) -> int:
    """
    Let rows be started again by the next `tl batch run`; RESULT_MISSING: only have their results asked for again, also
    of rows that ended before the campaign had its --output.
    """
    from tl_orchestration.batch import RowState

    chosen = [RowState(state) for state in states or _RETRIABLE]
    one = _existing(choices, campaign)
    count = one.retry(chosen, unknown="restart" if unknown_anyway else "verdict")
    is_stopped = bool(one.summary().stop)
    if as_json:
        answer_json({"campaign": campaign, "retried": count})
    else:
        resume = " --resume" if is_stopped else ""
        tell(f"{count} rows of campaign {campaign} are taken up again by the next `tl batch run {campaign} …{resume}`.")
    if is_stopped:
        tell("The campaign was cancelled: without --resume, a run starts no row of it.")
    return SUCCESS


@batch.command(cls=Command)
@click.argument("campaign")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only rows in this state.  [default: all]")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@connecting
def export(choices: Choices, campaign: str, states: tuple[str, ...], form: str, as_json: bool) -> int:
    """
    Print every row as the store knows it: key, state, execution, times, and where its result is. No result.
    """
    from tl_orchestration.batch import RowState

    try:
        chosen = [RowState(state.upper()) for state in states]
    except ValueError:
        raise click.UsageError(f"A state is one of {', '.join(RowState)}.") from None
    rows = _existing(choices, campaign).export(chosen)
    if as_json:
        answer_json({"campaign": campaign, "rows": list(rows)})
    elif form == "csv":
        _write_csv(rows)
    else:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=True))
    return SUCCESS


@batch.command(cls=Command)
@click.argument("campaign")
@connecting
def purge(choices: Choices, campaign: str, as_json: bool) -> int:
    """
    Forget a campaign of which nothing is in flight, has yet to be kept or is of unknown fate. Its files stay, and the
    ledger's entries.
    """
    rows = _existing(choices, campaign).purge()
    if as_json:
        answer_json({"campaign": campaign, "purged": rows})
    else:
        tell(f"Campaign {campaign} is forgotten, {rows} rows; its ledger entries are purged by `tl ledger purge`.")
    return SUCCESS


def _write_csv(rows: Iterator[dict[str, Any]]) -> None:
    writer: Any = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(sys.stdout, row)
            writer.writeheader()
        writer.writerow(row)


async def _closing(one: Batch, *, drain: bool) -> int:
    try:
        return await one.cancel(drain=drain)
    finally:
        await one.close()


def _existing(choices: Choices, campaign: str) -> Batch:
    with _needing():
        from tl_orchestration.batch import Batch
    return Batch(_client(choices), campaign)


def _client(choices: Choices, *, may_be_missing: bool = False) -> AsyncClient:
    from tl_orchestration.client import AsyncClient
    from tl_orchestration.ledger.sql import SqlLedger
    from tl_orchestration.settings import Settings

    if choices.is_keyless:
        raise InvalidSettings("A batch needs a key of B3OS: nobody could ask for its executions after their starts.")
    settings = Settings(
        proxy=choices.checked_proxy(choices.checked_url()),
        ca_bundle=choices.ca_bundle,
        client_cert=choices.client_cert,
    )
    ledger = SqlLedger(stores.database(None, may_be_missing=may_be_missing))
    return AsyncClient(choices.credentials(), choices.base_url, choices.service, ledger, settings)


@contextlib.contextmanager
def _needing() -> Iterator[None]:
    """
    Say which extra is missing, where one is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sqlalchemy":
            raise
        raise click.UsageError("A batch needs an extra: pip install 'tl-orchestration[batch]'.") from None
