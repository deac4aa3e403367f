"""
From an ended execution to what the task returns: one dict, or the right Airflow exception.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from airflow_provider.failures import TransactionlinkFailure
from airflow_provider.redaction import Withheld
from airflow_provider.versions import AirflowSkipException
from tl_orchestration.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider.hooks import TransactionlinkHook
    from tl_orchestration import Client, Execution
    from tl_orchestration.outcome import OutcomeRules
    from tl_orchestration.result_uri import ResultUri

RESULT_MODES = ("full", "none", "reference")

#: Functions of JMESPath that turn objects and lists into a text.
_MAKES_TEXT = re.compile(r"\b(?:to_string|join)\s*\(")

log = logging.getLogger(__name__)


def rendered_result(value: Any) -> Any:
    """
    What Airflow may store of the rendered argument ``result``: a storage URI that is refused may hold a credential.
    """
    from tl_orchestration.result_uri import ResultUri

    if not isinstance(value, str) or value in RESULT_MODES:
        return value
    try:
        ResultUri.parse(value)
    except InvalidRequest:
        return Withheld(value)
    return value


def destination(hook: TransactionlinkHook, result: Any) -> ResultUri | None:
    """
    Where in a storage the result goes; None: nowhere. Nothing is written or sent.

    Args:
        hook: Whose connection may forbid it.
        result: The operator's argument, rendered.

    Raises:
        InvalidRequest: It is neither a mode nor a storage URI, or the connection forbids it.
        InvalidSettings: The storage cannot be used in this worker, or what the connection allows cannot be read.
    """
    from airflow_provider.results import storage
    from tl_orchestration.result_uri import ResultUri

    value = result.reveal() if isinstance(result, Withheld) else result
    if value == "full" and hook.forbids_full_result():
        raise InvalidRequest(
            f"Connection {hook.transactionlink_conn_id!r} forbids result='full'. Name what you need in result_fields,"
            " use the reference, or a storage URI."
        )
    if value in RESULT_MODES:
        return None
    if not isinstance(value, str) or "://" not in value:
        raise InvalidRequest(
            "result must be 'reference', 'full', 'none' or the URI of a storage, such as s3://bucket/."
        )
    uri = ResultUri.parse(value)
    hook.check_result_uri(uri, "the URI given as result")
    storage(uri)
    return uri


def check_fields(hook: TransactionlinkHook, fields: Mapping[str, str] | None) -> None:
    """
    Refuse expressions that make one text of a whole document, where the connection forbids whole results.

    Raises:
        InvalidRequest: One does.
    """
    if not hook.forbids_full_result():
        return
    for name, expression in (fields or {}).items():
        if _MAKES_TEXT.search(expression):
            raise InvalidRequest(
                f"Connection {hook.transactionlink_conn_id!r} forbids full results, and result_fields[{name!r}] makes a"
                " text of what it selects. Name the fields that you need."
            )


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
    returns: dict[str, Any] = {"execution_id": execution.id, "status": execution.status.value, "fields": {}}
    storage_uri, only_scalars = destination(hook, result), hook.forbids_full_result()
    if result == "full" or storage_uri is not None or rules.need_result:
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
        if storage_uri is not None:
            from airflow_provider.results import written

            returns |= written(storage_uri, execution.id, document)
    log.info("Execution %s ended as %s.", execution.id, execution.status)
    return returns
