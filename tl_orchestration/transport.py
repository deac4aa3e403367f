"""
One request on the wire, and what its failure means.

The question that matters for a start is whether the service may have seen the request. Connection errors, an
exhausted pool and a proxy's refusal happen before the first byte is written; everything later counts as sent.
A start uses a connection of its own, so that a stale kept-alive connection cannot make a clean failure ambiguous.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, cast

import httpx
from attrs import define

from tl_orchestration.credentials import Credentials
from tl_orchestration.errors import InvalidAnswer, NoAnswer, WaitInterrupted
from tl_orchestration.exchange import Request, Response
from tl_orchestration.interruptible import SLICE, Interrupted, InterruptibleTransport, Interruption
from tl_orchestration.secret import Secret
from tl_orchestration.settings import Settings, environment_proxy, tls_context
from tl_orchestration.wire_log import contents_unlogged

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
#: Everything that an exchange may fail with. anyio's TLS stream lets the ssl module's own errors through.
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError)
_IDENTITY = frozenset({"", "identity"})
#: Most bytes of an answer that holds no result.
_SMALL = 1024 * 1024
#: A value in JSON may cost a hundred bytes of memory, so an answer may have one for each so many bytes of the limit.
_BYTES_PER_VALUE = 64
_KEEPALIVE_SECONDS = 75.0  # longer than the longest poll interval, so that a waiting client keeps its connection


class Wire:
    """
    What the synchronous and the asynchronous sender share: building the request, judging the answer and the failure.
    """

    def __init__(
        self, base_url: str, credentials: Credentials, settings: Settings, now: Callable[[], float] = time.time
    ) -> None:
        self._base_url = base_url
        self._now = now
        self._auth = credentials.auth()
        self._settings = settings
        self._proxy = settings.proxy or environment_proxy(base_url)
        self._tls = tls_context(settings.ca_bundle, settings.client_cert)
        self._limits = httpx.Limits(
            max_connections=settings.max_connections,
            max_keepalive_connections=settings.max_connections,
            keepalive_expiry=_KEEPALIVE_SECONDS,
        )
        # The deadline around the whole exchange bounds what is not named here.
        self._timeout = {"connect": settings.connect_timeout}

    def _build(self, request: Request) -> httpx.Request:
        headers = {
            "Accept": request.accept,
            "Accept-Encoding": "identity",
            "User-Agent": "tl-orchestration",
        }
        if not request.repeatable:
            headers["Connection"] = "close"
        return httpx.Request(
            request.method,
            self._base_url + request.path,
            headers=headers,
            json=None if request.json is None else dict(request.json),
            extensions={
                "timeout": self._timeout,
                "base_url": self._base_url,  # for credentials that have to ask for a token first
                "query": request.query,
            },
        )

    def _admit(self, answer: httpx.Response, request: Request) -> dict[str, str]:
        """
        Refuse what cannot be read with bounded memory. Returns the headers, names in lower case.
        """
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if headers.get("content-encoding", "").strip().lower() not in _IDENTITY:
            raise InvalidAnswer(
                f"The service answered {request.operation} with a compressed body, which was not asked for.",
                status_code=answer.status_code,
            )
        return headers

    def _seconds(self, request: Request) -> float:
        """
        Longest time for the request and its answer.
        """
        longest = self._settings.request_timeout
        return longest if request.within is None else min(longest, max(request.within, 0.0))

    def _spare(self, request: Request) -> float | None:
        """
        Seconds until a start may not leave any more; None: there is no such time.
        """
        return None if request.over_by is None else request.over_by - self._now() - self._settings.request_timeout

    def _check_in_time(self, request: Request) -> None:
        spare = self._spare(request)
        if spare is not None and spare <= 0:
            raise self._overdue(request)

    def _overdue(self, request: Request) -> NoAnswer:
        return NoAnswer(
            f"It took so long to send {request.operation} to the service at {self._base_url} that the time announced"
            " for it has passed. Nothing was sent.",
            sent=False,
            overdue=True,
        )

    def _limit(self, answer: httpx.Response, request: Request) -> int:
        longest = self._settings.max_answer_bytes
        return longest if request.operation == "result" and answer.is_success else min(longest, _SMALL)

    def _response(self, answer: httpx.Response, headers: dict[str, str], body: bytes, request: Request) -> Response:
        """
        Refuse what would be far larger as values than it is as text: brackets and commas count them well enough.
        """
        most = max(self._settings.max_answer_bytes, _SMALL) // _BYTES_PER_VALUE
        if sum(body.count(mark) for mark in (b",", b"[", b"{")) > most:
            raise InvalidAnswer(
                f"The service answered {request.operation} with more than {most} values.",
                status_code=answer.status_code,
            )
        return Response(answer.status_code, headers, body)

    def _too_large(self, answer: httpx.Response, request: Request) -> InvalidAnswer:
        return InvalidAnswer(
            f"The service answered {request.operation} with more than {self._limit(answer, request)} bytes.",
            status_code=answer.status_code,
        )

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
            f" {round(self._seconds(request), 3):g} seconds." + ("" if sent else " Nothing was sent."),
            sent=sent,
        )


class _Progress:
    """
    Notes, from httpcore's trace events, whether the service may have taken the request up: writing it has begun, and
    it was not refused for its credential.
    """

    def __init__(self) -> None:
        self.sent = False

    def __call__(self, event: str, info: Any) -> None:
        if event.endswith("send_request_headers.started"):
            self.sent = True
        elif event.endswith("receive_response_headers.complete") and _status(info) in {401, 403}:
            # A credential may now ask for a new token and fail at that: still nothing was taken up.
            self.sent = False

    async def note(self, event: str, info: Any) -> None:
        self(event, info)


def _status(info: Any) -> int | None:
    """
    The status in a trace event of httpcore; None if another version of httpcore tells it otherwise.
    """
    try:
        return int(info["return_value"][1])
    except (LookupError, TypeError, ValueError):
        return None


def _with_query(request: httpx.Request) -> httpx.Request:
    """
    The request as it goes on the wire. What logs or quotes a URL above sees it without the query that grants access.
    """
    query: Mapping[str, Secret] = request.extensions.get("query", {})
    if not query:
        return request
    url = request.url.copy_merge_params({name: value.reveal() for name, value in query.items()})
    return httpx.Request(
        request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
    )


class _SyncTransport(InterruptibleTransport):
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return super().handle_request(_with_query(request))


class _AsyncTransport(httpx.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await super().handle_async_request(_with_query(request))


class SyncWire(Wire):
    """
    Sends from a plain thread. The whole exchange obeys one deadline, and ``stop`` can end it at any moment.
    """

    def __init__(
        self, base_url: str, credentials: Credentials, settings: Settings, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(base_url, credentials, settings, now)
        self._interruption = Interruption(monotonic=time.monotonic)
        self._slots = threading.BoundedSemaphore(settings.max_connections)
        self._transport = self._new_transport()
        self._closed = False

    def _new_transport(self) -> httpx.BaseTransport:
        return _SyncTransport(self._interruption, self._tls, self._limits, self._proxy)

    def close(self) -> None:
        self._closed = True
        self._transport.close()

    def send(self, request: Request, stop: Callable[[], bool] | None = None) -> Response:
        """
        Send and read the whole answer.

        Raises:
            NoAnswer: No whole answer; ``sent`` says what that means for a start.
            InvalidAnswer: The answer is too large or compressed.
            WaitInterrupted: ``stop`` returned True.
        """
        if self._closed:
            raise RuntimeError("This client has been closed.")
        progress = _Progress()
        with contextlib.ExitStack() as stack:
            stack.enter_context(contents_unlogged())
            transport = self._transport if request.repeatable else stack.enter_context(self._new_transport())
            stack.enter_context(self._interruption.limited(self._seconds(request), stop))
            outgoing = self._build(request)
            outgoing.extensions["trace"] = progress
            outgoing.extensions["remaining"] = self._interruption.remaining
            self._check_in_time(request)
            try:
                if request.repeatable:
                    self._take_slot()
                    stack.callback(self._slots.release)
                answer = self._authorized(transport, outgoing)
                stack.callback(answer.close)
                headers = self._admit(answer, request)
                return self._response(answer, headers, b"".join(self._chunks(answer, request)), request)
            except Interrupted as error:
                if error.by_caller:
                    raise WaitInterrupted(f"Stopped as asked, during {request.operation}.") from None
                raise self._late(request, sent=progress.sent) from None
            except _FAILURES as error:
                raise self._failure(request, error, sent=progress.sent) from None

    def _take_slot(self) -> None:
        """
        Wait here for one of the shared connections: httpcore's own queue sees neither flag nor deadline.
        """
        while not self._slots.acquire(timeout=min(SLICE, self._interruption.remaining(None))):
            pass

    def _authorized(self, transport: httpx.BaseTransport, outgoing: httpx.Request) -> httpx.Response:
        with contextlib.closing(self._auth.sync_auth_flow(outgoing)) as flow:
            current = next(flow)
            while True:
                answer = transport.handle_request(current)
                try:
                    current = flow.send(answer)
                except StopIteration:
                    return answer
                except BaseException:
                    answer.close()
                    raise
                answer.close()

    def _chunks(self, answer: httpx.Response, request: Request) -> Iterator[bytes]:
        size, limit = 0, self._limit(answer, request)
        for chunk in cast("httpx.SyncByteStream", answer.stream):
            size += len(chunk)
            if size > limit:
                raise self._too_large(answer, request)
            yield chunk


@define(eq=False)
class _Pool:
    """
    The connections of one event loop: one transport for each, of which the one used last goes first. With each request
    httpcore's own pool looks at every connection and everything that queues for one.
    """

    free: list[httpx.AsyncBaseTransport]
    in_flight: asyncio.Semaphore
    starts: asyncio.Semaphore
    closed: bool = False


class AsyncWire(Wire):
    """
    Sends from event loops; each has connections of its own.
    """

    def __init__(
        self, base_url: str, credentials: Credentials, settings: Settings, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(base_url, credentials, settings, now)
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = weakref.WeakKeyDictionary()
        self._making = threading.Lock()

    def _new_transport(self) -> httpx.AsyncBaseTransport:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE_SECONDS)
        return _AsyncTransport(verify=self._tls, limits=limits, proxy=self._proxy, trust_env=False, http1=True)

    def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            most = self._settings.max_connections
            pool = _Pool([], asyncio.Semaphore(most), asyncio.Semaphore(most))
            with self._making:
                # Open connections keep their loop alive, so a dead loop does not leave by itself.
                for dead in [known for known in self._pools if known.is_closed()]:
                    del self._pools[dead]
                self._pools[loop] = pool
        if pool.closed:
            raise RuntimeError("This client has been closed.")
        return pool

    async def aclose(self) -> None:
        """
        Close the connections of the running loop.
        """
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None:
            pool.closed = True
            for transport in pool.free:
                await transport.aclose()

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        """
        To be held from before a start is announced until its answer is on record: so it is announced when it can leave.
        """
        return self._pool().starts

    async def send(self, request: Request) -> Response:
        """
        As :meth:`SyncWire.send`; cancelling the task ends it.
        """
        pool, began = self._pool(), time.monotonic()
        async with self._slot(pool, request):
            self._check_in_time(request)
            with contents_unlogged():
                return await self._send(pool, request.after(time.monotonic() - began))

    async def _send(self, pool: _Pool, request: Request) -> Response:
        if not request.repeatable:
            async with self._new_transport() as transport:
                return await self._exchange(transport, request, _Progress())
        transport = pool.free.pop() if pool.free else self._new_transport()
        try:
            response = await self._exchange(transport, request, None)
        except BaseException:
            # Whatever state it is in: after some failures httpcore counts a connection that is gone.
            with contextlib.suppress(Exception):
                await transport.aclose()
            raise
        pool.free.append(transport)
        if pool.closed:
            await transport.aclose()
        return response

    @contextlib.asynccontextmanager
    async def _slot(self, pool: _Pool, request: Request) -> AsyncIterator[None]:
        limits = [limit for limit in (self._spare(request), request.within) if limit is not None]
        try:
            async with asyncio.timeout(max(min(limits), 0.0) if limits else None):
                await pool.in_flight.acquire()
        except TimeoutError:
            raise (self._late(request, sent=False) if request.over_by is None else self._overdue(request)) from None
        try:
            yield
        finally:
            pool.in_flight.release()

    async def _exchange(
        self, transport: httpx.AsyncBaseTransport, request: Request, progress: _Progress | None
    ) -> Response:
        outgoing = self._build(request)
        if progress is not None:  # tracing costs, and for what may be repeated it does not matter
            outgoing.extensions["trace"] = progress.note
        try:
            async with asyncio.timeout(self._seconds(request)):
                answer = await self._authorized(transport, outgoing)
                try:
                    headers = self._admit(answer, request)
                    return self._response(answer, headers, await self._body(answer, request), request)
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise self._late(request, sent=progress is None or progress.sent) from None
        except _FAILURES as error:
            raise self._failure(request, error, sent=progress is None or progress.sent) from None

    async def _authorized(self, transport: httpx.AsyncBaseTransport, outgoing: httpx.Request) -> httpx.Response:
        async with contextlib.aclosing(self._auth.async_auth_flow(outgoing)) as flow:
            current = await anext(flow)
            while True:
                answer = await transport.handle_async_request(current)
                try:
                    current = await flow.asend(answer)
                except StopAsyncIteration:
                    return answer
                except BaseException:
                    await answer.aclose()
                    raise
                await answer.aclose()

    async def _body(self, answer: httpx.Response, request: Request) -> bytes:
        size, chunks, limit = 0, [], self._limit(answer, request)
        async for chunk in cast("httpx.AsyncByteStream", answer.stream):
            size += len(chunk)
            if size > limit:
                raise self._too_large(answer, request)
            chunks.append(chunk)
        return b"".join(chunks)


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
