"""
A ready flow that runs a campaign: its shards are tasks, and every flow run with the same campaign goes on with it.

It takes block *names* and the place of the rows, never a row: Prefect stores the parameters of a flow run. All that is
known of the campaign is in the SQL ledger of the credentials.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from attrs import define, field
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.logging import get_logger
from prefect.states import Cancelled, Completed, Failed

from prefect_blocks import decisions, identity, showing, waiting
from prefect_blocks.batch_orders import BatchColumns, BatchOrder
from prefect_blocks.tasks import may_be_retried
from tl_orchestration.batch.pace import Pace, counted
from tl_orchestration.errors import TransactionlinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun, State
    from prefect.futures import PrefectFuture

    from tl_orchestration.batch import Batch, BatchOutcome, BatchSummary

#: One campaign for each scheduled run of a deployment: a retry has the same, the next run of the schedule another one.
#: Without the deployment, two of them with the same schedule would take each other's rows for withdrawn ones.
_CAMPAIGN = "{deployment}~{scheduled_time}"

#: Seconds between two looks at the campaign, for the log and the progress artifact.
_PACE = 5.0
#: Seconds between two questions to the server whether the flow run is being cancelled.
_ASK = 5.0

#: By flow run: set once its shards in this process are to stop.
_stops: dict[UUID, threading.Event] = {}


class TooManyFailed(TransactionlinkError):
    """
    More rows of a campaign have not succeeded than ``max_failed`` or ``max_failed_share`` allows. Running it again
    starts none of them: that takes an explicit retry.
    """


def cancel_batch_executions(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """
    Hook for ``on_cancellation`` of :func:`run_batch_flow`: cancel what the shards of a flow run have in flight, if a
    person has cancelled it. It does again what the process of the flow run may not have come to.
    """
    log = get_logger("prefect_blocks.batches")
    asked = flow_run.parameters
    if asked.get("on_cancel") == "leave" or not decisions.somebody_decided(flow_run.id):
        log.info("The executions of flow run %s are left running.", flow_run.id)
        return
    campaign = _named(str(asked.get("campaign") or _CAMPAIGN), flow_run)
    order = BatchOrder(credentials=asked["credentials"], campaign=campaign, flow_run=str(flow_run.id))
    try:
        log.info("%d executions were cancelled.", _cancel(order, int(asked.get("shards") or 1)))
    except TransactionlinkError as error:
        log.error("Executions of campaign %s may go on: %s", campaign, error)


@flow(name="transactionlink-run-batch", on_cancellation=[cancel_batch_executions])
def run_batch_flow(
    credentials: str,
    workflow_definition_id: str,
    columns: BatchColumns,
    source: str | None = None,
    query: str | None = None,
    query_secret: str | None = None,
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
        output: Folder for results, by a path or storage URI that every shard can write to; a folder of the campaign's
            name is made in it. None: no results are fetched.
        campaign: Its name. The same one continues the campaign; another one starts every row anew. In it,
            ``{scheduled_time}`` stands for the time that the outermost flow run was scheduled for, and ``{deployment}``
            for the first digits of its deployment's id, or of its flow's.
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

    order = BatchOrder(
        credentials=credentials,
        campaign=_campaign(campaign),
        flow_run=_outermost(),
        workflow_definition_id=workflow_definition_id,
        columns=columns,
        source=source,
        query=query,
        query_secret=query_secret,
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
    with order.opened() as batch, _stopping() as stop:
        board = _Board(batch)
        futures: list[PrefectFuture[dict[str, Any]]] = []
        try:
            load_batch(order)
            futures = [run_shard.submit(order, number) for number in range(shards)]
            _wait(futures, board.tell)
        except (TerminationSignal, asyncio.CancelledError):
            stop.set()
            _wait(futures, lambda: None, until=time.monotonic() + waiting.LAST_WORDS)
            if on_cancel == "cancel":
                waiting.last_words(identity.flow_run_id(), partial(_cancel, order, shards))
            raise
        summary = board.conclude(futures)
    found: dict[str, Any] = _ended(summary, max_failed, max_failed_share)  # a state: Prefect hands on what it holds
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
    if report.skipped:
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
    with order.opened(number) as batch, _told_to_stop(identity.flow_run_id()) as stop:
        return batch.run(stop=stop).to_dict()


@define
class _Board:
    """
    How the campaign stands, for people: in the log, a progress artifact and a summary.
    """

    batch: Batch
    _bar: UUID | None = None
    _told: float = field(factory=time.monotonic)
    _pace: Pace = field(factory=Pace)

    def tell(self) -> None:
        """
        A line and a percentage, some seconds after the last ones at the earliest.
        """
        if time.monotonic() - self._told < _PACE:
            return
        self._told = time.monotonic()
        log = get_run_logger()
        try:
            summary = self.batch.summary()
        except TransactionlinkError as error:
            log.warning("How the campaign stands cannot be told now: %s", error)
            return
        held = "; starts are held, because they fail" if summary.breaker_open else ""
        log.info("%s; %s%s", counted(summary), self._pace.of(summary), held)
        self._show(summary)

    def conclude(self, futures: Sequence[PrefectFuture[dict[str, Any]]]) -> BatchSummary:
        """
        The campaign as its shards have left it, with their outcome; shown before anything is raised.

        Raises:
            TransactionlinkError: What a shard has failed with.
        """
        from attrs import evolve

        results: list[Any] = [future.result(raise_on_failure=False) for future in futures]
        errors = [result for result in results if isinstance(result, BaseException)]
        ended = [result for result in results if not isinstance(result, BaseException)]
        summary = evolve(
            self.batch.summary(), outcome=_outcome(ended), started_here=sum(one["started_here"] for one in ended)
        )
        self._show(summary)
        showing.batch_summary(summary, [type(error).__name__ for error in errors])
        if errors:
            raise errors[0]
        return summary

    def _show(self, summary: BatchSummary) -> None:
        if self._bar is None:
            self._bar = showing.batch_bar(summary.campaign, summary.rows)
        if self._bar is not None and summary.rows:
            showing.batch_progress(self._bar, 100.0 * (summary.rows - _unfinished(summary)) / summary.rows)


def _campaign(name: str) -> str:
    """
    Named by the outermost flow run: a subflow may be another one when its parent is retried.

    Raises:
        InvalidRequest: There is no flow run that could name it.
        LedgerError: The server did not say.
    """
    from prefect import get_client

    from prefect_blocks.versions import PREFECT_FAILURES
    from tl_orchestration.errors import InvalidRequest, LedgerError

    if "{" not in name:
        return name
    where = identity.scope()
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


def _outermost() -> str:
    where = identity.scope()
    return "" if where is None else str(where.flow_run_id)


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


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """
    An event for the shards of this flow run that are in this process. However the flow ends, they are to stop.
    """
    flow_run_id, stop = identity.flow_run_id(), threading.Event()
    if flow_run_id is not None:
        _stops[flow_run_id] = stop
    try:
        yield stop
    finally:
        stop.set()
        if flow_run_id is not None:
            del _stops[flow_run_id]


@contextlib.contextmanager
def _told_to_stop(flow_run_id: UUID | None) -> Iterator[Callable[[], bool]]:
    """
    Whether a shard is to stop. Where the flow is in another process, the server is asked now and then.
    """
    here = None if flow_run_id is None else _stops.get(flow_run_id)
    if here is not None or flow_run_id is None:
        yield (here or threading.Event()).is_set
        return
    stop, ended = threading.Event(), threading.Event()

    def ask() -> None:
        while not ended.wait(_ASK):
            if _has_ended(flow_run_id):
                stop.set()
                return

    threading.Thread(target=ask, daemon=True).start()
    try:
        yield stop.is_set
    finally:
        ended.set()


def _has_ended(flow_run_id: UUID) -> bool:
    from prefect import get_client

    from prefect_blocks.versions import PREFECT_FAILURES

    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run_id).state
    except PREFECT_FAILURES:
        return False
    return state is not None and (state.is_cancelling() or state.is_final())


def _wait(
    futures: Sequence[PrefectFuture[dict[str, Any]]], tell: Callable[[], None], until: float | None = None
) -> None:
    for future in futures:
        ended = _end_of(future)
        while not ended.wait(_PACE if until is None else max(0.0, until - time.monotonic())):
            if until is not None:
                return
            tell()


def _end_of(future: PrefectFuture[dict[str, Any]]) -> threading.Event:
    """
    Set once the task has ended. No server is asked, as the future's state would.
    """
    ended = threading.Event()

    def set_it(_: Any) -> None:
        ended.set()

    future.add_done_callback(set_it)
    return ended


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


def _outcome(shards: Sequence[Mapping[str, Any]]) -> BatchOutcome | None:
    """
    Of the shards together: the gravest of what they say. None: none of them has come to one.
    """
    from tl_orchestration.batch import BatchOutcome

    said = {shard["outcome"] for shard in shards}
    for outcome in (
        BatchOutcome.INTERRUPTED,
        BatchOutcome.CANCELLED,
        BatchOutcome.STOPPED,
        BatchOutcome.FINISHED,
        BatchOutcome.NOTHING_TO_START,
    ):
        if outcome.value in said:
            return outcome
    return None


def _unfinished(summary: BatchSummary) -> int:
    from tl_orchestration.batch.states import UNFINISHED

    return summary.count(*UNFINISHED)


def _judge(summary: BatchSummary, max_failed: int | None, max_failed_share: float | None) -> None:
    """
    Raises:
        TooManyFailed: Beyond one of the limits.
    """
    limits = [limit for limit in (max_failed, _share(max_failed_share, summary.rows)) if limit is not None]
    if summary.failed + summary.unknown > min(limits, default=0):
        raise TooManyFailed(
            f"Of {summary.rows} rows of campaign {summary.campaign}, {summary.failed} have failed and"
            f" {summary.unknown} are of unknown fate, which is more than max_failed and max_failed_share allow. Running"
            f" the campaign again starts none of them: `tl batch retry '{summary.campaign}'` lets them be started."
        )


def _share(share: float | None, rows: int) -> float | None:
    return None if share is None else share * rows


def _ended(summary: BatchSummary, max_failed: int | None, max_failed_share: float | None) -> Any:
    """
    The state in which the flow run ends, as its outcome says.

    Raises:
        TooManyFailed: See :func:`_judge`.
    """
    from tl_orchestration.batch import BatchOutcome

    told = f"Campaign {summary.campaign}: {counted(summary) or 'no rows'}."
    if summary.outcome is BatchOutcome.CANCELLED:
        return Cancelled(message=f"{told} Somebody has cancelled it: `tl batch run --resume` takes that back.")
    _judge(summary, max_failed, max_failed_share)
    if summary.outcome is BatchOutcome.STOPPED:
        why = "canary or max_starts is reached: raise it, or take it away, and run the campaign again"
        return Failed(name="Stopped", message=f"{told} {why}.")
    if not summary.is_finished:
        return Failed(name="Interrupted", message=f"{told} Its shards were told to stop: run the campaign again.")
    name = "NothingToStart" if summary.outcome is BatchOutcome.NOTHING_TO_START else "Completed"
    return Completed(name=name, message=told, data=summary.to_dict())


__all__ = ["TooManyFailed", "cancel_batch_executions", "load_batch", "run_batch_flow", "run_shard"]
