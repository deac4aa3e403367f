"""
Waiting for an execution that somebody else started.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_provider import connection_form
from airflow_provider.versions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException, conf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from airflow.sdk import Context

    from tl_orchestration import Client, Handle
    from tl_orchestration.outcome import OutcomeRules


class TransactionlinkWorkflowSensor(BaseSensorOperator):
    """
    Waits until an execution has ended. It owns nothing: it never cancels.

    Args:
        execution_id: Which execution; often another task's ``execution_id``.
        transactionlink_conn_id: Connection. Its service is the one that the execution lives in.
        api_version: 1 for a legacy execution that is about a case; its result has other members.
        deferrable: Wait in the triggerer. Default: ``[operators] default_deferrable``.
        result: ``reference``, ``full``, ``none`` or the URI of a storage, as in the operator.
        result_fields, fail_when, skip_when, on_partial, status_map: As in the operator.

    ``poke_interval``, ``timeout``, ``soft_fail``, ``never_fail`` and ``mode`` are Airflow's own.

    Returns:
        The same dict as the operator's.
    """

    template_fields: Sequence[str] = ("execution_id", "transactionlink_conn_id", "result")
    ui_color = "#eef3ff"

    #: Whether this process has had an answer about the execution.
    _answered = False

    def __init__(
        self,
        *,
        execution_id: str,
        transactionlink_conn_id: str = connection_form.DEFAULT_CONN_ID,
        api_version: int | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        result: str = "reference",
        result_fields: Mapping[str, str] | None = None,
        fail_when: str | None = None,
        skip_when: str | None = None,
        on_partial: Literal["fail", "accept"] = "fail",
        status_map: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.execution_id = execution_id
        self.transactionlink_conn_id = transactionlink_conn_id
        self.api_version = api_version
        self.deferrable = deferrable
        self.result: Any = result  # Withheld, once rendered to what is refused
        self.result_fields = result_fields
        self.fail_when = fail_when
        self.skip_when = skip_when
        self.on_partial = on_partial
        self.status_map = status_map

    def _do_render_template_fields(self, parent: Any, *args: Any, **kwargs: Any) -> None:
        # As in the operator: before Airflow stores what was rendered.
        super()._do_render_template_fields(parent, *args, **kwargs)
        if parent is self:
            from airflow_provider.handing_on import rendered_result

            self.result = rendered_result(self.result)

    def execute(self, context: Context) -> Any:
        """
        Poke as Airflow does, or poll once and defer.
        """
        if not self.deferrable:
            return super().execute(context)
        started: datetime | None = context["ti"].start_date
        deadline = (time.time() if started is None else started.timestamp()) + float(self.timeout)
        if self.execution_timeout is not None and started is not None:
            deadline = min(deadline, started.timestamp() + self.execution_timeout.total_seconds())
        try:
            return self._returned(deadline)
        except AirflowFailException as error:
            # Airflow does this for pokes and after a resume; this poll is neither.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipped, as soft_fail or never_fail says: {error}") from error
            raise

    def poke(self, context: Context) -> PokeReturnValue:
        """
        One poll. A failure that may pass is no answer: the next poke asks again, until the sensor's timeout. What is
        wrong with connection or token at the first poke will not pass.
        """
        from airflow_provider.failures import TransactionlinkRetry

        again = self._answered or (self.reschedule and context["ti"].get_first_reschedule_date(context) is not None)
        try:
            returned = self._polled(self.execution_id, under_way=again)
        except TransactionlinkRetry as error:
            self.log.warning("A poll failed and is tried again: %s", error)
            return PokeReturnValue(is_done=False)
        self._answered = True
        return PokeReturnValue(is_done=returned is not None, xcom_value=returned)

    def execute_complete(self, context: Context, event: Any = None, **_: Any) -> Any:
        """
        Resume after the trigger's event; the service is asked before it is believed.
        """
        from airflow_provider import waiting
        from airflow_provider.events import Ending, WaitEvent
        from airflow_provider.failures import TransactionlinkRetry, reported

        with reported(under_way=True):
            said = WaitEvent.from_dict(event)
            if not waiting.is_outage(said):  # which the trigger forgives for a while, and a sensor until its timeout
                waiting.check_event(said)
        if said.ending is not Ending.DEADLINE:
            return self._returned(said.deadline or time.time(), execution_id=said.execution_id)
        try:
            returned = self._polled(said.execution_id, under_way=True)
        except TransactionlinkRetry as error:
            raise AirflowSensorTimeout(
                f"How execution {said.execution_id} stands could not be asked at the end of the sensor's timeout; it"
                f" was left running. {error}"
            ) from error
        if returned is not None:
            return returned
        raise AirflowSensorTimeout(
            f"Execution {said.execution_id} has not ended within the sensor's timeout; it was left running."
        )

    def _returned(self, deadline: float, execution_id: str | None = None) -> dict[str, Any]:
        """
        One poll, then defer: the trigger has patience with what may pass, so a failed poll here is none.
        """
        from airflow_provider.failures import TransactionlinkRetry
        from airflow_provider.triggers import TransactionlinkExecutionTrigger

        resumed, execution_id = execution_id is not None, execution_id or self.execution_id
        try:
            returned = self._polled(execution_id, under_way=resumed)
        except TransactionlinkRetry as error:
            self.log.warning("The first poll failed; the triggerer asks again: %s", error)
            returned = None
        if returned is not None:
            return returned
        self.defer(
            trigger=TransactionlinkExecutionTrigger(
                transactionlink_conn_id=self.transactionlink_conn_id,
                execution_id=execution_id,
                deadline=deadline,
                poll_interval=float(self.poke_interval) or None,
                status_map=dict(self.status_map or {}),
                service=None,
                api_version=self.api_version,
            ),
            method_name="execute_complete",
        )
        raise AssertionError("defer raises TaskDeferred")

    def _polled(self, execution_id: str, *, under_way: bool) -> dict[str, Any] | None:
        """
        What the task returns, once the execution has ended.

        Args:
            under_way: Whether an earlier poll was sent with this connection.
        """
        from airflow_provider import handing_on
        from airflow_provider.failures import reported
        from airflow_provider.hooks import TransactionlinkHook

        with reported(under_way=under_way, proven=under_way):
            rules, hook = self._rules(), TransactionlinkHook(self.transactionlink_conn_id)
            handing_on.handover(hook, self.result, rules)
            with hook.get_client(status_map=self.status_map) as client:
                execution = client.poll(self._target(client, execution_id))
                if not execution.is_terminal:
                    return None
                return handing_on.returned(hook, client, execution, rules, result=self.result)

    def _target(self, client: Client, execution_id: str) -> Handle | str:
        from tl_orchestration import Handle
        from tl_orchestration.answers import safe_id

        if self.api_version is None or safe_id(execution_id) is None:
            return execution_id  # which the client refuses where it is no id
        return Handle(execution_id=execution_id, service=client.service, api_version=self.api_version)

    def _rules(self) -> OutcomeRules:
        from airflow_provider import arguments

        return arguments.outcome(self)
