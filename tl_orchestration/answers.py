"""
Reading answers: JSON without surprises, and errors without personal data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    TransactionlinkError,
)
from tl_orchestration.exchange import Request, Response
from tl_orchestration.retry import retry_after

#: Ids that are used in a path or kept in a ledger. The vendor's are UUIDs; the sandbox's definitions have names.
SAFE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_~-]|\.(?!\.)){0,127}", re.ASCII)
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_TEXT_LIMIT = 300


def safe_id(value: object) -> str | None:
    """
    The id, if it is one that can stand in a path; else None.
    """
    return value if isinstance(value, str) and SAFE_ID.fullmatch(value) else None


def json_object(response: Response, request: Request) -> dict[str, Any]:
    """
    The body as a JSON object.

    Raises:
        InvalidAnswer: Wrong content type, not UTF-8, not JSON (NaN, Infinity and duplicate keys are not JSON), nested
            too deeply, or not an object. The message quotes nothing of the body.
    """
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (media_type == "application/json" or media_type.endswith("+json")):
        raise _invalid(response, request, f"content type {_plain(media_type) or 'missing'} instead of JSON")
    try:
        value = json.loads(response.body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise _invalid(response, request, "JSON nested too deeply") from None
    except ValueError as error:
        reason = error.args[0] if isinstance(error, _NotJson) else "a body that is not JSON"
        raise _invalid(response, request, str(reason)) from None
    if not isinstance(value, dict):
        raise _invalid(response, request, "JSON that is not an object")
    return value


def usable_id(document: Mapping[str, Any], response: Response, request: Request) -> str:
    """
    The execution id of an answer.

    Raises:
        InvalidAnswer: It is missing, not a string, or not safe in a path.
    """
    identifier = safe_id(document.get("id"))
    if identifier is None:
        raise _invalid(response, request, "no usable execution id")
    return identifier


class _NotJson(ValueError):
    """Carries a reason that quotes nothing."""


def _no_constant(name: str) -> NoReturn:
    raise _NotJson("a number that JSON does not have")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _NotJson("a JSON object with duplicate keys")
    return document


def _invalid(response: Response, request: Request, what: str) -> InvalidAnswer:
    return InvalidAnswer(
        f"The service answered {request.operation} with {what} (HTTP {response.status}).",
        status_code=response.status,
    )


def refusal(response: Response, request: Request, *, subject: str, permission: str, now: float) -> TransactionlinkError:
    """
    The error that a non-2xx answer stands for.

    Args:
        subject: What the request was about, in words: ``workflow definition kyc-approve``, ``execution 3f…``.
        permission: What a 403 is missing, in words.
        now: Epoch seconds, for a Retry-After that is a date.
    """
    codes, fingerprint, text = _error_body(response, request)
    facts: dict[str, Any] = {"status_code": response.status, "codes": codes, "fingerprint": fingerprint}
    told = f" The service says: {text}" if text else ""
    support = f" (error fingerprint {fingerprint})" if fingerprint else ""
    waits = {"retry_after": retry_after(response.headers.get("retry-after"), now)}
    match response.status:
        case 401:
            return AuthenticationError(
                f"The service does not accept the credential (401) for {request.operation} of {subject}."
                f" Check the token of this connection, and that it belongs to this service.{support}",
                **facts,
            )
        case 403:
            return PermissionDenied(
                f"The credential lacks {permission} for {request.operation} of {subject} (403)."
                f" Ask the workspace's administrator to grant it.{support}",
                **facts,
            )
        case 404:
            return NotFound(
                f"The service does not know {subject} (404), as far as this credential can see."
                f" Check the id and the workspace.{support}",
                **facts,
            )
        case 429:
            return RateLimited(
                f"The service is refusing requests for now (429) at {request.operation} of {subject}.{support}",
                **facts,
                **waits,
            )
        case status if status >= 500 or status == 408:
            return ServerError(
                f"The service failed (HTTP {status}) at {request.operation} of {subject}.{support}",
                **facts,
                **waits,
            )
        case status if 400 <= status < 500:
            return InvalidRequest(
                f"The service refuses {request.operation} of {subject} (HTTP {status}).{told}{support}",
                **facts,
            )
    return _invalid(response, request, "an unexpected status")


def _error_body(response: Response, request: Request) -> tuple[tuple[str, ...], str | None, str]:
    """
    Codes, fingerprint and scrubbed text of the service's ErrorResponse; empty where the body is something else.
    """
    try:
        document = json_object(response, request)
    except InvalidAnswer:
        return (), None, ""
    errors = document.get("errors")
    items = [item for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []
    sent = sorted(set(_sent_words(request.json)), key=len, reverse=True)
    codes = tuple(
        code
        for item in items[:5]
        if isinstance(code := item.get("code"), str) and _CODE.fullmatch(code) and scrubbed(code, sent) == code
    )
    messages = [scrubbed(text, sent) for item in items[:5] if isinstance(text := item.get("message"), str)]
    fingerprint = document.get("fingerprint")
    known = isinstance(fingerprint, str) and _CODE.fullmatch(fingerprint) is not None
    return codes, fingerprint if known else None, _plain(" ".join(messages))[:_TEXT_LIMIT]


def _sent_words(value: object) -> Iterator[str]:
    """
    Every value that was sent, whole and word by word. Keys stay: they are the definition's, not a person's.
    """
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _sent_words(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _sent_words(item)
    elif isinstance(value, str):
        yield value
        yield from (word for word in re.split(r"\W+", value) if len(word) > 1)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def scrubbed(text: str, sent: list[str]) -> str:
    """
    The text without any of the values, longest first, in any letter case.
    """
    for value in sent:
        if value.strip():
            text = re.sub(re.escape(value), "…", text, flags=re.IGNORECASE)
    return text


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e…]", " ", text)).strip()
