"""
A result as a file of a storage: whole or not at all, and recognised when it is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tl_orchestration.errors import InvalidRequest, NotFound, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tl_orchestration.result_uri import ResultUri

#: Storages whose objects appear whole or not at all, so that a put needs no temporary name. A move would be a copy.
OBJECT_STORES = frozenset(
    {"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a", "wasb", "wasbs"}
)


class Files(Protocol):
    """
    What is used of a file system of fsspec.
    """

    def cat_file(self, path: str) -> bytes: ...

    def pipe_file(self, path: str, value: bytes) -> Any: ...

    def makedirs(self, path: str, exist_ok: bool = False) -> Any: ...

    def mv(self, path1: str, path2: str) -> Any: ...

    def rm_file(self, path: str) -> Any: ...


def written(
    uri: ResultUri,
    execution_id: str,
    document: Mapping[str, Any],
    reach: Callable[[ResultUri], tuple[Files, str]],
) -> dict[str, Any]:
    """
    Write a result, whole or not at all; a second time, the same bytes to the same place.

    Args:
        uri: A file or a folder.
        reach: The file system for a URI, and the path in it. To ``file`` nothing is written by it.

    Returns:
        ``result_uri``, ``sha256`` (hex) and ``size`` (bytes) of what was written.

    Raises:
        StorageFailed: The storage did not take it.
    """
    file, content = uri.file_of(execution_id), encoded(document)
    files, path = reach(file)
    try:
        put(files, file.scheme, path, content)
    except Exception as error:  # any of any file system; only its class is safe to tell
        raise StorageFailed(
            f"Execution {execution_id} has ended, but its result could not be written to {file.scheme}://{file.host}"
            f" ({type(error).__name__}). The service still has it.",
            execution_id=execution_id,
        ) from None
    return {"result_uri": str(file), **_described(content)}


def read(
    uri: ResultUri,
    execution_id: str,
    reference: Mapping[str, Any],
    reach: Callable[[ResultUri], tuple[Files, str]],
) -> dict[str, Any]:
    """
    The result that :func:`written` has left there.

    Args:
        reference: What :func:`written` returned.
        reach: As for :func:`written`.

    Raises:
        InvalidRequest: The reference does not say what was written, or the file is another.
        NotFound: There is no file.
        StorageFailed: The storage did not give it back.
    """
    expected = _expected(reference, execution_id)
    files, path = reach(uri)
    try:
        content = files.cat_file(path)
    except FileNotFoundError:
        raise NotFound(
            f"The result of execution {execution_id} is no longer at {uri}. While the service has it, load_result"
            " without result_uri asks there.",
            execution_id=execution_id,
        ) from None
    except Exception as error:  # as in written
        raise StorageFailed(
            f"The result of execution {execution_id} could not be read from {uri.scheme}://{uri.host}"
            f" ({type(error).__name__}).",
            execution_id=execution_id,
        ) from None
    if _described(content) != expected:
        raise InvalidRequest(
            f"The file at {uri} is not the result of execution {execution_id} that was written there: it has"
            f" {len(content)} bytes, and size or SHA-256 differ. Do not use it.",
            execution_id=execution_id,
        )
    document: dict[str, Any] = json.loads(content)
    return document


def encoded(document: Mapping[str, Any]) -> bytes:
    """
    The bytes of a result; the same for the same result.
    """
    try:
        return json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can hold
        return json.dumps(document, sort_keys=True).encode()


def _described(content: bytes) -> dict[str, Any]:
    """
    By what a reader recognises them.
    """
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _expected(reference: Mapping[str, Any], execution_id: str) -> dict[str, Any]:
    """
    What :func:`_described` has to say of the file that a reference stands for.
    """
    sha256, size = reference.get("sha256"), reference.get("size")
    if not isinstance(sha256, str) or not isinstance(size, int):
        raise InvalidRequest(
            f"The reference to the result of execution {execution_id} lacks sha256 or size, so that nothing shows"
            " whether the file is the one that was written.",
            execution_id=execution_id,
        )
    return {"sha256": sha256, "size": size}


def put(files: Files, scheme: str, path: str, content: bytes) -> None:
    """
    Write a file, whole or not at all, over whatever is there. What the file system raises may quote anything.
    """
    if scheme == "file":
        _replace(Path(path), content)
    elif scheme in OBJECT_STORES:
        files.pipe_file(path, content)
    else:
        _move_into_place(files, path, content)


def _replace(file: Path, content: bytes) -> None:
    """
    On a disk: beside it first, and into place once the disk has it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(_beside(file.name))
    try:
        with beside.open("xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _move_into_place(files: Files, path: str, content: bytes) -> None:
    folder, _, name = path.rpartition("/")
    beside = f"{folder}/{_beside(name)}"
    files.makedirs(folder, exist_ok=True)
    try:
        files.pipe_file(beside, content)
        files.mv(beside, path)
    except BaseException:
        with contextlib.suppress(Exception):
            files.rm_file(beside)
        raise


def _beside(name: str) -> str:
    return f".{name}.{uuid.uuid4().hex}.part"


__all__ = ["OBJECT_STORES", "Files", "encoded", "put", "read", "written"]
