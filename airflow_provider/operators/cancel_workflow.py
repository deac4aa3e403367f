"""
Cancel an execution as a step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_provider import connection_form

if TYPE_CHECKING:
    from airflow.sdk import Context


class TransactionlinkCancelWorkflowOperator(BaseOperator):
    """
    Cancels an execution, whoever started it. One that has ended already is left as it is, and the task succeeds.

    Args:
        execution_id: Which execution; often another task's ``execution_id``.
        transactionlink_conn_id: Connection. The legacy service cannot cancel.

    Returns:
        A dict with ``execution_id`` and ``status``, as it then stands.
    """

    template_fields: Sequence[str] = ("execution_id", "transactionlink_conn_id")
    ui_color = "#ffe3db"

    def __init__(
        self,
        *,
        execution_id: str,
        transactionlink_conn_id: str = connection_form.DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.execution_id = execution_id
        self.transactionlink_conn_id = transactionlink_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Cancel once; what the service did not take is for a retry of the task.
        """
        from airflow_provider.failures import reported
        from airflow_provider.hooks import TransactionlinkHook

        with reported(), TransactionlinkHook(self.transactionlink_conn_id).get_client() as client:
            execution = client.cancel(self.execution_id)
        self.log.info("Execution %s stands as %s.", execution.id, execution.status)
        return {"execution_id": execution.id, "status": execution.status.value}
