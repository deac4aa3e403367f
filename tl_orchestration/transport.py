"""
One request on the wire, and what its failure means.

The question that matters for a start is whether the service may have seen the request. Connection errors, an
exhausted pool and a proxy's refusal happen before the first byte is written; everything later counts as sent.
A start uses a connection of its own, so that a stale kept-alive connection cannot make a clean failure ambiguous.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from tl_orchestration.credentials import Credentials
from tl_orchestration.errors import InvalidAnswer, NoAnswer, WaitInterrupted
from tl_orchestration.exchange import Request, Response
from tl_orchestration.interruptible import Interrupted, InterruptibleTransport, Interruption
from tl_orchestration.settings import Settings, environment_proxy, tls_context

#: Raised by httpx before a byte of the request is written (measured: reliability facts of httpx 0.28).
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    httpx.LocalProtocolError,
)
_IDENTITY = frozenset({"", "identity"})
_KEEPALIVE_SECONDS = 75.0  # longer than the longest poll interval, so that a waiting client keeps its connection


class Wire:
    """
    What the synchronous and the asynchronous sender share: building the request, judging the answer and the failure.
    """

    def __init__(self, base_url: str, credentials: Credentials, settings: Settings) -> None:
        self._base_url = base_url
        self._auth = credentials.auth()
        self._settings = settings
        self._proxy = settings.proxy or environment_proxy(base_url)
        self._tls = tls_context(settings.ca_bundle, settings.client_cert)
        self._limits = httpx.Limits(
            max_connections=settings.max_connections,
            max_keepalive_connections=settings.max_connections,
            keepalive_expiry=_KEEPALIVE_SECONDS,
        )
        self._timeout = httpx.Timeout(settings.request_timeout, connect=settings.connect_timeout)

    def _client_arguments(self) -> dict[str, Any]:
        return {"auth": self._auth, "timeout": self._timeout, "follow_redirects": False, "trust_env": False}

    def _build(self, request: Request, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        headers = {
            "Accept": request.accept,
            "Accept-Encoding": "identity",
            "User-Agent": "tl-orchestration",
        }
        if not request.repeatable:
            headers["Connection"] = "close"
        return client.build_request(
            request.method,
            self._base_url + request.path,
            headers=headers,
            json=None if request.json is None else dict(request.json),
        )

    def _admit(self, answer: httpx.Response, request: Request) -> None:
        """
        Refuse what cannot be read with bounded memory.
        """
        encoding = answer.headers.get("content-encoding", "").strip().lower()
        if encoding not in _IDENTITY:
            raise InvalidAnswer(
                f"The service answered {request.operation} with a compressed body, which was not asked for.",
                status_code=answer.status_code,
            )

    def _too_large(self, answer: httpx.Response, request: Request) -> InvalidAnswer:
        return InvalidAnswer(
            f"The service answered {request.operation} with more than {self._settings.max_answer_bytes} bytes.",
            status_code=answer.status_code,
        )

    def _response(self, answer: httpx.Response, body: bytes) -> Response:
        return Response(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, body)

    def _failure(self, request: Request, error: Exception, *, sent: bool) -> NoAnswer:
        unsent = isinstance(error, _NOT_SENT) or not sent
        what = "could not be reached" if unsent else "did not answer"
        return NoAnswer(
            f"The service at {self._base_url} {what} at {request.operation} ({_reason(error)})."
            + (" Nothing was sent. Check host, port, proxy and network." if unsent else ""),
            sent=not unsent,
        )

    def _late(self, request: Request, *, sent: bool) -> NoAnswer:
        return NoAnswer(
            f"The service at {self._base_url} did not answer {request.operation} within"
            f" {self._settings.request_timeout:g} seconds." + ("" if sent else " Nothing was sent."),
            sent=sent,
        )


class _Progress:
    """
    Notes, from httpcore's trace events, whether writing the request has begun.
    """

    def __init__(self) -> None:
        self.sent = False

    def __call__(self, event: str, info: Any) -> None:
        if event.endswith("send_request_headers.started"):
            self.sent = True

    async def note(self, event: str, info: Any) -> None:
        self(event, info)


class SyncWire(Wire):
    """
    Sends from a plain thread. The whole exchange obeys one deadline, and ``stop`` can end it at any moment.
    """

    def __init__(self, base_url: str, credentials: Credentials, settings: Settings) -> None:
        super().__init__(base_url, credentials, settings)
        self._interruption = Interruption(monotonic=time.monotonic)
        self._client = self._new_client()

    def _new_client(self) -> httpx.Client:
        transport = InterruptibleTransport(self._interruption, self._tls, self._limits, self._proxy)
        return httpx.Client(transport=transport, **self._client_arguments())

    def close(self) -> None:
        self._client.close()

    def send(self, request: Request, stop: Callable[[], bool] | None = None) -> Response:
        """
        Send and read the whole answer.

        Raises:
            NoAnswer: No whole answer; ``sent`` says what that means for a start.
            InvalidAnswer: The answer is too large or compressed.
            WaitInterrupted: ``stop`` returned True.
        """
        progress = _Progress()
        with contextlib.ExitStack() as stack:
            client = self._client if request.repeatable else stack.enter_context(self._new_client())
            stack.enter_context(self._interruption.limited(self._settings.request_timeout, stop))
            outgoing = self._build(request, client)
            outgoing.extensions["trace"] = progress
            try:
                answer = client.send(outgoing, stream=True)
                stack.callback(answer.close)
                self._admit(answer, request)
                return self._response(answer, b"".join(self._chunks(answer, request)))
            except Interrupted as error:
                if error.by_caller:
                    raise WaitInterrupted(f"Stopped as asked, during {request.operation}.") from None
                raise self._late(request, sent=progress.sent) from None
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                raise self._failure(request, error, sent=progress.sent) from None

    def _chunks(self, answer: httpx.Response, request: Request) -> Iterator[bytes]:
        size = 0
        for chunk in answer.iter_raw():
            size += len(chunk)
            if size > self._settings.max_answer_bytes:
                raise self._too_large(answer, request)
            yield chunk


class AsyncWire(Wire):
    """
    Sends from an event loop. A semaphore in front of the pool bounds what httpx has to queue: its pool slows down
    with the square of the queue.
    """

    def __init__(self, base_url: str, credentials: Credentials, settings: Settings) -> None:
        super().__init__(base_url, credentials, settings)
        self._client = self._new_client()
        self._in_flight = asyncio.Semaphore(settings.max_connections)

    def _new_client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(
            verify=self._tls, limits=self._limits, proxy=self._proxy, trust_env=False, http1=True
        )
        return httpx.AsyncClient(transport=transport, **self._client_arguments())

    async def aclose(self) -> None:
        await self._client.aclose()

    async def send(self, request: Request) -> Response:
        """
        As :meth:`SyncWire.send`; cancelling the task ends it.
        """
        progress = _Progress()
        async with contextlib.AsyncExitStack() as stack:
            client = self._client if request.repeatable else await stack.enter_async_context(self._new_client())
            outgoing = self._build(request, client)
            outgoing.extensions["trace"] = progress.note
            await stack.enter_async_context(self._in_flight)
            try:
                async with asyncio.timeout(self._settings.request_timeout):
                    answer = await client.send(outgoing, stream=True)
                    stack.push_async_callback(answer.aclose)
                    self._admit(answer, request)
                    return self._response(answer, b"".join([chunk async for chunk in self._chunks(answer, request)]))
            except TimeoutError:
                raise self._late(request, sent=progress.sent) from None
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                raise self._failure(request, error, sent=progress.sent) from None

    async def _chunks(self, answer: httpx.Response, request: Request) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in answer.aiter_raw():
            size += len(chunk)
            if size > self._settings.max_answer_bytes:
                raise self._too_large(answer, request)
            yield chunk


def _reason(error: Exception) -> str:
    """
    The kind of failure, and the operating system's word for it; never a URL or a header.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return f"{type(error).__name__}: {cause.strerror}"
    return type(error).__name__


__all__ = ["AsyncWire", "SyncWire"]
