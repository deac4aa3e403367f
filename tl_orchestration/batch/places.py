"""
Where sources are read and results are written: a folder or file of this machine, or a storage that fsspec knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from attrs import field, frozen

from tl_orchestration.errors import InvalidSettings, StorageFailed, TransactionlinkError
from tl_orchestration.result_file import put

#: What of a file's description tells whether it is still the same.
_MARKS = ("ETag", "etag", "md5", "contentHash", "LastModified", "last_modified", "mtime", "updated", "generation")


@runtime_checkable
class PathOfAStorage(Protocol):
    """
    Such as Airflow's ``ObjectStoragePath``: a file system of fsspec and a path in it.
    """

    @property
    def fs(self) -> Any: ...

    @property
    def path(self) -> str: ...

    @property
    def protocol(self) -> str: ...


@frozen
class Place:
    """
    A file or a folder.

    Args:
        scheme: Which kind of storage; ``file`` is this machine.
        path: As the file system takes it.
        shown: For people, without credentials.
        files: The fsspec file system; None for ``file``.
    """

    scheme: str
    path: str
    shown: str
    files: Any = field(default=None, repr=False, eq=False)

    def __str__(self) -> str:
        return self.shown

    def __truediv__(self, name: str) -> Place:
        return Place(self.scheme, f"{self.path.rstrip('/')}/{name}", f"{self.shown.rstrip('/')}/{name}", self.files)

    @property
    def suffix(self) -> str:
        """
        The end of its name, such as ``.csv``.
        """
        return Path(self.path).suffix.lower()

    @contextmanager
    def reading(self) -> Iterator[IO[bytes]]:
        """
        A reader that can seek. Whatever fails while it is used is told by the error's class.

        Raises:
            StorageFailed: It cannot be opened, or not be read to its end.
        """
        try:
            with Path(self.path).open("rb") if self.files is None else self.files.open(self.path, "rb") as file:
                yield file
        except TransactionlinkError:
            raise
        except Exception as error:  # of any file system or reader of a format; its text may quote anything
            raise self._failed("read", error) from None

    def identity(self) -> str:
        """
        Changes when the file does: size and, as far as the storage tells, digest and time.

        Raises:
            StorageFailed: It cannot be looked at.
        """
        try:
            if self.files is None:
                found = Path(self.path).stat()
                marks: list[Any] = [found.st_size, found.st_mtime_ns]
            else:
                info = self.files.info(self.path)
                marks = [info.get("size"), *(str(info[name]) for name in _MARKS if name in info)]
        except Exception as error:
            raise self._failed("read", error) from None
        return hashlib.sha256(json.dumps([self.shown, *marks]).encode()).hexdigest()

    def write(self, content: bytes) -> None:
        """
        Write it, whole or not at all, over whatever is there; it is durable afterwards.

        Raises:
            StorageFailed: It was not written.
        """
        try:
            put(self.files, self.scheme, self.path, content)
        except Exception as error:
            raise self._failed("written", error) from None

    def remove(self) -> None:
        """
        Remove the file, if it is there.

        Raises:
            StorageFailed: It may still be there.
        """
        try:
            if self.files is None:
                Path(self.path).unlink(missing_ok=True)
            elif self.files.exists(self.path):
                self.files.rm_file(self.path)
        except Exception as error:
            raise self._failed("removed", error) from None

    def _failed(self, what: str, error: Exception) -> StorageFailed:
        failed = StorageFailed(f"{self.shown} could not be {what} ({type(error).__name__}).")
        if what == "read" and isinstance(error, FileNotFoundError):
            failed.is_missing = True
        return failed


def place(where: str | Path | Place | PathOfAStorage) -> Place:
    """
    A place from a local path, a URI such as ``s3://bucket/folder``, or a path object of a storage.

    Raises:
        InvalidSettings: There is no file system for it here.
    """
    if isinstance(where, Place):
        return where
    if not isinstance(where, str | Path):
        local = where.protocol in {"", "file", "local"}
        return Place("file" if local else where.protocol, where.path, str(where), None if local else where.fs)
    text = str(where)
    scheme = text.partition("://")[0].lower() if "://" in text else "file"
    if scheme in {"file", "local"}:
        path = str(Path(text.partition("://")[2] if "://" in text else text).absolute())
        return Place("file", path, path)
    try:
        import fsspec  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        raise InvalidSettings("A storage URI needs an extra: pip install 'tl-orchestration[batch]'.") from None
    try:
        files, path = fsspec.url_to_fs(text)
    except Exception as error:  # a missing package or setting of that storage
        raise InvalidSettings(
            f"The storage {scheme}:// cannot be used here ({type(error).__name__}). Install its fsspec package, such as"
            " s3fs for s3://, and check its configuration."
        ) from None
    return Place(scheme, path, _without_user(text), files)


def is_same(one: str, other: str) -> bool:
    """
    Whether two places are one, as they are shown: whoever uses it, and with or without a slash at the end.
    """
    return _bare(one) == _bare(other)


def _bare(shown: str) -> str:
    if "://" in shown:
        shown = _without_user(shown).removeprefix("file://").removeprefix("local://")
    return shown.rstrip("/")


def _without_user(text: str) -> str:
    scheme, _, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


__all__ = ["PathOfAStorage", "Place", "is_same", "place"]
