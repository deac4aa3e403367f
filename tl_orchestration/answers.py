"""
Reading answers: JSON without surprises, and errors without personal data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tl_orchestration import strict_json
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
#: What credentials look like (contract A2.1, B1): one that the service repeats is not repeated by us.
_CREDENTIAL = re.compile(r"bearer\s+\S+|(?:tot_|b3sk_|eyJ)[\w.~+/=-]*", re.ASCII | re.IGNORECASE)
_TEXT_LIMIT = 300
#: A longer message is left out: taking thousands of values out of megabytes would take minutes.
_LONGEST_MESSAGE = 8000
#: A shorter value that was sent is looked for in codes as a whole part only.
_SHORT = 4


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
        raise _invalid(response, request, f"content type {_plain(media_type)[:60] or 'missing'} instead of JSON")
    try:
        value = strict_json.read(response.body)
    except strict_json.NotJson as error:
        raise _invalid(response, request, f"a body that is not JSON ({error})") from None
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
    Codes, fingerprint and scrubbed text of the service's error body; empty where it is none that we know.
    """
    try:
        document = json_object(response, request)
    except InvalidAnswer:
        return (), None, ""
    items = _error_items(document)
    # The locale is nobody's secret, and "en" is a part of every other word.
    body = {name: value for name, value in (request.json or {}).items() if name != "locale"}
    values = [body, request.earlier, [value.reveal() for value in request.query.values()]]
    sent = sorted(set(_sent_words(values)), key=len, reverse=True)
    codes = tuple(code for item in items[:5] if (code := _identifier(_code(item), sent)) is not None)
    told = [text for item in items[:5] if isinstance(text := item.get("message"), str)]
    texts = [_CREDENTIAL.sub("…", text) for text in told if len(text) <= _LONGEST_MESSAGE]
    messages = [scrubbed(text, sent) for text in texts]
    # Once more: taking out what cannot be printed may have put a value together.
    text = scrubbed(_plain(" ".join(messages)), sent)
    fingerprint = _identifier(document.get("fingerprint", document.get("requestId")), sent)
    return codes, fingerprint, text[:_TEXT_LIMIT]


def _error_items(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """
    Where codes and messages are: in ``errors`` (Transactionlink, contract A4.5), in ``error``, or at the top (B3OS,
    contract C26).
    """
    errors = document.get("errors")
    if isinstance(errors, list):
        return [item for item in errors if isinstance(item, dict)]
    if isinstance(error := document.get("error"), dict):
        return [error]
    return [document] if {"code", "message"} <= document.keys() else []


def _code(item: Mapping[str, Any]) -> object:
    """
    An item's code as text. A number that only repeats the HTTP status is none; B3OS's own have six digits.
    """
    code = item.get("code")
    if isinstance(code, int):
        return str(code) if code >= 1000 else None
    return code


def _identifier(value: object, sent: list[str]) -> str | None:
    """
    An error code or fingerprint, unless a value that was sent is in it. Short values count only as a part of their
    own: the locale ``en`` must not hide every code with DOCUMENT in it.
    """
    if not isinstance(value, str) or not _CODE.fullmatch(value) or _CREDENTIAL.search(value):
        return None
    folded = value.casefold()
    parts = set(re.split(r"[^a-z0-9]+", folded)) | {folded}
    echoes = any(word.casefold() in (parts if len(word) < _SHORT else folded) for word in sent if word.strip())
    return None if echoes else value


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
        yield from _sent_words(str(value))  # 1234.0 also as 1234


def scrubbed(text: str, sent: list[str]) -> str:
    """
    The text without any of the values, longest first, in any letter case. A single character counts only where it
    stands alone.
    """
    told = _alike(text)
    for value in sent:
        if value.strip() and _alike(value) in told:  # a pattern for each of thousands of values would take seconds
            pattern = re.escape(value) if len(value) > 1 else rf"(?<!\w){re.escape(value)}(?!\w)"
            text = re.sub(pattern, "…", text, flags=re.IGNORECASE)
    folded = text.casefold()  # ß is also SS, which a regular expression does not know
    if any(len(value.strip()) > 1 and value.casefold() in folded for value in sent):
        return "…"
    return text


def _alike(text: str) -> str:
    """
    The same for all texts that a regular expression takes for equal where case does not matter.
    """
    return text.casefold().replace("\N{COMBINING DOT ABOVE}", "").replace("\N{LATIN SMALL LETTER DOTLESS I}", "i")


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e…]", " ", text)).strip()
