"""
The receiver in a server of its own, behind a proxy that ends TLS.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from tl_orchestration.webhooks.spells import Seldom

#: Longest time until a request's head is whole, seconds, from its first byte or from the opening of the connection.
LONGEST_HEAD = 5.0
#: Longest time from there until the body is whole, seconds: also where it was answered without being read.
LONGEST_BODY = 10.0
#: Largest head, bytes.
LARGEST_HEAD = 32 * 1024
#: Connections at once; what comes on more of them is answered 503.
MOST_CONNECTIONS = 1000
#: How long the end of the process waits for deliveries under way, seconds.
_GRACE = 10
#: uvicorn warns of each request that is none, and of each one too many.
_SELDOM = Seldom()


class _Protocol(H11Protocol):
    """
    HTTP/1.1 without patience for a request that drips in; uvicorn itself would wait for ever.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._due: asyncio.TimerHandle | None = None
        self._expected: tuple[str, Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.access_log = False  # whoever configures logging after uvicorn would bring it back
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if str(self.conn.our_state) in {"IDLE", "SEND_RESPONSE"}:
            super().send_400_response(msg)
        else:
            self.transport.abort()  # the request has its answer

    def _expect(self) -> None:
        expected = str(self.conn.their_state), self.cycle
        if expected == self._expected:
            return
        self._forget()
        self._expected = expected
        patience = {"IDLE": LONGEST_HEAD, "SEND_BODY": LONGEST_BODY}.get(expected[0])
        if patience is not None:
            self._due = self.loop.call_later(patience, self.transport.abort)

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


def server(app: ASGIApp, *, root_path: str = "") -> uvicorn.Server:
    """
    A server for a receiver's application; its ``run(sockets=[...])`` serves until SIGINT or SIGTERM.

    Args:
        root_path: Path below which a proxy publishes it, such as ``/kyc``; whether the proxy takes it away or not.
    """
    logging.getLogger("uvicorn.error").addFilter(_SELDOM)
    prefix = root_path.strip("/")
    return uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=[Mount(f"/{prefix}", app), Mount("/", app)]) if prefix else app,
            http=_Protocol,
            loop="asyncio",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=LARGEST_HEAD,
            timeout_graceful_shutdown=_GRACE,
            timeout_keep_alive=75,  # longer than proxies keep idle connections: else one closes at its next use
        )
    )


def listening(host: str, port: int) -> socket.socket:
    """
    A socket to serve on.

    Raises:
        OSError: The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    return listener


__all__ = ["listening", "server"]
