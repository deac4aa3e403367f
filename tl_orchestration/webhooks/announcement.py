"""
What a verified delivery is about, as far as it can be told: the vendors publish no schema (contract A7, B5).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from tl_orchestration.strict_json import strict_object

#: Members that may name the execution, the most telling first (contract C19). B3OS calls the definition `workflowId`.
_IDS = ("workflowExecutionId", "workflowId", "executionId", "id")
_IDS_BY_SERVICE = {"b3os": ("executionId", "runId", "id")}
_KINDS = ("eventType", "event", "type", "kind")
_NESTED = ("data", "payload", "execution")
#: As the client takes ids (:data:`tl_orchestration.answers.SAFE_ID`); a test compares the two.
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_~-]|\.(?!\.)){0,127}", re.ASCII)
_KIND = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


@frozen
class Announcement:
    """
    All that is kept of a delivery. It says that something has happened, and never what: that is asked of the service.

    Args:
        execution_id: Empty where it could not be read; such a delivery is kept aside.
        kind: The sender's word for the event; empty where it could not be read.
        digest: SHA-256 of the body, hexadecimal.
    """

    execution_id: str
    kind: str
    digest: str


def announcement(body: bytes, service: str) -> Announcement:
    """
    Read a verified body of a service. Never fails: what comes from the service is acknowledged, whatever it looks like.
    """
    digest = hashlib.sha256(body).hexdigest()
    try:
        document = strict_object(body)
    except ValueError:
        return Announcement("", "", digest)
    parts = list(_parts(document))
    ids = _IDS_BY_SERVICE.get(service, _IDS)
    return Announcement(_first(parts, ids, _ID), _first(parts, _KINDS, _KIND), digest)


def _parts(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    nested = [document[name] for name in _NESTED if isinstance(document.get(name), dict)]
    # An `id` beside a nested object is the event's; the execution's is inside.
    yield from nested
    for part in nested:
        yield from (part[name] for name in _NESTED if isinstance(part.get(name), dict))
    yield document


def _first(parts: list[Mapping[str, Any]], names: tuple[str, ...], form: re.Pattern[str]) -> str:
    for name in names:
        for part in parts:
            value = part.get(name)
            if isinstance(value, str) and form.fullmatch(value):
                return value
    return ""
