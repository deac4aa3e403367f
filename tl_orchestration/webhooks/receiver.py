"""
The receiver as an ASGI application. It says 2xx when a delivery is proven and durable, and nothing else does it know.

::

    POST /webhooks/transactionlink    204, or 401 for every kind of signature that does not prove it
    POST /webhooks/b3os               likewise
    GET  /healthz                     200 while rows can be inserted, else 503

It trusts no forwarded header, and can be mounted below any path. What it needs of memory and time for one delivery, and
for all at once, is bounded whatever is sent; the vendors deliver again after every answer that is not 2xx.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Callable, Iterable

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tl_orchestration.errors import LedgerError, WebhookRefused
from tl_orchestration.webhooks.announcement import announcement
from tl_orchestration.webhooks.inbox import Arrival, Inbox
from tl_orchestration.webhooks.signatures import Delivery, Verifier
from tl_orchestration.webhooks.spells import Spells
from tl_orchestration.webhooks.writer import Writer

log = logging.getLogger(__name__)

#: Largest body, bytes.
LARGEST_BODY = 1024 * 1024
#: Longest time for reading a body, and for the whole answer, seconds. The vendor waits ten (contract A7).
LONGEST_READ = 4.0
LONGEST_ANSWER = 8.0
#: Deliveries under way at once; more are answered 503.
MOST_UNDER_WAY = 256
#: Bodies in memory at once, as many bytes as these would be at their largest.
_MOST_BODIES = 32 * LARGEST_BODY
#: For how long an answer of ``/healthz`` holds, and the longest time until there is one, seconds.
_HEALTH_HOLDS = 1.0
_HEALTH_PATIENCE = 3.0
_IDENTITY = frozenset({"", "identity"})


class _Unwelcome(Exception):
    """
    A request that is answered without a look at its signature.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Receiver:
    """
    Takes deliveries. Its application is ``app``.

    Args:
        inbox: Where they are kept. The right to insert is enough.
        verifiers: One for each service whose deliveries are taken.
        now: Epoch seconds.
    """

    def __init__(self, inbox: Inbox, verifiers: Iterable[Verifier], *, now: Callable[[], float] = time.time) -> None:
        self._inbox = inbox
        self._writer = Writer(inbox)
        self._verifiers = {verifier.service: verifier for verifier in verifiers}
        self._now = now
        self._under_way = 0
        self._bytes = 0
        self._refusals = Spells(log)
        self._health: tuple[float, asyncio.Task[bool]] | None = None
        self.app = Starlette(
            routes=[
                Route("/webhooks/{service}", self._receive, methods=["POST"]),
                Route("/healthz", self._healthz, methods=["GET"]),
            ]
        )
        self.app.router.redirect_slashes = False

    def close(self) -> None:
        """
        Insert what waits, and end the thread that does it. The inbox stays open.
        """
        self._writer.close()

    async def _receive(self, request: Request) -> Response:
        verifier = self._verifiers.get(request.path_params["service"])
        if verifier is None:
            return Response(status_code=404)
        if self._under_way >= MOST_UNDER_WAY:
            return _turned_away(503)
        self._under_way += 1
        try:
            async with asyncio.timeout(LONGEST_ANSWER):
                await self._take(request, verifier)
        except WebhookRefused as refused:
            self._refusals.warn("A delivery to /webhooks/%s was refused: %s", verifier.service, refused)
            return Response(status_code=401)
        except _Unwelcome as unwelcome:
            return _turned_away(unwelcome.status)
        except (LedgerError, queue.Full, TimeoutError) as error:
            reason = str(error) if isinstance(error, LedgerError) else type(error).__name__
            self._refusals.warn("A delivery to /webhooks/%s could not be kept: %s", verifier.service, reason)
            return _turned_away(503)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        finally:
            self._under_way -= 1
        return Response(status_code=204)

    async def _take(self, request: Request, verifier: Verifier) -> None:
        if request.headers.get("content-encoding", "").strip().lower() not in _IDENTITY:
            raise _Unwelcome(415)
        arrival = await self._proven(request, verifier)
        await asyncio.wrap_future(self._writer.submit(arrival))

    async def _proven(self, request: Request, verifier: Verifier) -> Arrival:
        body = await self._read(request)
        try:
            check = verifier.begin(Delivery(body, tuple(request.headers.items())))
            if check.ready is not None and not check.ready.done():
                await asyncio.wrap_future(check.ready)
            check.finish()
            told = announcement(body, verifier.service)
        finally:
            self._bytes -= len(body)
        return Arrival(verifier.service, told.execution_id, told.kind, told.digest, self._now())

    async def _read(self, request: Request) -> bytes:
        # What it returns counts among the bytes in memory until the caller has done with it.
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > LARGEST_BODY:
            raise _Unwelcome(413)
        chunks, size = [], 0
        try:
            async with asyncio.timeout(LONGEST_READ):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._bytes += len(chunk)
                    if size > LARGEST_BODY:
                        raise _Unwelcome(413)
                    if self._bytes > _MOST_BODIES:
                        raise _Unwelcome(503)
                    chunks.append(chunk)
        except BaseException as error:  # the time for the whole answer may end here, too
            self._bytes -= size
            if isinstance(error, TimeoutError):
                raise _Unwelcome(408) from None
            raise
        return b"".join(chunks)

    async def _healthz(self, request: Request) -> Response:
        if self._health is None or self._health[0] < time.monotonic():
            task = asyncio.get_running_loop().create_task(self._can_put())
            self._health = time.monotonic() + _HEALTH_HOLDS, task
        well = await asyncio.shield(self._health[1])
        return JSONResponse({"status": "ok" if well else "unavailable"}, 200 if well else 503)

    async def _can_put(self) -> bool:
        try:
            async with asyncio.timeout(_HEALTH_PATIENCE):
                return await self._inbox.acan_put()
        except (LedgerError, TimeoutError):
            return False


def _turned_away(status: int) -> Response:
    # What is left of the request is not read.
    return Response(status_code=status, headers={"connection": "close"})


__all__ = ["Receiver"]
