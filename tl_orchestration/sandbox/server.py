"""Running the sandbox: beside the caller's code in a thread, or in the foreground."""

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from types import TracebackType
from typing import Any, Self, cast

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tl_orchestration.sandbox.answers import DROP
from tl_orchestration.sandbox.app import create_app
from tl_orchestration.sandbox.settings import SandboxSettings
from tl_orchestration.sandbox.store import Store

START_TIMEOUT = 10.0
"""Seconds that the server may take to come up."""

STOP_TIMEOUT = 10.0
"""Seconds that the server may take to go down."""

_LOG = logging.getLogger(__name__)


class _Protocol(H11Protocol):
    """HTTP/1.1 with one ASGI extension: the message `DROP` closes the connection at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Configuring no access log is not enough: whoever sets up logging after uvicorn (Airflow does) brings it back,
        # and its lines have the tokens of hosted pages and of public executions in their queries.
        self.access_log = False
        inner = cast("ASGIApp", self.app)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_or_drop(message: Message) -> None:
                if message["type"] == DROP:
                    transport.abort()
                else:
                    await send(message)

            scope.setdefault("extensions", {})[DROP] = {}
            await inner(scope, receive, send_or_drop)

        self.app = cast("Any", app)

    def shutdown(self) -> None:
        """Close at once: an answer that a fault still holds back must not hold back the end of the server."""
        # There is no cycle, whatever its type says, before the first request.
        if getattr(self.cycle, "response_complete", True):
            super().shutdown()
        else:
            self.transport.abort()


class SandboxServer:
    """
    A sandbox in a thread of this process, as a context manager.

    It installs no signal handlers. Started again after a stop, it listens at the same address and still knows
    its executions.

    Args:
        settings: the sandbox's settings.
        host: address to bind; anything but loopback exposes unprotected control endpoints.
        port: port to bind; 0 for a free one.
    """

    def __init__(self, settings: SandboxSettings | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host = host
        self._port = port
        self._app = create_app(settings)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def store(self) -> Store:
        """What this sandbox knows; may be read and changed from any thread."""
        return cast("Store", self._app.state.store)

    @property
    def url(self) -> str:
        """Base URL without a slash at the end. Raises `RuntimeError` before the first start with port 0."""
        if self._port == 0:
            raise RuntimeError("the sandbox has no address yet: start it first")
        return _url(self._host, self._port)

    def start(self) -> None:
        """
        Listen, and return when requests are answered.

        Raises:
            OSError: the address cannot be bound.
            RuntimeError: it is running already, or did not come up in `START_TIMEOUT` seconds.
        """
        if self._thread is not None:
            raise RuntimeError(f"the sandbox at {self.url} is running already")
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        self._failure = None
        self.store.courier.resume()
        self._server = uvicorn.Server(_config(self._app))
        self._thread = threading.Thread(
            target=self._run, args=(self._server, listener), name=f"sandbox-{self._port}", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                listener.close()
                raise RuntimeError(f"the sandbox at {self.url} did not come up") from self._failure
            time.sleep(0.005)

    def stop(self) -> None:
        """
        Close all connections, answered or not, and wait for the thread to end. Harmless when stopped.

        Raises:
            RuntimeError: the thread did not end in `STOP_TIMEOUT` seconds.
        """
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT)
        if self._thread.is_alive():
            raise RuntimeError(f"the sandbox at {self.url} did not stop")
        self.store.courier.stop()
        self._server = self._thread = None

    def _run(self, server: uvicorn.Server, listener: socket.socket) -> None:
        try:
            asyncio.run(server.serve(sockets=[listener]))
        except BaseException as failure:  # told by the thread that waits in start()
            self._failure = failure

    def __enter__(self) -> Self:
        """Start. Raises as `start` does."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def serve(settings: SandboxSettings | None = None, host: str = "127.0.0.1", port: int = 8321) -> None:
    """
    Run a sandbox in the foreground until Ctrl+C or SIGTERM, for the command line.

    One log line, at INFO, says where it listens and how to stop it; it is set up to reach stderr where the
    program has not configured logging.

    Raises:
        OSError: the address cannot be bound.
    """
    listener = _listen(host, port)
    if not _LOG.hasHandlers():
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    _LOG.info("Sandbox listening on %s (stop it with Ctrl+C)", _url(host, listener.getsockname()[1]))
    server = uvicorn.Server(_config(create_app(settings), log_level="warning"))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        # The server has shut down in good order before it hands the signal on.
        _LOG.debug("stopped")


def _config(app: Starlette, log_level: str | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        loop="asyncio",
        lifespan="off",
        ws="none",
        log_config=None,
        log_level=log_level,
        access_log=False,
        # Longer than clients keep idle connections: else one is closed in the moment of its next use, and
        # the client sees an answer lost that no fault has taken.
        timeout_keep_alive=75,
    )


def _listen(host: str, port: int) -> socket.socket:
    if not _is_loopback(host):
        _LOG.warning("The sandbox's control endpoints need no token: %s should not be reachable", host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # Accepted connections inherit this. Head and body of an answer are written apart: without it the body
    # waits for the client's delayed acknowledgement, some 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
