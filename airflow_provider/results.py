"""
Results outside of XCom: written to an object storage, and fetched again from wherever a task's return value says.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider import connection_form
from airflow_provider.failures import TransactionlinkRetry, reported
from tl_orchestration import Handle, result_file
from tl_orchestration.answers import safe_id
from tl_orchestration.errors import InvalidRequest, InvalidSettings, StorageFailed
from tl_orchestration.result_uri import ResultUri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)


def load_result(
    reference: Mapping[str, Any],
    *,
    transactionlink_conn_id: str = connection_form.DEFAULT_CONN_ID,
    api_version: int | None = None,
) -> dict[str, Any]:
    """
    The whole result that the return value of an operator or a sensor stands for. Use it inside a task, and hand on what
    you need of it: what a task returns enters XCom.

    Args:
        reference: The return value. With ``result_uri``, the file is read and checked against ``sha256`` and ``size``;
            with ``result``, that is it; else the service is asked for the result of ``execution_id``.
        transactionlink_conn_id: Connection by which the service is asked. Its ``result_uri_prefixes`` hold for
            ``result_uri`` as well: a reference has come through XCom, and nothing is read from wherever it may name.
        api_version: 1 for a legacy execution that is about a case; its result has other members.

    Raises:
        TransactionlinkFailure: The reference cannot be used, or the result is gone or is not the one that was written.
        TransactionlinkRetry: Service or storage did not answer, or the execution has not ended.
    """
    from airflow_provider.hooks import TransactionlinkHook

    with reported():
        execution_id = safe_id(reference.get("execution_id")) if hasattr(reference, "get") else None
        if execution_id is None:
            raise InvalidRequest(
                "load_result needs the return value of a Transactionlink operator or sensor: a dict with execution_id."
            )
        if isinstance(reference.get("result"), dict):
            return dict(reference["result"])
        hook = TransactionlinkHook(transactionlink_conn_id)
        if "result_uri" in reference:
            uri = ResultUri.parse(reference["result_uri"])
            hook.result_policy().check_uri(uri, "the result_uri of this reference")
            return result_file.read(uri, execution_id, reference, _reach)
        with hook.get_client() as client:
            return client.result(Handle(execution_id=execution_id, service=hook.service(), api_version=api_version))


def storage(uri: ResultUri) -> ObjectStoragePath:
    """
    The path at which Airflow reaches that URI. Nothing is written.

    Raises:
        InvalidSettings: This worker has no file system for it, or its Airflow connection cannot be used.
    """
    from airflow.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(str(uri))
        path.fs  # noqa: B018  # looks up connection and package
    except Exception as error:  # packages and connections of others; their messages may hold anything
        by = f" by connection {uri.connection!r}" if uri.connection else ""
        raise InvalidSettings(
            f"The storage {uri.scheme}://{uri.host}{by} cannot be used in this worker ({type(error).__name__}). Install"
            " the Airflow provider of that storage, and check its connection."
        ) from None
    return path


def written(uri: ResultUri, execution_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """
    Write a result, whole or not at all; a second time, the same bytes to the same place.

    Returns:
        ``result_uri``, ``sha256`` (hex) and ``size`` (bytes) of what was written.

    Raises:
        InvalidSettings: As :func:`storage`.
        TransactionlinkRetry: The storage did not take it.
    """
    try:
        said = result_file.written(uri, execution_id, document, _reach)
    except StorageFailed as error:
        raise TransactionlinkRetry(str(error), error) from None
    log.info("The result of execution %s is at %s, %d bytes.", execution_id, said["result_uri"], said["size"])
    return said


def _reach(uri: ResultUri) -> tuple[result_file.Files, str]:
    path = storage(uri)
    return path.fs, path.path
