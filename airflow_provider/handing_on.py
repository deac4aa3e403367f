"""
From an ended execution to what the task returns: one dict, or the right Airflow exception.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider.failures import TransactionlinkFailure

if TYPE_CHECKING:
    from tl_orchestration import Client, Execution
    from tl_orchestration.outcome import OutcomeRules

log = logging.getLogger(__name__)


def returned(
    client: Client, execution: Execution, rules: OutcomeRules, *, result: Literal["reference", "full", "none"]
) -> dict[str, Any]:
    """
    The task's return value. The result is fetched only where the rules or ``full`` need it.

    Raises:
        ExecutionFailed, ExecutionCancelled, ExecutionExpired: The execution did not succeed.
        ResultShapeChanged: A field or a verdict cannot be read from the result.
        TransactionlinkFailure: ``fail_when`` holds.
        AirflowSkipException: ``skip_when`` holds.
    """
    rules.check_ending(execution)
    returns: dict[str, Any] = {"execution_id": execution.id, "status": execution.status.value, "fields": {}}
    if result == "full" or rules.need_result:
        document = client.result(execution)
        verdict = rules.verdict(document)
        if verdict == "fail":
            raise TransactionlinkFailure(f"fail_when holds for the result of execution {execution.id}.")
        if verdict == "skip":
            raise AirflowSkipException(f"skip_when holds for the result of execution {execution.id}.")
        returns["fields"] = rules.fields(document)
        if result == "full":
            returns["result"] = document
    log.info("Execution %s ended as %s.", execution.id, execution.status)
    return returns
