"""What B3OS puts around its answers, in the forms of newer and older documentation."""

from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from tl_orchestration.sandbox.answers import JsonAnswer, RefusedError
from tl_orchestration.sandbox.variants import Variants


def success(data: Any, request: Request, variants: Variants) -> Response:
    """A successful answer."""
    if variants["envelope"] == "success-data":
        return JsonAnswer({"success": True, "data": data})
    code = variants["success_code"]
    return JsonAnswer({"code": code, "data": data, "message": "success", "requestId": _request_id(request)})


def refusal(refused: RefusedError, request: Request, variants: Variants) -> Response:
    """A refusal."""
    code = refused.status if refused.number is None else refused.number
    match variants["error_envelope"]:
        case "text":
            return PlainTextResponse(refused.message, refused.status)
        case "html":
            page = f"<!doctype html><html><body><h1>{refused.status}</h1><p>{escape(refused.message)}</p></body></html>"
            return HTMLResponse(page, refused.status)
        case "success-error":
            error = {"message": refused.message, "code": code}
            return JsonAnswer({"success": False, "error": error}, refused.status)
        case _:
            body = {"code": code, "message": refused.message, "details": [], "requestId": _request_id(request)}
            return JsonAnswer(body, refused.status)


def _request_id(request: Request) -> str:
    # Requests that no route took have no number.
    return f"req_{getattr(request.state, 'number', 0):08d}"
