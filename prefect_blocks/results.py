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

log = logging.getLogger(__name__)

MODES = ("full", "none", "reference")


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
        credentials: Name of a saved TransactionlinkCredentials block, or the block, by which the service is asked.
        api_version: 1 for a legacy execution that is about a case; its result has other members. Default: as the
            reference says.

    Raises:
        InvalidRequest: The reference cannot be used, or there are no credentials to ask the service by.
        StorageFailed: The file could not be read, or is not the one that was written.
        TransactionlinkError: See :meth:`tl_orchestration.Client.result`.
    """
    execution_id = safe_id(reference.get("execution_id")) if hasattr(reference, "get") else None
    if execution_id is None:
        raise InvalidRequest(
            "load_result needs what a Transactionlink step has returned: a dict with execution_id. Nothing was read."
        )
    if isinstance(reference.get("result"), dict):
        return dict(reference["result"])
    if "result_uri" in reference:
        return result_file.read(_own(ResultUri.parse(reference["result_uri"])), execution_id, reference, storage)
    if credentials is None:
        raise InvalidRequest(
            f"The result of execution {execution_id} is at the service: give load_result the name of the credentials"
            " block to ask by.",
            execution_id=execution_id,
        )
    from prefect_blocks import clients
    from prefect_blocks.credentials import TransactionlinkCredentials
    from prefect_blocks.versions import load_block
    from tl_orchestration import Handle

    block = load_block(TransactionlinkCredentials, credentials) if isinstance(credentials, str) else credentials
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


def destination(credentials: TransactionlinkCredentials, result: str) -> ResultUri | None:
    """
    Where in a storage results go; None: nowhere. Nothing is written or sent.

    Args:
        credentials: Which may forbid it.
        result: The workflow block's field.

    Raises:
        InvalidRequest: It is neither a mode nor a storage URI, or the credentials forbid it.
    """
    if result == "full" and credentials.forbid_full_result:
        raise InvalidRequest(
            "These credentials forbid result='full'. Name what you need in result_fields, use the reference, or a"
            " storage URI."
        )
    if result in MODES:
        return None
    if "://" not in result:
        raise InvalidRequest(
            "The field result must be 'reference', 'full', 'none' or the URI of a storage, such as s3://bucket/."
        )
    uri, allowed = _own(ResultUri.parse(result)), credentials.result_prefixes()
    if allowed and not any(uri.is_within(prefix) for prefix in allowed):
        below = ", ".join(str(prefix) for prefix in allowed)
        raise InvalidRequest(
            f"These credentials allow results only below {below} (result_uri_prefixes), and the URI given as result is"
            " not."
        )
    return uri


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


def _own(uri: ResultUri) -> ResultUri:
    if uri.connection is not None:
        raise InvalidRequest(
            "The storage URI has a name in front of '@', which Prefect has no connection for; the storage's"
            " credentials belong into its own configuration."
        )
    return uri


__all__ = ["MODES", "aload_result", "destination", "load_result", "storage", "written"]
