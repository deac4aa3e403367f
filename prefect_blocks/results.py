"""
Results outside of Prefect: written to a storage, and fetched again from wherever the outcome of a step says.

The storage is reached by fsspec, which Prefect brings along, with the credentials that its own configuration names.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from tl_orchestration import result_file
from tl_orchestration.answers import safe_id
from tl_orchestration.errors import InvalidRequest, InvalidSettings
from tl_orchestration.result_uri import ResultUri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefect_blocks.credentials import TransactionlinkCredentials
    from tl_orchestration.outcome import OutcomeRules
    from tl_orchestration.result_policy import Handover

log = logging.getLogger(__name__)


def load_result(
    reference: Mapping[str, Any],
    credentials: str | TransactionlinkCredentials | None = None,
    *,
    api_version: int | None = None,
) -> dict[str, Any]:
    """
    The whole result that an outcome stands for. Call it inside the task that needs it, and hand on what others need of
    it: Prefect may store what a task returns.

    Args:
        reference: What ``run.outcome()`` or a task has returned. With ``result_uri``, the file is read and checked
            against ``sha256`` and ``size``; with ``result``, that is it; else the service is asked.
        credentials: Name of a saved TransactionlinkCredentials block, or the block, by which the service is asked. Its
            ``result_uri_prefixes`` hold for ``result_uri`` as well: nothing is read from wherever a reference may name.
            Without credentials, a file is read from anywhere.
        api_version: 1 for a legacy execution that is about a case; its result has other members. Default: as the
            reference says.

    Raises:
        InvalidRequest: The reference cannot be used, the credentials allow no result there, the file is not the one
            that was written, or there are no credentials to ask the service by.
        InvalidSettings: This process has no file system for the storage, or the credentials cannot be used.
        NotFound: The file is gone, or the service knows no such execution.
        StorageFailed: The file could not be read.
        ValueError: There is no credentials block of that name.
        TransactionlinkError: See :meth:`tl_orchestration.Client.result`.
    """
    execution_id = safe_id(reference.get("execution_id")) if hasattr(reference, "get") else None
    if execution_id is None:
        raise InvalidRequest(
            "load_result needs what a Transactionlink step has returned: a dict with execution_id. Nothing was read."
        )
    if isinstance(reference.get("result"), dict):
        return dict(reference["result"])
    block = _block(credentials)
    if "result_uri" in reference:
        uri = _own(ResultUri.parse(reference["result_uri"]))
        if block is not None:
            block.result_policy().check_uri(uri, "the result_uri of this reference")
        return result_file.read(uri, execution_id, reference, storage)
    if block is None:
        raise InvalidRequest(
            f"The result of execution {execution_id} is at the service: give load_result the name of the credentials"
            " block to ask by.",
            execution_id=execution_id,
        )
    from prefect_blocks import clients
    from tl_orchestration import Handle

    with clients.borrowed(block) as client:
        version = named_version(reference) if api_version is None else api_version
        return client.result(Handle(execution_id=execution_id, service=block.service, api_version=version))


def named_version(reference: Mapping[str, Any]) -> int | None:
    """
    The version of the legacy API by which an execution has to be asked about, where an outcome names one.

    Raises:
        InvalidRequest: It names none that there is.
    """
    version = reference.get("api_version")
    if version is not None and (type(version) is not int or version not in {1, 2}):
        raise InvalidRequest("api_version of an execution is 1, for a legacy one about a case, or 2. Nothing was sent.")
    return version


async def aload_result(
    reference: Mapping[str, Any],
    credentials: str | TransactionlinkCredentials | None = None,
    *,
    api_version: int | None = None,
) -> dict[str, Any]:
    """
    As :func:`load_result`.
    """
    return await asyncio.to_thread(load_result, reference, credentials, api_version=api_version)


def handover(credentials: TransactionlinkCredentials, result: str, rules: OutcomeRules) -> Handover:
    """
    What a step hands on of a result. Nothing is written or sent.

    Args:
        credentials: Which may forbid it.
        result: The workflow block's field.
        rules: How an ended execution is judged, with the fields.

    Raises:
        InvalidRequest: ``result`` is neither a mode nor a storage URI, or the credentials forbid what is asked for.
    """
    chosen = credentials.result_policy().handover(result, rules)
    if chosen.uri is not None:
        _own(chosen.uri)
    return chosen


def storage(uri: ResultUri) -> tuple[Any, str]:
    """
    The file system for a URI, and the path in it. Nothing is written.

    Raises:
        InvalidSettings: This process has no file system for it.
    """
    import fsspec  # type: ignore[import-untyped]  # it has no types

    try:
        files, path = fsspec.url_to_fs(str(uri))
    except Exception as error:  # packages and configurations of others; their messages may hold anything
        raise InvalidSettings(
            f"The storage {uri.scheme}://{uri.host} cannot be used in this process ({type(error).__name__}). Install"
            " its fsspec package, such as s3fs for s3://, where flows run, and check its configuration."
        ) from None
    return files, str(path)


def written(uri: ResultUri, execution_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """
    Write a result, whole or not at all; a second time, the same bytes to the same place.

    Returns:
        ``result_uri``, ``sha256`` (hex) and ``size`` (bytes) of what was written.

    Raises:
        InvalidSettings: As :func:`storage`.
        StorageFailed: The storage did not take it.
    """
    said = result_file.written(uri, execution_id, document, storage)
    log.info("The result of execution %s is at %s, %d bytes.", execution_id, said["result_uri"], said["size"])
    return said


def _block(credentials: str | TransactionlinkCredentials | None) -> TransactionlinkCredentials | None:
    if not isinstance(credentials, str):
        return credentials
    from prefect_blocks.credentials import TransactionlinkCredentials
    from prefect_blocks.versions import load_block

    return load_block(TransactionlinkCredentials, credentials)


def _own(uri: ResultUri) -> ResultUri:
    if uri.connection is not None:
        raise InvalidRequest(
            "The storage URI has a name in front of '@', which Prefect has no connection for; the storage's"
            " credentials belong into its own configuration."
        )
    return uri


__all__ = ["aload_result", "handover", "load_result", "storage", "written"]
