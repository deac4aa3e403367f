"""
From an ended execution to what the task returns: one dict, or the right Airflow exception.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider.failures import TransactionlinkFailure
from airflow_provider.versions import AirflowSkipException
from tl_orchestration.errors import InvalidRequest

if TYPE_CHECKING:
    from tl_orchestration import Client, Execution
    from tl_orchestration.outcome import OutcomeRules

log = logging.getLogger(__name__)


def returned(
    client: Client,
    execution: Execution,
    rules: OutcomeRules,
    *,
    result: Literal["reference", "full", "none"],
    only_scalars: bool,
) -> dict[str, Any]:
    """
    The task's return value. The result is fetched only where the rules or ``full`` need it.

    Args:
        only_scalars: The connection forbids full results: neither ``full`` nor a field that is an object or a list.

    Raises:
        InvalidRequest: What the connection forbids was asked for.
        ExecutionFailed, ExecutionCancelled, ExecutionExpired: The execution did not succeed.
        ResultShapeChanged: A field or a verdict cannot be read from the result.
        TransactionlinkFailure: ``fail_when`` holds.
        AirflowSkipException: ``skip_when`` holds.
    """
    rules.check_ending(execution)
    returns: dict[str, Any] = {"execution_id": execution.id, "status": execution.status.value, "fields": {}}
    if result == "full" and only_scalars:
        raise InvalidRequest("The connection forbids result='full'. Name what you need in result_fields.")
    if result == "full" or rules.need_result:
        document = client.result(execution)
        verdict = rules.verdict(document)
        if verdict == "fail":
            raise TransactionlinkFailure(f"fail_when holds for the result of execution {execution.id}.")
        if verdict == "skip":
            raise AirflowSkipException(f"skip_when holds for the result of execution {execution.id}.")
        returns["fields"] = rules.fields(document)
        for name, value in returns["fields"].items():
            if only_scalars and isinstance(value, dict | list):
                raise InvalidRequest(
                    f"The connection forbids full results, and result_fields[{name!r}] selects an object or a list."
                )
        if result == "full":
            returns["result"] = document
    log.info("Execution %s ended as %s.", execution.id, execution.status)
    return returns
