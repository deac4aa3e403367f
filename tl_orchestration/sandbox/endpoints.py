"""How every API request is met: counted, struck by a fault where one waits, and refused in the right form."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.sandbox.answers import NoAnswer, RefusedError
from tl_orchestration.sandbox.faults import Fault
from tl_orchestration.sandbox.store import Store

Handler = Callable[[Request], Awaitable[Response]]
DefinitionOf = Callable[[Request], Awaitable[str | None]]


def step_route(store: Store, method: str, path: str, step: str, handler: Handler, definition_of: DefinitionOf) -> Route:
    """
    A route of one API step.

    Args:
        path: path template, under which requests are counted.
        step: what faults call it: `start`, `status`, `result` or `cancel`.
        handler: gives the answer, or raises `RefusedError`; finds its number in `request.state.number`.
        definition_of: the workflow definition that the request is about, for faults that strike only one;
            must not raise.
    """

    async def endpoint(request: Request) -> Response:
        request.state.number = store.count_request(f"{method} {path}")
        try:
            # Read whole before any fault: unread bytes would turn a quiet close into a connection reset.
            await request.body()
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        fault = store.faults.take(step, await definition_of(request))
        if fault is not None and fault.kind in {"drop", "status"}:
            return NoAnswer() if fault.kind == "drop" else _wrong_answer(fault, store.fingerprint())
        try:
            answer = await handler(request)
        except RefusedError as refused:
            answer = refused.answer(store.fingerprint())
        if fault is not None and fault.kind == "lose":
            return NoAnswer()
        if fault is not None and fault.seconds is not None:
            await _hold(request, fault.seconds)
        return answer

    return Route(path, endpoint, methods=[method])


def _wrong_answer(fault: Fault, fingerprint: str) -> Response:
    status = fault.status or 500
    if status in {204, 304}:
        return Response(status_code=status, headers=fault.headers)
    if fault.body is not None:
        headers = {**fault.headers, "content-type": fault.content_type}
        return Response(fault.body, status, headers)
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = f"Status {status}"
    answer = RefusedError(status, "FAULT", phrase).answer(fingerprint)
    answer.headers.update(fault.headers)
    return answer


async def _hold(request: Request, seconds: float) -> None:
    """Wait in real time, but no longer than there is somebody to answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
