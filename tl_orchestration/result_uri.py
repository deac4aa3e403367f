"""
Where in an object storage a result may go: one reading of a URI, for the task that writes and the policy that allows.
"""

from __future__ import annotations

import json
import re
from typing import Any

from attrs import frozen

from tl_orchestration.errors import InvalidRequest, InvalidSettings

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_CONNECTION = re.compile(r"[A-Za-z0-9_.-]+")
_HOST = re.compile(r"[A-Za-z0-9_.-]+(:[0-9]+)?")
#: A dot, a slash, a backslash or a percent sign in disguise: who decodes it would see another path than was compared.
_ENCODED = re.compile(r"%(2e|2f|5c|25)", re.IGNORECASE)
_LOCAL = {"file", "local"}


@frozen
class ResultUri:
    """
    A storage URI in parts; ``str()`` is its one normal form, with scheme and host in lower case.

    Args:
        scheme: Which kind of storage.
        connection: Name in front of the ``@``, such as an Airflow connection's id; None: the storage's own default.
        host: Bucket, container or host; empty for files of this machine.
        segments: The path.
        is_file: The URI names the file itself; else a folder.
    """

    scheme: str
    connection: str | None
    host: str
    segments: tuple[str, ...]
    is_file: bool

    @classmethod
    def parse(cls, text: Any) -> ResultUri:
        """
        Raises:
            InvalidRequest: It is no storage URI, may hold a credential, or can be read in two ways. The message quotes
                nothing of it.
        """
        if not isinstance(text, str) or "://" not in text or not text.isprintable() or text != text.strip():
            raise _unusable("is not printable text with '://'")
        scheme, _, rest = text.partition("://")
        authority, slash, path = rest.partition("/")
        if not _SCHEME.fullmatch(scheme) or "::" in rest:
            raise _unusable("is a chain of file systems, or has no usable scheme")
        if any(mark in rest for mark in "?#\\"):
            raise _unusable("has a query, a fragment or a backslash")
        if _ENCODED.search(rest):
            raise _unusable("has an encoded dot, slash, backslash or percent sign")
        scheme = "file" if scheme.lower() in _LOCAL else scheme.lower()
        user, at, host = authority.rpartition("@")
        if "@" in path or (at and not _CONNECTION.fullmatch(user)):
            raise _unusable("has a password or other user information, which the storage's own configuration is for")
        if scheme == "file" and (authority or not slash):
            raise _unusable("must be file:///folder/, with three slashes")
        if scheme != "file" and not _HOST.fullmatch(host):
            raise _unusable("has no bucket, container or host that can be used")
        segments = tuple(path.removesuffix("/").split("/")) if path else ()
        if any(segment in {"", ".", ".."} for segment in segments):
            raise _unusable("has an empty part, '.' or '..' in its path (did a template find nothing?)")
        return cls(scheme, user or None, host.lower(), segments, bool(path) and path.endswith(".json"))

    def file_of(self, execution_id: str) -> ResultUri:
        """
        The file for an execution: this URI, or one in this folder that is named by the id.
        """
        if self.is_file:
            return self
        return ResultUri(self.scheme, self.connection, self.host, (*self.segments, f"{execution_id}.json"), True)

    def is_within(self, prefix: ResultUri) -> bool:
        """
        Whether it lies at or below the prefix: same storage by the same connection, whole parts of the path.
        """
        if (self.scheme, self.connection, self.host) != (prefix.scheme, prefix.connection, prefix.host):
            return False
        return self.segments[: len(prefix.segments)] == prefix.segments

    def __str__(self) -> str:
        owner = f"{self.connection}@" if self.connection else ""
        end = "" if self.is_file or not self.segments else "/"
        return f"{self.scheme}://{owner}{self.host}/{'/'.join(self.segments)}{end}"


def prefixes(value: Any) -> tuple[ResultUri, ...]:
    """
    The prefixes that a connection or a block names: a list, a JSON list, or text with commas or white space between
    them. None of them: no restriction.

    Raises:
        InvalidSettings: They cannot be read, so that nobody may write anywhere.
    """
    try:
        if isinstance(value, str):
            value = json.loads(value) if value.strip().startswith("[") else re.split(r"[,\s]+", value.strip(", \t\r\n"))
            value = [] if value == [""] else value
        if value is None:
            return ()
        if not isinstance(value, list):
            raise TypeError("list")
        return tuple(ResultUri.parse(prefix) for prefix in value)
    except (InvalidRequest, TypeError, ValueError) as error:
        reason = f" {error}" if isinstance(error, InvalidRequest) else ""
        raise InvalidSettings(
            "result_uri_prefixes must be storage URIs such as s3://bucket/kyc/, with commas"
            f" between them or as a JSON list.{reason}"
        ) from None


def _unusable(why: str) -> InvalidRequest:
    return InvalidRequest(f"The storage URI {why}.")


__all__ = ["ResultUri", "prefixes"]
