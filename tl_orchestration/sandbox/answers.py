"""The forms of an answer: JSON, an error body, or no answer at all."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

DROP = "tl_orchestration.sandbox.drop"
"""Name of the ASGI extension, and of its message, that closes the connection at once without an answer."""


class JsonAnswer(JSONResponse):
    """JSON with the content type that the service documents."""

    media_type = "application/json;charset=UTF-8"

    def render(self, content: Any) -> bytes:
        """As UTF-8; a lone surrogate, which has no UTF-8 form, becomes a question mark."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


class NoAnswer(Response):
    """Closes the connection without sending a byte. Needs a server that offers `DROP`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Drop the connection, then wait until the server has seen it go."""
        await send({"type": DROP})
        while (await receive())["type"] != "http.disconnect":
            pass


class RefusedError(Exception):
    """
    The service's refusal, to be answered with an error body in the service's form.

    Args:
        status: HTTP status.
        code: for Transactionlink, which publishes no error codes: they get the prefix `SANDBOX_` so that
            nobody relies on them.
        message: one sentence.
        number: for B3OS, where it documents a code of six digits.
    """

    def __init__(self, status: int, code: str, message: str, number: int | None = None) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = f"SANDBOX_{code}"
        self.message = message
        self.number = number

    def answer(self, fingerprint: str) -> Response:
        """The refusal as Transactionlink's `ErrorResponse`; the fingerprint names this one instance of it."""
        error = {"code": self.code, "message": self.message}
        return JsonAnswer({"fingerprint": fingerprint, "errors": [error]}, self.status)


def can_drop(request: Request) -> bool:
    """Whether the server under this request can close a connection without an answer."""
    return DROP in (request.scope.get("extensions") or {})
