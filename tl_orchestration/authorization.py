"""
Authentication flows that read, wait or ask for a token between two requests.

httpx drives one flow in two worlds. A flow here is a generator too: besides requests it yields steps, which the two
drivers below carry out, the blocking one in the caller's thread, the other without holding up the event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

import httpx

T = TypeVar("T")

#: A credential that has just been read or asked for, and was refused at once, is not read again for so long, seconds.
RENEWAL_INTERVAL = 3.0
#: Longest time in which a waiting thread does not look at deadline and flag, seconds.
_SLICE = 0.25
#: A longer answer to a request for a token is cut off, bytes.
LONGEST_ANSWER = 64 * 1024


class Step(Protocol):
    """
    What a flow has done for it between requests; ``request`` is the one that the caller wants to send.
    """

    def blocking(self, request: httpx.Request) -> Any: ...
    async def awaited(self, request: httpx.Request) -> Any: ...


Steps = Generator[httpx.Request | Step, Any, None]


class SteppedAuth(httpx.Auth):
    """
    An authentication flow with steps.
    """

    @abstractmethod
    def steps(self, request: httpx.Request) -> Steps:
        """
        Yield requests, and get responses; yield steps, and get what they give.
        """

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        flow = self.steps(request)
        try:
            step = next(flow)
            while True:
                step = flow.send((yield step) if isinstance(step, httpx.Request) else step.blocking(request))
        except StopIteration:
            return
        finally:
            flow.close()

    sync_auth_flow = auth_flow

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        flow = self.steps(request)
        try:
            step = next(flow)
            while True:
                step = flow.send((yield step) if isinstance(step, httpx.Request) else await step.awaited(request))
        except StopIteration:
            return
        finally:
            flow.close()


class InThread(Generic[T]):
    """
    Call something that may block for a moment.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call

    def blocking(self, request: httpx.Request) -> T:
        return self._call()

    async def awaited(self, request: httpx.Request) -> T:
        return await asyncio.to_thread(self._call)


class Landed(Generic[T]):
    """
    Wait for what another caller, in whatever thread or event loop, is about to find out.
    """

    def __init__(self, future: concurrent.futures.Future[T]) -> None:
        self._future = future

    def blocking(self, request: httpx.Request) -> T:
        remaining: Callable[[float | None], float] | None = request.extensions.get("remaining")
        while True:
            try:
                # The sender's own look at deadline and flag, which raises when the wait has to end.
                return self._future.result(_SLICE if remaining is None else remaining(_SLICE))
            except concurrent.futures.TimeoutError:
                continue

    async def awaited(self, request: httpx.Request) -> T:
        return await asyncio.wrap_future(self._future)


class Body:
    """
    Read the body of an answer that the flow keeps for itself, as far as it is of a sane length.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def blocking(self, request: httpx.Request) -> bytes:
        body = b""
        for chunk in cast("httpx.SyncByteStream", self._response.stream):
            body += chunk
            if len(body) > LONGEST_ANSWER:
                break
        return self._done(body)

    async def awaited(self, request: httpx.Request) -> bytes:
        body = b""
        async for chunk in cast("httpx.AsyncByteStream", self._response.stream):
            body += chunk
            if len(body) > LONGEST_ANSWER:
                break
        return self._done(body)

    def _done(self, body: bytes) -> bytes:
        leave_unread(self._response)
        return body[: LONGEST_ANSWER + 1]


def leave_unread(response: httpx.Response) -> None:
    """
    Keep httpx from reading an answer that is followed by another request: it would read it whole, however long, and
    unpack it.
    """
    response.stream = _Unread(response.stream)


class _Unread(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    def close(self) -> None:
        if isinstance(self._stream, httpx.SyncByteStream):
            self._stream.close()

    async def aclose(self) -> None:
        if isinstance(self._stream, httpx.AsyncByteStream):
            await self._stream.aclose()
