"""
Run a workflow execution for each row of a customer book: a campaign, as one task or as several shards of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.sdk import BaseOperator

from airflow_provider import connection_form
from airflow_provider.redaction import Withheld, without_password

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Context, ObjectStoragePath

    from airflow_provider.hooks import TransactionlinkHook
    from tl_orchestration import B3osOptions, LegacyOptions
    from tl_orchestration.batch import Batch, BatchSummary, Columns

_DAY = 24 * 3600.0
#: One campaign for each run of a task. A clear or a retry goes on with it; so do all shards of a mapped task.
_CAMPAIGN = "{{ dag.dag_id }}~{{ task.task_id }}~{{ run_id }}"
#: Seconds to work in the worker after a wait in the triggerer broke off: a trigger that always crashes costs no more
#: than one resume a minute.
_AFTER_CRASH = 60.0


class TransactionlinkBatchOperator(BaseOperator):
    """
    Starts one execution for each row of a source, each at most once in its campaign, and keeps what they come to.

    The campaign is kept in the SQL ledger of the connection (``ledger_url``). A retry, a cleared task and every shard
    of a mapped task go on with it: ``.partial(...).expand(shard=[0, 1, 2, 3])`` is four workers of one campaign. A row
    is started again only in another campaign, or after an explicit ``tl batch retry``.

    Args:
        workflow_definition_id: Id of the workflow definition.
        columns: Which column is what, as :class:`~tl_orchestration.batch.Columns` or a dict of its arguments:
            ``{"key": "customer_id", "parameters": {"firstName": "first", "dateOfBirth": {"name": "born", "type":
            "date"}}}``. The key names a row in ledger, logs and XCom, so it must not be personal. ``options`` are
            columns of what else only the connection's service takes.
        source: File with the rows, ``.jsonl``, ``.csv`` or ``.parquet``: a path, the URI of an object storage
            (``s3://conn@bucket/book.parquet``) or an ObjectStoragePath.
        sql: Query for the rows instead, or a ``.sql`` file of it. It stands alone, and names no person: Airflow shows
            it.
        sql_conn_id: Connection for ``sql``, of a type that has SQLAlchemy engines.
        sql_parameters: Values for the query's ``:names``. Airflow shows their names only.
        service_options: What only the connection's service takes, for all rows: LegacyOptions or B3osOptions, or a dict
            of their fields. B3OS needs ``source_system`` and ``source_entity_type``. Airflow shows the names only of
            what is rendered; what is personal belongs in columns.
        campaign: Name of the campaign. Default: DAG, task and run id, so that each run starts every row. A task that is
            mapped over books, and not over ``shard``, needs a campaign for each of them, with the map index or the
            book's name in it: ``"screening~{{ run_id }}~{{ ti.map_index }}"``.
        results: Folder for results, manifest and reject files, as ``source``. The connection's ``result_uri_prefixes``
            hold for it. None: no results are fetched.
        shard: Which worker of a mapped task this one is. Shards need the same source. Default: its map index, where the
            campaign has a name of your own.
        transactionlink_conn_id: Connection, with a ``ledger_url``.
        deferrable: Wait in the triggerer, without a worker slot, while as many executions as may be are in flight.
        quota: Name of the limits, which all batches that name it share.
        in_flight: Executions of the quota that may be under way. Default: as the store has it, else 500.
        requests_per_second: Requests of the quota. Default: as the store has it, else the connection's.
        timeout: From the start of a row's execution to its deadline; a timedelta or seconds.
        cancel_on_timeout: Whether that deadline cancels the execution.
        on_bad_rows: ``stop`` starts nothing if any row cannot be run; else such rows go to the reject file.
        max_starts: Rows that may ever be started in the campaign.
        canary: So many rows of the campaign, then the task fails for a person to look.
        starts_at_once: Starts of this worker that may wait for their answers.
        breaker_after: Starts in a row without a good answer after which no more are made, but for probes.
        format: Of the results: ``jsonl`` or ``parquet``.
        correlation_parameter: Name of a parameter that gets a random id with each start.
        max_failed: The task fails, at its end, if more rows than this have failed, were refused, or may or may not have
            started. With neither this nor the share, none may.
        max_failed_share: The same as a share of all rows, from 0 to 1. With both, the lower one holds.
        on_nothing_to_start: What a run does that finds its campaign finished, or its source empty: ``accept`` ends
            well, with the outcome ``NOTHING_TO_START``; ``skip`` skips the task and, by Airflow's rules, what follows,
            unless a row was started since the DAG run began: by another shard, or by an earlier try.
        cancel_on_kill: Cancel the executions that this worker has in flight when a person stops the task or its
            ``execution_timeout`` passes. Those of other shards go on.

    Returns:
        The campaign in numbers: ``campaign``, ``outcome`` (``FINISHED``, ``NOTHING_TO_START``, ``LEFT_TO_OTHERS``
        where other shards see to the rest), ``rows``, ``counts`` by state, ``failed``, ``unknown``, ``started_here``,
        ``requests``, ``load``, ``output`` and more. It is in XCom also where the rows that failed fail the task.
    """

    template_fields: Sequence[str] = (
        "workflow_definition_id",
        "source",
        "sql",
        "sql_conn_id",
        "sql_parameters",
        "service_options",
        "campaign",
        "results",
        "quota",
        "transactionlink_conn_id",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers = {"sql": "sql"}  # noqa: RUF012 -- Airflow's
    ui_color = "#dbe7ff"

    def __init__(
        self,
        *,
        workflow_definition_id: str,
        columns: Columns | Mapping[str, Any],
        source: str | Path | ObjectStoragePath | None = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        sql_parameters: Mapping[str, Any] | None = None,
        service_options: Mapping[str, Any]
        | LegacyOptions
        | B3osOptions
        | Callable[..., Mapping[str, Any] | LegacyOptions | B3osOptions]
        | None = None,
        campaign: str = _CAMPAIGN,
        results: str | Path | ObjectStoragePath | None = None,
        shard: int | str | None = None,
        transactionlink_conn_id: str = connection_form.DEFAULT_CONN_ID,
        deferrable: bool = True,
        quota: str = "default",
        in_flight: int | None = None,
        requests_per_second: float | None = None,
        timeout: timedelta | float = _DAY,
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
        on_nothing_to_start: Literal["accept", "skip"] = "accept",
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_definition_id = workflow_definition_id
        self.columns = columns
        self.source: Any = source  # Withheld, once rendered to what may hold a password
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.sql_parameters: Any = sql_parameters  # Withheld, once rendered
        self.service_options: Any = service_options  # likewise
        self.campaign = campaign
        self.results: Any = results  # as source
        self.shard = shard
        self.transactionlink_conn_id = transactionlink_conn_id
        self.deferrable = deferrable
        self.quota = quota
        self.in_flight = in_flight
        self.requests_per_second = requests_per_second
        self.timeout = timeout
        self.cancel_on_timeout = cancel_on_timeout
        self.on_bad_rows = on_bad_rows
        self.max_starts = max_starts
        self.canary = canary
        self.starts_at_once = starts_at_once
        self.breaker_after = breaker_after
        self.format = format
        self.correlation_parameter = correlation_parameter
        self.max_failed = max_failed
        self.max_failed_share = max_failed_share
        self.on_nothing_to_start = on_nothing_to_start
        self.cancel_on_kill = cancel_on_kill
        self._stop_requested = False

    def _do_render_template_fields(self, parent: Any, *args: Any, **kwargs: Any) -> None:
        super()._do_render_template_fields(parent, *args, **kwargs)
        if parent is self:
            self.source, self.results = without_password(self.source), without_password(self.results)
            if self.sql_parameters is not None:
                self.sql_parameters = Withheld(self.sql_parameters)
            if self.service_options is not None:
                self.service_options = Withheld(self.service_options)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Load the campaign, unless it is loaded, and work on it until it is finished or the in-flight limit is reached.
        """
        return self._work(context, loads=True)

    def go_on(self, context: Context, event: Any = None, started: int = 0, **_: Any) -> dict[str, Any]:
        """
        Resume after the trigger's event: keep what has ended, and start what may be started.
        """
        from airflow_provider import batch_shift
        from airflow_provider.failures import reported

        with reported(under_way=True):
            batch_shift.check_event(event)
        return self._work(context, started=started)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        As Airflow's. But where Airflow ends the wait because its trigger has crashed, the task works on; and the
        ``execution_timeout``, for which it was deferred at most, ends the task as it does a running one.
        """
        from airflow_provider import batch_arguments, batch_shift
        from airflow_provider.failures import reported
        from airflow_provider.versions import AirflowTaskTimeout, TaskDeferralError, TaskDeferralTimeout

        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            with reported(under_way=True), batch_arguments.opened(self, self._hook(), context) as batch:
                batch_shift.time_is_up(batch, cancel=self.cancel_on_kill)
            raise AirflowTaskTimeout("The execution_timeout of the task has passed while it was deferred.") from None
        except TaskDeferralError:
            self.log.warning("The wait in the triggerer has broken off; this task goes on with its campaign.")
        return self._work(context, until=time.time() + _AFTER_CRASH)

    def on_kill(self) -> None:
        """
        Runs inside a signal handler, so it only sets a flag; whoever works sees it and decides.
        """
        self._stop_requested = True

    def _work(
        self, context: Context, *, loads: bool = False, started: int = 0, until: float | None = None
    ) -> dict[str, Any]:
        """
        Args:
            loads: Whether the source is read first: once in a try.
            started: Starts of this try before it was deferred.
            until: Work on here, whatever the limit, to this moment, epoch seconds.
        """
        from attrs import evolve

        from airflow_provider import batch_arguments, batch_shift, decisions
        from airflow_provider.failures import reported

        resumed = not loads
        with (
            reported(under_way=resumed or context["ti"].try_number > 1),
            batch_arguments.opened(self, self._hook(), context) as batch,
        ):
            summary = batch_shift.worked(
                batch,
                context,
                loads=loads,
                follows=until is not None or not self.deferrable,
                stop=self._told_to_stop,
                cancel=self.cancel_on_kill,
                ends=self._ends(context),
                until=until,
            )
            summary = evolve(summary, started_here=summary.started_here + started)
            if summary.outcome in batch_shift.GOES_ON or (until is not None and time.time() >= until):
                if decisions.ended_already(context):
                    batch_shift.stopped(batch, context, cancel=self.cancel_on_kill)
                self._defer(context, batch.worker, summary)
            return self._hand_on(context, batch, summary, resumed=resumed)

    def _hand_on(self, context: Context, batch: Batch, summary: BatchSummary, *, resumed: bool) -> dict[str, Any]:
        from attrs import evolve

        from airflow_provider import batch_shift
        from airflow_provider.versions import AirflowSkipException
        from tl_orchestration.batch import BatchOutcome

        if resumed and summary.outcome is BatchOutcome.NOTHING_TO_START:
            summary = evolve(summary, outcome=BatchOutcome.FINISHED)  # this try has waited for what it has started
        returns = summary.to_dict()
        nothing = summary.outcome is BatchOutcome.NOTHING_TO_START
        if nothing:
            self.log.warning(
                "Campaign %s has nothing to start. Another campaign starts its keys again.", summary.campaign
            )
        try:
            batch_shift.check_end(summary, self)
            if nothing and self.on_nothing_to_start == "skip" and not batch.started_since(self._run_began(context)):
                raise AirflowSkipException(f"Campaign {summary.campaign} has nothing to start.")
        except Exception:
            if self.do_xcom_push:
                context["ti"].xcom_push("return_value", returns)
            raise
        return returns

    def _hook(self) -> TransactionlinkHook:
        from airflow_provider.hooks import TransactionlinkHook

        return TransactionlinkHook(self.transactionlink_conn_id)

    def _ends(self, context: Context) -> float:
        """
        When the time of this try is up, epoch seconds: Airflow does not enforce it while a task is deferred.
        """
        began = context["ti"].start_date
        if self.execution_timeout is None or began is None:
            return float("inf")
        return float(began.timestamp() + self.execution_timeout.total_seconds())

    def _run_began(self, context: Context) -> float:
        """
        Since when what is started is this DAG run's, epoch seconds.
        """
        run = context.get("dag_run")
        began = getattr(run, "start_date", None) or context["ti"].start_date
        return 0.0 if began is None else float(began.timestamp())

    def _told_to_stop(self) -> bool:
        return self._stop_requested

    def _defer(self, context: Context, worker: str, summary: BatchSummary) -> NoReturn:
        from airflow_provider.batch_trigger import TransactionlinkBatchTrigger

        self.log.info(
            "%d executions of campaign %s are in flight; waiting in the triggerer.", summary.in_flight, summary.campaign
        )
        ends = self._ends(context)
        self.defer(
            trigger=TransactionlinkBatchTrigger(
                transactionlink_conn_id=self.transactionlink_conn_id,
                campaign=summary.campaign,
                worker=worker,
                cancel_on_kill=self.cancel_on_kill,
            ),
            method_name="go_on",
            kwargs={"started": summary.started_here},
            timeout=None if ends == float("inf") else timedelta(seconds=max(1.0, ends - time.time())),
        )
        raise AssertionError("defer raises TaskDeferred")
