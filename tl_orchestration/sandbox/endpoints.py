"""How every API request is met: counted, struck by a fault where one waits, and refused in the right form."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import attrs
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.sandbox.answers import NoAnswer, RefusedError
from tl_orchestration.sandbox.checks import read_object
from tl_orchestration.sandbox.faults import Fault
from tl_orchestration.sandbox.store import Store

Handler = Callable[[Request], Awaitable[Response]]
Refuse = Callable[[RefusedError, Request], Response]


@attrs.frozen
class Subject:
    """What a request is about, for faults that strike only one service or workflow definition."""

    service: str
    definition: str | None = None


SubjectOf = Callable[[Request], Awaitable[Subject]]


class Steps:
    """
    Makes the routes of API steps.

    Args:
        store: counts requests and has the faults.
        refuse: writes a refusal in the service's form; by default in Transactionlink's.
    """

    def __init__(self, store: Store, refuse: Refuse | None = None) -> None:
        self._store = store
        self._refuse = refuse or (lambda refused, _: refused.answer(store.fingerprint()))

    def route(self, method: str, path: str, step: str, handler: Handler, subject_of: SubjectOf) -> Route:
        """
        A route of one API step.

        Args:
            path: path template, under which requests are counted.
            step: what faults call it, one of `faults.STEPS`.
            handler: gives the answer, or raises `RefusedError`; finds its number in `request.state.number`.
            subject_of: must not raise.
        """

        async def endpoint(request: Request) -> Response:
            request.state.number = self._store.count_request(f"{method} {path}")
            try:
                # Read whole before any fault: unread bytes would turn a quiet close into a connection reset.
                await request.body()
            except ClientDisconnect:
                return Response(status_code=400)  # to nobody
            subject = await subject_of(request)
            if subject.definition is not None:
                self._store.count_step(subject.definition, step)
            fault = self._store.faults.take(step, subject.definition, subject.service)
            if fault is not None and fault.kind in {"drop", "status"}:
                return NoAnswer() if fault.kind == "drop" else self._wrong_answer(fault, request)
            try:
                answer = await handler(request)
            except RefusedError as refused:
                answer = self._refuse(refused, request)
            if fault is not None and fault.kind == "lose":
                return NoAnswer()
            if fault is not None and fault.seconds is not None:
                await _hold(request, fault.seconds)
            return answer

        return Route(path, endpoint, methods=[method])

    def _wrong_answer(self, fault: Fault, request: Request) -> Response:
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
        answer = self._refuse(RefusedError(status, "FAULT", phrase), request)
        answer.headers.update(fault.headers)
        return answer


async def member_of_body(request: Request, name: str) -> str | None:
    """A text member of a JSON body, or `None` where there is none; never raises."""
    try:
        value = read_object(await request.body()).get(name)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


async def _hold(request: Request, seconds: float) -> None:
    """Wait in real time, but no longer than there is somebody to answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
