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

from tl_orchestration.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Storages whose objects appear whole or not at all, so that a put needs no temporary name. A move would be a copy.
OBJECT_STORES = frozenset(
    {"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a", "wasb", "wasbs"}
)


class Files(Protocol):
    """
    What is used of a file system of fsspec.
    """

    def pipe_file(self, path: str, value: bytes) -> Any: ...

    def makedirs(self, path: str, exist_ok: bool = False) -> Any: ...

    def mv(self, path1: str, path2: str) -> Any: ...

    def rm_file(self, path: str) -> Any: ...


def encoded(document: Mapping[str, Any]) -> bytes:
    """
    The bytes of a result; the same for the same result.
    """
    try:
        return json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can hold
        return json.dumps(document, sort_keys=True).encode()


def described(content: bytes) -> dict[str, Any]:
    """
    ``sha256`` (hex) and ``size`` (bytes), by which a reader recognises them.
    """
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def expected(reference: Mapping[str, Any], execution_id: str) -> dict[str, Any]:
    """
    What :func:`described` has to say of the file that a reference stands for.

    Raises:
        InvalidRequest: The reference does not say.
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
    Write a file, whole or not at all, over whatever is there.

    Args:
        files: The file system; not used where ``scheme`` is ``file``.
        scheme: Which kind of storage, as in a :class:`~tl_orchestration.result_uri.ResultUri`.
        path: As the file system takes it.

    Raises:
        Exception: Whatever the file system raises. It may quote anything.
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


__all__ = ["OBJECT_STORES", "Files", "described", "encoded", "expected", "put"]
