"""
The button in the task's page that leads to its execution.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


log = logging.getLogger(__name__)


class TransactionlinkExecutionLink(BaseOperatorLink):
    """
    Leads to where a person looks at the execution, as the connection's ``execution_url`` says; empty without one.
    Airflow keeps it in XCom; it grants no access.
    """

    name = "Transactionlink execution"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Called in the worker whenever the task ends or defers, and what it returns replaces the stored link: where this
        process knows no execution, that is the link which an earlier one has stored. Empty while nothing has started.
        """
        url = getattr(operator, "execution_url", None)
        if url is None:
            # Airflow hands over the task instance here, whatever the parameter is called.
            ti: Any = ti_key
            url = ti.xcom_pull(task_ids=ti.task_id, key=self.xcom_key, map_indexes=ti.map_index)
        return str(url or "")


def show_at_once(context: Any, url: str) -> None:
    """
    Store the link now, so that it is there while the task is still running.
    """
    try:
        context["ti"].xcom_push(key=TransactionlinkExecutionLink().xcom_key, value=url)
    except Exception as error:  # a button is not worth a step that has started
        log.warning("The link to the execution could not be stored (%s).", type(error).__name__)
