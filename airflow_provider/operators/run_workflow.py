"""
Run a workflow execution as one step: start, wait, judge, hand on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.sdk import BaseOperator

from airflow_provider import connection_form
from airflow_provider.links import TransactionlinkExecutionLink, show_at_once
from airflow_provider.redaction import Withheld
from airflow_provider.versions import conf

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from airflow.sdk import BaseNotifier, Context

    from airflow_provider.hooks import TransactionlinkHook
    from tl_orchestration import B3osOptions, Client, Execution, Handle, LegacyOptions, Pacing, RunRequest
    from tl_orchestration.ledger import Ledger
    from tl_orchestration.outcome import OutcomeRules

_DAY = 24 * 3600.0
_GRACE = 5.0
#: Seconds to wait in the worker after a wait in the triggerer broke off: a trigger that always crashes costs no more
#: than one resume a minute.
_AFTER_CRASH = 60.0


class TransactionlinkRunWorkflowOperator(BaseOperator):
    """
    Runs one workflow execution and ends with it. It is started at most once per task run, whatever crashes in between.

    Args:
        workflow_definition_id: Id of the workflow definition.
        parameters: JSON object for the definition. Make it in a decorated function or a callable: what is written
            into the DAG file or ``dag_run.conf`` is stored there by Airflow, what is rendered here is not. A callable
            is called with ``context`` and ``jinja_env``, again whenever Airflow renders the task anew (a retry, a
            resume), so it should only read.
        locale: Language of what a person sees.
        expires_at: When the service ends the execution: an aware datetime or ISO 8601 text.
        expires_in: The same, from the start; a timedelta or seconds. Default: ``timeout``, within what the service
            accepts (30 minutes to 30 days).
        record_id: UUID of the record that the execution is about.
        service_options: What only the connection's service takes: LegacyOptions or B3osOptions, or a dict of their
            fields. Fields of a legacy case are personal data, so what was said of ``parameters`` holds here too. B3OS
            needs ``source_system`` and ``source_entity_type``.
        key: A business key of the caller's own, for which at most one execution is started, over all DAG runs: another
            run with it, or a cleared task, goes on with what was started. Kept in the SQL ledger of the connection
            (``ledger_url``) instead of the task state. It is shown in clear, so it must not be personal.
        transactionlink_conn_id: Connection.
        wait_for_completion: Wait for the end; else the task ends with the start.
        deferrable: Wait in the triggerer, without a worker slot. Default: ``[operators] default_deferrable``.
        timeout: From the start of the execution to the deadline of the step; a timedelta or seconds. Retries do not
            renew it. The execution is then cancelled.
        poll_interval: Fixed interval between polls, seconds. Default: an interval that grows with the time waited.
        cancel_on_kill: Cancel the execution when a person stops the task or its ``execution_timeout`` passes.
        durable: Keep the step's state over retries, so that a retry goes on with what it started: in Airflow's task
            state (3.3+), before that in the SQL ledger of the connection (``ledger_url``). Without it, a retry starts
            anew. A ``key`` is kept in any case.
        retry_failed: A retry starts a new execution where the last one has ended without success, or was cancelled at
            its deadline.
        defer_after: Seconds to wait in the worker before deferring. Default: 5; 0 for a mapped task.
        on_unknown_start: ``restart`` accepts one more start after one whose answer was lost. ``repeat-same-key``
            (B3OS only) sends it again with the same idempotency key, on trust that the service heeds it.
        correlation_parameter: Name of a parameter that the definition takes and ``parameters`` does not have. Each
            start has a random id there, by which the execution can be found after a start of unknown fate.
        on_changed_request: ``reattach`` goes on with what was started even if the parameters have changed since.
        on_partial: ``accept`` takes PARTIAL for a success.
        on_link: Hands the link of an execution in which a person has to act to that person, before the step waits: a
            callable that takes Airflow's context, or a notifier. The context then has ``link`` and ``link_token``
            (text, or None where the service gave none) and ``execution_id``. It is called at least once, and what it
            raises fails the try; the link is stored nowhere, so it must not log, return or push it either.
        on_link_lost: What a retry does that finds no delivery on record and cannot have the link again. ``restart``
            cancels the execution and starts another.
        status_map: The service's status words that this version does not know, each with its meaning.
        result: Where the result goes: ``full`` (all of it into XCom), ``reference`` or ``none`` (only the id), or the
            URI of a storage: ``s3://conn@bucket/kyc/{{ ds }}/`` is a folder for ``<execution id>.json``; one that ends
            in ``.json`` is the file. XCom then has ``result_uri``, ``sha256`` and ``size``.
        result_fields: Name -> JMESPath over the result; these enter XCom under ``fields``.
        fail_when: JMESPath over the result; true fails the task.
        skip_when: JMESPath over the result; true skips the task and, by Airflow's rules, what follows.

    Returns:
        A dict with ``execution_id``, ``status``, ``fields`` and, for ``full``, ``result``; for a storage URI,
        ``result_uri``, ``sha256`` (hex) and ``size`` (bytes). :func:`airflow_provider.results.load_result` takes it.
    """

    template_fields: Sequence[str] = (
        "workflow_definition_id",
        "parameters",
        "locale",
        "expires_at",
        "record_id",
        "service_options",
        "key",
        "transactionlink_conn_id",
        "result",
    )
    operator_extra_links = (TransactionlinkExecutionLink(),)
    ui_color = "#dbe7ff"

    def __init__(
        self,
        *,
        workflow_definition_id: str,
        parameters: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
        locale: str = "en",
        expires_at: datetime | str | None = None,
        expires_in: timedelta | float | None = None,
        record_id: str | None = None,
        service_options: Mapping[str, Any]
        | LegacyOptions
        | B3osOptions
        | Callable[..., Mapping[str, Any] | LegacyOptions | B3osOptions]
        | None = None,
        key: str | None = None,
        transactionlink_conn_id: str = connection_form.DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        timeout: timedelta | float = _DAY,
        poll_interval: float | None = None,
        cancel_on_kill: bool = True,
        durable: bool = True,
        retry_failed: bool = False,
        defer_after: float | None = None,
        on_unknown_start: Literal["fail", "restart", "repeat-same-key"] = "fail",
        correlation_parameter: str | None = None,
        on_changed_request: Literal["fail", "reattach"] = "fail",
        on_partial: Literal["fail", "accept"] = "fail",
        on_link: Callable[[Any], Any] | BaseNotifier | None = None,
        on_link_lost: Literal["fail", "restart"] = "fail",
        status_map: Mapping[str, str] | None = None,
        result: str = "reference",
        result_fields: Mapping[str, str] | None = None,
        fail_when: str | None = None,
        skip_when: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_definition_id = workflow_definition_id
        self.parameters: Any = parameters  # Withheld, once rendered
        self.locale = locale
        self.expires_at = expires_at
        self.expires_in = expires_in
        self.record_id = record_id
        self.service_options: Any = service_options  # Withheld, once rendered
        self.key = key
        self.transactionlink_conn_id = transactionlink_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.cancel_on_kill = cancel_on_kill
        self.durable = durable
        self.retry_failed = retry_failed
        self.defer_after = defer_after
        self.on_unknown_start = on_unknown_start
        self.correlation_parameter = correlation_parameter
        self.on_changed_request = on_changed_request
        self.on_partial = on_partial
        self.on_link = on_link
        self.on_link_lost = on_link_lost
        self.status_map = status_map
        self.result: Any = result  # Withheld, once rendered to what is refused
        self.result_fields = result_fields
        self.fail_when = fail_when
        self.skip_when = skip_when
        self.execution_url: str | None = None
        self.has_key = key is not None  # whatever it is rendered to
        self.is_recorded = durable or self.has_key
        self._stop_requested = False

    def _do_render_template_fields(self, parent: Any, *args: Any, **kwargs: Any) -> None:
        # Airflow calls this for plain and for mapped tasks, before it stores what was rendered; and again for values
        # that have template fields of their own, which are then the parent.
        super()._do_render_template_fields(parent, *args, **kwargs)
        if parent is self:
            from airflow_provider.handing_on import rendered_result

            self.parameters = Withheld(self.parameters)
            self.result = rendered_result(self.result)
            if self.service_options is not None:
                self.service_options = Withheld(self.service_options)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Start, or find what this step has started; wait here for a moment, then defer or go on waiting.
        """
        return self._run(context, self._grace(context))

    def _run(
        self, context: Context, grace: float | None, *, ends: float | None = None, resumed: bool = False
    ) -> dict[str, Any]:
        """
        Args:
            grace: Seconds to wait in the worker before deferring; None: to the end.
            ends: When the wait ends at the latest, epoch seconds.
            resumed: In the middle of a try: whatever the request is now, this step goes on with what it has.
        """
        from attrs import evolve

        from airflow_provider import arguments, waiting
        from airflow_provider.failures import reported

        under_way = resumed or context["ti"].try_number > 1
        in_sql = self.is_recorded and arguments.kept_in_sql(self, context)
        with reported(retry_endings=self.retry_failed, under_way=under_way, keyed=in_sql):
            hook = self._hook()
            rules, pacing = arguments.rules(self, hook), arguments.pacing(self)
            request, key = self._request(hook, context), arguments.ledger_key(self, context)
            step = arguments.step(self, context)
            if step is not None and resumed:
                step = evolve(step, on_changed_request="reattach")
            with self._client(hook, arguments.ledger(self, hook, context)) as client:
                with waiting.stoppable_start(client, key, context, cancel=self.cancel_on_kill):
                    execution = client.run(
                        request,
                        key=step,
                        timeout=arguments.seconds(self.timeout),
                        stop=self._told_to_stop,
                        on_link=arguments.link_receiver(self, context),
                    )
                handle = waiting.ending_by(ends, self._bounded(execution.handle, context))
                self._announce(hook, execution, context)
                if self._told_to_stop():
                    waiting.stopped(client, handle, context, cancel=self.cancel_on_kill)
                if not self.wait_for_completion:
                    return {"execution_id": execution.id, "status": execution.status.value, "fields": {}}
                ended: Execution | None = execution if execution.is_terminal else None
                if ended is None and grace != 0:
                    ended = self._wait(client, handle, context, pacing, grace=grace)
                return self._hand_on(hook, client, ended, handle, rules, context)

    def execute_complete(self, context: Context, event: Any = None, **_: Any) -> dict[str, Any]:
        """
        Resume after the trigger's event, which is a hint only: the service is asked before anything is believed.
        """
        from airflow_provider import arguments, waiting
        from airflow_provider.events import Ending, WaitEvent
        from airflow_provider.failures import reported

        with reported(retry_endings=self.retry_failed, under_way=True):
            said = WaitEvent.from_dict(event)
            waiting.check_event(said, recorded=self.is_recorded)
            hook = self._hook()
            rules, pacing = arguments.rules(self, hook), arguments.pacing(self)
            with self._client(hook, arguments.ledger(self, hook, context)) as client:
                key, generation = arguments.ledger_key(self, context), arguments.generation(self, context)
                handle = self._bounded(waiting.handle_of(said, client.ledger, key, generation), context)
                self.execution_url = hook.execution_url(handle.execution_id)
                ended: Execution | None
                if said.ending is Ending.DEADLINE and handle.execution_id == said.execution_id:
                    # The last poll and the cancel happen here, where the ledger is.
                    ended = self._wait(client, handle, context, pacing, grace=None)
                else:
                    execution = client.poll(handle)
                    ended = execution if execution.is_terminal else None
                return self._hand_on(hook, client, ended, handle, rules, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        As Airflow's. But where Airflow ends the wait because its trigger has crashed, the step goes on waiting.
        """
        from airflow_provider import arguments, waiting
        from airflow_provider.failures import reported
        from airflow_provider.versions import TaskDeferralError, TaskDeferralTimeout

        grace: float | None
        ends: float | None

        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            grace, ends = None, time.time()  # whoever deferred with a time-out has set a deadline
        except TaskDeferralError:
            grace, ends = _AFTER_CRASH, None
        self.log.warning("The wait in the triggerer has broken off; this step goes on where it was.")
        with reported(under_way=True):
            hook = self._hook()
            with self._client(hook, arguments.ledger(self, hook, context)) as client:
                waiting.check_recorded(client.ledger, arguments.ledger_key(self, context))
        return self._run(context, grace, ends=ends, resumed=True)

    def on_kill(self) -> None:
        """
        Runs inside a signal handler, so it only sets a flag; the waiting loop sees it and decides.
        """
        self._stop_requested = True

    def _hook(self) -> TransactionlinkHook:
        from airflow_provider.hooks import TransactionlinkHook

        return TransactionlinkHook(self.transactionlink_conn_id)

    def _request(self, hook: TransactionlinkHook, context: Context) -> RunRequest:
        from airflow_provider import arguments

        return arguments.request(self, hook)

    def _client(self, hook: TransactionlinkHook, ledger: Ledger | None) -> Client:
        return hook.get_client(ledger=ledger, status_map=self.status_map)

    def _announce(self, hook: TransactionlinkHook, execution: Execution, context: Context) -> None:
        self.log.info(
            "%s execution %s of %s.",
            "Went on with" if execution.reattached else "Started",
            execution.id,
            execution.workflow_definition_id or self.workflow_definition_id,
        )
        if execution.is_interactive and not execution.is_terminal and self.on_link is None:
            self.log.warning(
                "Execution %s waits for a person on its hosted page, and nobody was given the link.", execution.id
            )
        self.execution_url = hook.execution_url(execution.id)
        if self.execution_url:
            show_at_once(context, self.execution_url)

    def _wait(
        self, client: Client, handle: Handle, context: Context, pacing: Pacing, *, grace: float | None
    ) -> Execution | None:
        from airflow_provider import waiting

        return waiting.in_worker(
            client,
            handle,
            context,
            grace=grace,
            pacing=pacing,
            cancel=self.cancel_on_kill,
            stop=self._told_to_stop,
        )

    def _hand_on(
        self,
        hook: TransactionlinkHook,
        client: Client,
        ended: Execution | None,
        handle: Handle,
        rules: OutcomeRules,
        context: Context,
    ) -> dict[str, Any]:
        from airflow_provider import decisions, handing_on, waiting

        if ended is None:
            if self._told_to_stop() or decisions.ended_already(context, durable=self.is_recorded):
                waiting.stopped(client, handle, context, cancel=self.cancel_on_kill)
            self._defer(handle)
        return handing_on.returned(hook, client, ended, rules, result=self.result)

    def _bounded(self, handle: Handle, context: Context) -> Handle:
        from airflow_provider import waiting

        return waiting.bounded(handle, context["ti"].start_date, self.execution_timeout)

    def _grace(self, context: Context) -> float | None:
        """
        Seconds to wait in the worker before deferring; None: to the end.
        """
        from airflow_provider import identity

        if not self.deferrable:
            return None
        if self.defer_after is not None:
            return self.defer_after
        return 0.0 if identity.is_mapped(context["ti"]) else _GRACE

    def _told_to_stop(self) -> bool:
        return self._stop_requested

    def _defer(self, handle: Handle) -> NoReturn:
        from airflow_provider.triggers import TransactionlinkExecutionTrigger

        self.log.info("Execution %s has not ended yet; waiting for it in the triggerer.", handle.execution_id)
        self.defer(
            trigger=TransactionlinkExecutionTrigger(
                transactionlink_conn_id=self.transactionlink_conn_id,
                execution_id=handle.execution_id,
                deadline=handle.deadline,
                expires_at=handle.expires_at,
                poll_interval=self.poll_interval,
                status_map=dict(self.status_map or {}),
                owned=handle.owned,
                service=handle.service,
                api_version=handle.api_version,
                cancel_on_kill=self.cancel_on_kill,
                durable=self.is_recorded,
            ),
            method_name="execute_complete",
        )
        raise AssertionError("defer raises TaskDeferred")
