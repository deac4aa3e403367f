"""
A ready flow that runs a campaign: its shards are tasks, and every flow run with the same campaign goes on with it.

It takes block *names* and the place of the rows, never a row: Prefect stores the parameters of a flow run. All that is
known of the campaign is in the SQL ledger of the credentials.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.logging import get_logger

from prefect_blocks import batch_notes, decisions, identity, waiting
from prefect_blocks.batch_board import BatchBoard, wait_for
from prefect_blocks.batch_ending import TooManyFailed, ended
from prefect_blocks.batch_notes import BatchNote
from prefect_blocks.batch_orders import BatchColumns, BatchOrder
from prefect_blocks.batch_stopping import stopping, told_to_stop
from prefect_blocks.tasks import may_be_retried
from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import TransactionlinkError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.futures import PrefectFuture


#: One campaign for each scheduled run of a deployment and each book: a retry has the same, the next run of the schedule
#: another one. Two deployments with the same schedule, or two books of one flow run, would otherwise take each other's
#: rows for their own, or for withdrawn ones.
_CAMPAIGN = "{deployment}~{scheduled_time}~{book}"


def cancel_batch_executions(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """
    Hook for ``on_cancellation`` of a flow that calls :func:`run_batch_flow`, which has it itself: cancel what the
    shards of the flow run have in flight, if a person has cancelled it. It does again what the process of the flow run
    may not have come to. Prefect calls the hooks of the outermost flow only.
    """
    log = get_logger("prefect_blocks.batches")
    if not decisions.somebody_decided(flow_run.id):
        log.info("Nobody cancelled flow run %s: the executions of its batches are left running.", flow_run.id)
        return
    try:
        where = identity.scope_of(flow_run.id)
        notes = batch_notes.kept(where)
    except TransactionlinkError as error:
        log.error("Executions of its batches may go on, `tl batch cancel CAMPAIGN` ends them: %s", error)
        return
    for note in notes:
        if note.on_cancel == "leave":
            log.info("The executions of campaign %s are left running.", note.campaign)
            continue
        order = BatchOrder(credentials=note.credentials, campaign=note.campaign, flow_run=str(where.flow_run_id))
        try:
            log.info("%d executions of campaign %s were cancelled.", _cancel(order, note.shards), note.campaign)
        except (*PREFECT_FAILURES, TransactionlinkError) as error:
            log.error("Executions of campaign %s may go on: %s", note.campaign, error)


@flow(name="transactionlink-run-batch", on_cancellation=[cancel_batch_executions])
def run_batch_flow(
    credentials: str,
    workflow_definition_id: str,
    columns: BatchColumns,
    source: str | None = None,
    query: str | None = None,
    query_secret: str | None = None,
    service_options: dict[str, Any] | None = None,
    output: str | None = None,
    campaign: str = _CAMPAIGN,
    shards: int = 1,
    quota: str = "default",
    in_flight: int | None = None,
    requests_per_second: float | None = None,
    timeout: float = 86400.0,
    cancel_on_timeout: bool = True,
    on_bad_rows: Literal["skip", "stop"] = "skip",
    max_starts: int | None = None,
    canary: int | None = None,
    starts_at_once: int = 5,
    breaker_after: int = 3,
    format: Literal["jsonl", "parquet"] = "jsonl",  # noqa: A002 -- as the core's Policy names it
    correlation_parameter: str | None = None,
    max_failed: int | None = None,
    max_failed_share: float | None = None,
    on_cancel: Literal["cancel", "leave"] = "cancel",
) -> dict[str, Any]:
    """
    Run a workflow once for each row of a source.

    Args:
        credentials: Name of a saved TransactionlinkCredentials block with a ``ledger_url``.
        workflow_definition_id: The definition.
        columns: Which column is what.
        source: The rows: a .jsonl, .csv or .parquet file, by a path or storage URI that every shard can read.
        query: The rows as a SQL query, instead. Prefect stores its text.
        query_secret: Name of a saved Secret block with the SQLAlchemy URL of the database that is queried.
        service_options: What only the service of the credentials takes, for all rows: fields of
            :class:`~tl_orchestration.B3osOptions`, which B3OS needs, or the ``case_id`` of
            :class:`~tl_orchestration.LegacyOptions`. Prefect stores them. What is the row's comes from the ``options``
            of ``columns``.
        output: Folder for results, by a path or storage URI that every shard can write to; a folder of the campaign's
            name is made in it. None: no results are fetched.
        campaign: Its name. The same one continues the campaign; another one starts every row anew. In it,
            ``{scheduled_time}`` stands for the time that the outermost flow run was scheduled for, ``{deployment}``
            for the first digits of its deployment's id, or of its flow's, and ``{book}`` for eight digits of a digest
            of what is screened: of the definition and ``source``, or ``query`` and ``query_secret``.
        shards: Tasks that share the rows. Each is a worker of the campaign, named by flow run and number, so that a
            retry of the flow run finds its rows again at once.
        quota: Name of the limits that campaigns share.
        in_flight: Executions at once, of the whole quota. Default: as the ledger has it, else 500.
        requests_per_second: Likewise. Default: as the ledger has it, else what the credentials say.
        timeout: Seconds from a row's start to its deadline.
        cancel_on_timeout: Whether the deadline cancels the execution.
        on_bad_rows: ``stop`` starts nothing if any row is bad; else such rows go to the reject file.
        max_starts: Rows that the campaign may ever start.
        canary: Run so many rows of the campaign to their end, then fail, for a person to look.
        starts_at_once: Starts of one shard that may wait for their answers.
        breaker_after: Starts in a row without a good answer after which no more are made, but for probes.
        format: Of the results: ``jsonl`` or ``parquet``, which needs pyarrow.
        correlation_parameter: Name of a parameter that gets a random id with each start.
        max_failed: Fail if more rows than this have ended without success, were refused, or are of unknown fate. With
            neither this nor the share, none may.
        max_failed_share: The same as a share of all rows, from 0 to 1. With both, the lower one holds.
        on_cancel: ``leave`` lets executions go on when a person cancels the flow run. They are left in any case where
            only the worker goes away.

    Returns:
        The summary of the campaign, as :meth:`tl_orchestration.batch.BatchSummary.to_dict`. The state of the flow run
        is ``Completed``, or ``NothingToStart`` of the same type if every row had come to its end before. It is
        ``Stopped``, of the type FAILED, where ``canary`` or ``max_starts`` has left rows; and ``Cancelled`` where
        somebody has cancelled the campaign itself.

    Raises:
        TooManyFailed: See ``max_failed``.
        InvalidRequest: The arguments, or the rows, cannot be used. Nothing was sent.
        InvalidSettings: The same of the credentials.
        TransactionlinkError: See :meth:`tl_orchestration.batch.Batch.work`. What is known is on record: run it again.
    """
    from tl_orchestration.batch import Limits, Policy

    where = identity.scope()
    order = BatchOrder(
        credentials=credentials,
        campaign=_campaign(campaign, [workflow_definition_id, source, query, query_secret], where),
        flow_run="" if where is None else str(where.flow_run_id),
        workflow_definition_id=workflow_definition_id,
        columns=columns,
        source=source,
        query=query,
        query_secret=query_secret,
        service_options=service_options,
        output=output,
        limits=Limits(quota=quota, in_flight=in_flight, requests_per_second=requests_per_second),
        policy=Policy(
            timeout=timeout,
            cancel_on_timeout=cancel_on_timeout,
            on_bad_rows=on_bad_rows,
            max_starts=max_starts,
            canary=canary,
            starts_at_once=starts_at_once,
            breaker_after=breaker_after,
            format=format,
            correlation_parameter=correlation_parameter,
        ),
    )
    _check(shards, max_failed, max_failed_share)
    order.check()
    if where is not None:
        note = BatchNote(credentials=credentials, campaign=order.campaign, shards=shards, on_cancel=on_cancel)
        batch_notes.keep(where, note)
    with order.opened() as batch, stopping() as stop:
        board = BatchBoard(batch)
        futures: list[PrefectFuture[dict[str, Any]]] = []
        try:
            load_batch(order)
            futures = [run_shard.submit(order, number) for number in range(shards)]
            wait_for(futures, board.tell)
        except (TerminationSignal, asyncio.CancelledError):
            stop.set()
            wait_for(futures, lambda: None, until=time.monotonic() + waiting.LAST_WORDS)
            if on_cancel == "cancel":
                waiting.last_words(identity.flow_run_id(), partial(_cancel, order, shards))
            raise
        summary = board.conclude(futures)
    found: dict[str, Any] = ended(summary, max_failed, max_failed_share)  # a state: Prefect hands on what it holds
    return found


@task(
    name="load-batch",
    task_run_name="load",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=30,
    retry_condition_fn=may_be_retried,
)
def load_batch(order: BatchOrder) -> dict[str, Any]:
    """
    Read the rows once, and put their keys on record. Nothing is sent.
    """
    log = get_run_logger()
    with order.opened() as batch:
        report = batch.load()
    if report.gone:
        log.warning(
            "Campaign %s: its source is not there any more, and nothing of it is to be started.", order.campaign
        )
    elif report.skipped:
        log.info("Campaign %s: its source is loaded already, and has not changed.", order.campaign)
    else:
        log.info("Campaign %s: %d rows read, %d can be run.", order.campaign, report.read, report.accepted)
        if not report.is_clean:
            log.warning(
                "%d rows are bad, and %d keys have several different rows: see the summary, and the reject file beside"
                " the results.",
                report.rejected,
                report.conflicting,
            )
        if report.changed or report.withdrawn:
            log.warning(
                "%d rows changed after they had started, and %d are no longer in the source.",
                *(report.changed, report.withdrawn),
            )
    return report.to_dict()


@task(
    name="batch-shard",
    task_run_name="shard {number}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=may_be_retried,
)
def run_shard(order: BatchOrder, number: int) -> dict[str, Any]:
    """
    One worker of the campaign: start, follow and keep rows until the whole campaign has come to its end.
    """
    with order.opened(number) as batch, told_to_stop(identity.flow_run_id()) as stop:
        return batch.run(stop=stop).to_dict()


def _campaign(name: str, screened: list[str | None], where: identity.Scope | None) -> str:
    """
    Named by the outermost flow run: a subflow may be another one when its parent is retried.

    Args:
        name: With placeholders.
        screened: The definition, and where the rows are.
        where: The running code's.

    Raises:
        InvalidRequest: There is no flow run that could name it.
        LedgerError: The server did not say.
    """
    from prefect import get_client

    from tl_orchestration.errors import InvalidRequest, LedgerError

    name = name.replace("{book}", hashlib.sha256(json.dumps(screened).encode()).hexdigest()[:8])
    if "{" not in name:
        return name
    if where is None:
        raise InvalidRequest("Name the campaign: there is no flow run here that could name it. Nothing was sent.")
    try:
        with get_client(sync_client=True) as client:
            return _named(name, client.read_flow_run(where.flow_run_id))
    except PREFECT_FAILURES as error:
        raise LedgerError(
            f"The Prefect server did not say when this flow run was scheduled ({type(error).__name__}). Nothing was"
            " sent; try again, or name the campaign."
        ) from None


def _named(campaign: str, flow_run: FlowRun) -> str:
    """
    Neither the time for which a flow run was scheduled nor its deployment changes, whatever is retried.
    """
    moment: Any = flow_run.expected_start_time or flow_run.created
    campaign = campaign.replace("{scheduled_time}", moment.astimezone(UTC).isoformat())
    return campaign.replace("{deployment}", str(flow_run.deployment_id or flow_run.flow_id)[:8])


def _check(shards: int, max_failed: int | None, max_failed_share: float | None) -> None:
    from tl_orchestration.errors import InvalidRequest

    if shards < 1:
        raise InvalidRequest("A batch has at least one shard. Nothing was sent.")
    if (max_failed is not None and max_failed < 0) or not 0 <= (max_failed_share or 0) <= 1:
        raise InvalidRequest("max_failed is a number of rows, and max_failed_share is from 0 to 1. Nothing was sent.")


def _cancel(order: BatchOrder, shards: int) -> int:
    """
    Cancel what the shards of this flow run have in flight.

    Raises:
        TransactionlinkError: The campaign, or its ledger, could not be looked at.
    """

    async def one(number: int) -> int:
        with order.opened(number) as batch:
            try:
                return await batch.cancel(only_mine=True)
            finally:
                await batch.close()

    async def each() -> int:
        return sum([await one(number) for number in range(shards)])

    return waiting.in_loop(each)


__all__ = ["TooManyFailed", "cancel_batch_executions", "load_batch", "run_batch_flow", "run_shard"]
