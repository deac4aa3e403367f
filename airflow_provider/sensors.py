"""
Waiting for an execution that somebody else started.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from airflow_provider import connection_form

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from tl_orchestration.outcome import OutcomeRules


class TransactionlinkWorkflowSensor(BaseSensorOperator):
    """
    Waits until an execution has ended. It owns nothing: it never cancels.

    Args:
        execution_id: Which execution; often another task's ``execution_id``.
        transactionlink_conn_id: Connection.
        deferrable: Wait in the triggerer. Default: ``[operators] default_deferrable``.
        result: ``reference``, ``full`` or ``none``, as in the operator.
        result_fields, fail_when, skip_when, on_partial, status_map: As in the operator.

    ``poke_interval``, ``timeout``, ``soft_fail`` and ``mode`` are Airflow's own.

    Returns:
        The same dict as the operator's.
    """

    template_fields: Sequence[str] = ("execution_id", "transactionlink_conn_id")
    ui_color = "#eef3ff"

    def __init__(
        self,
        *,
        execution_id: str,
        transactionlink_conn_id: str = connection_form.DEFAULT_CONN_ID,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        result: Literal["reference", "full", "none"] = "reference",
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
        self.deferrable = deferrable
        self.result = result
        self.result_fields = result_fields
        self.fail_when = fail_when
        self.skip_when = skip_when
        self.on_partial = on_partial
        self.status_map = status_map

    def execute(self, context: Context) -> Any:
        """
        Poke as Airflow does, or poll once and defer.
        """
        if not self.deferrable:
            return super().execute(context)
        done = self.poke(context)
        if done.is_done:
            return done.xcom_value
        from airflow_provider.triggers import TransactionlinkExecutionTrigger

        self.defer(
            trigger=TransactionlinkExecutionTrigger(
                transactionlink_conn_id=self.transactionlink_conn_id,
                execution_id=self.execution_id,
                deadline=time.time() + float(self.timeout),
                poll_interval=float(self.poke_interval),
                status_map=dict(self.status_map or {}),
            ),
            method_name="execute_complete",
        )
        raise AssertionError("defer raises")

    def poke(self, context: Context) -> PokeReturnValue:
        """
        One poll.
        """
        from airflow_provider import handing_on
        from airflow_provider.failures import reported
        from airflow_provider.hooks import TransactionlinkHook

        with reported():
            rules = self._rules()
            with TransactionlinkHook(self.transactionlink_conn_id).get_client(status_map=self.status_map) as client:
                execution = client.poll(self.execution_id)
                if not execution.is_terminal:
                    return PokeReturnValue(is_done=False)
                return PokeReturnValue(
                    is_done=True, xcom_value=handing_on.returned(client, execution, rules, result=self.result)
                )

    def execute_complete(self, context: Context, event: Any = None, **_: Any) -> Any:
        """
        Resume after the trigger's event; the service is asked before it is believed.
        """
        from airflow_provider import waiting
        from airflow_provider.events import WaitEvent
        from airflow_provider.failures import reported

        with reported():
            waiting.check_event(WaitEvent.from_dict(event))
        done = self.poke(context)
        if done.is_done:
            return done.xcom_value
        message = f"Execution {self.execution_id} has not ended within the sensor's timeout; it was left running."
        if self.soft_fail:
            raise AirflowSkipException(message)
        raise AirflowSensorTimeout(message)

    def _rules(self) -> OutcomeRules:
        from tl_orchestration.outcome import OutcomeRules

        return OutcomeRules(
            result_fields=self.result_fields,
            fail_when=self.fail_when,
            skip_when=self.skip_when,
            on_partial=self.on_partial,
        )
