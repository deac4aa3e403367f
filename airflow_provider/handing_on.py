"""
From an ended execution to what the task returns: one dict, or the right Airflow exception.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider.failures import TransactionlinkFailure
from airflow_provider.redaction import Withheld, revealed
from airflow_provider.versions import AirflowSkipException
from tl_orchestration.errors import InvalidRequest
from tl_orchestration.result_policy import MODES
from tl_orchestration.result_uri import ResultUri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider.hooks import TransactionlinkHook
    from tl_orchestration import Client, Execution
    from tl_orchestration.outcome import OutcomeRules
    from tl_orchestration.result_policy import Handover

log = logging.getLogger(__name__)


def rendered_result(value: Any) -> Any:
    """
    What Airflow may store of the rendered argument ``result``: a storage URI that is refused may hold a credential.
    """
    if not isinstance(value, str) or value in MODES:
        return value
    try:
        ResultUri.parse(value)
    except InvalidRequest:
        return Withheld(value)
    return value


def handover(hook: TransactionlinkHook, result: Any, rules: OutcomeRules) -> Handover:
    """
    What the step hands on of a result. Nothing is written or sent.

    Args:
        hook: Whose connection may forbid it.
        result: The operator's argument, rendered.
        rules: How the ending is judged, with the fields.

    Raises:
        InvalidRequest: ``result`` is neither a mode nor a storage URI, or the connection forbids what is asked for.
        InvalidSettings: The storage cannot be used in this worker, or what the connection allows cannot be read.
    """
    from airflow_provider.results import storage

    chosen = hook.result_policy().handover(revealed(result), rules)
    if chosen.uri is not None:
        storage(chosen.uri)
    return chosen


def returned(
    hook: TransactionlinkHook, client: Client, execution: Execution, rules: OutcomeRules, *, result: Any
) -> dict[str, Any]:
    """
    The task's return value. The result is fetched only where the rules, ``full`` or a storage URI need it.

    Raises:
        InvalidRequest: What the connection forbids was asked for.
        ExecutionFailed, ExecutionCancelled, ExecutionExpired: The execution did not succeed.
        ResultShapeChanged: A field or a verdict cannot be read from the result.
        TransactionlinkFailure: ``fail_when`` holds.
        TransactionlinkRetry: The storage did not take the result.
        AirflowSkipException: ``skip_when`` holds.
    """
    rules.check_ending(execution)
    chosen = handover(hook, result, rules)
    document = client.result(execution) if chosen.need_result else None
    verdict, returns = chosen.returned(execution, document, _written)
    if verdict == "fail":
        raise TransactionlinkFailure(f"fail_when holds for the result of execution {execution.id}.")
    if verdict == "skip":
        raise AirflowSkipException(f"skip_when holds for the result of execution {execution.id}.")
    log.info("Execution %s ended as %s.", execution.id, execution.status)
    return returns


def _written(uri: ResultUri, execution_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
    from airflow_provider.results import written

    return written(uri, execution_id, document)
