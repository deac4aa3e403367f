"""
Blocking I/O under one deadline, which a flag can end.

httpx limits each read, not the exchange: an answer that drips one byte at a time never times out. And a signal
handler can only set a flag, while Python restarts an interrupted ``recv``. So reads wait in short slices, between
which deadline and flag are looked at.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore
import httpx

#: Longest time that a flag stays unseen, seconds.
SLICE = 0.25
#: Most bytes written between two looks at deadline and flag.
PIECE = 64 * 1024


class Interrupted(Exception):
    """
    An exchange ended early: by the caller's flag, or by its deadline.
    """

    def __init__(self, *, by_caller: bool) -> None:
        super().__init__()
        self.by_caller = by_caller


class Interruption:
    """
    Deadline and flag of the exchange that this thread is in.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._local = threading.local()

    @contextlib.contextmanager
    def limited(self, seconds: float, stop: Callable[[], bool] | None) -> Iterator[None]:
        outer = self._limits()  # a flag may itself ask the service, from within an exchange
        self._local.limits = (self._monotonic() + seconds, stop)
        try:
            yield
        finally:
            self._local.limits = outer

    def remaining(self, wanted: float | None) -> float:
        """
        How long a blocking call that cannot be cut into slices may take, seconds.

        Raises:
            Interrupted: Not at all.
        """
        ends, stop = self._limits()
        if stop is not None and stop():
            raise Interrupted(by_caller=True)
        remaining = ends - self._monotonic()
        if remaining <= 0:
            raise Interrupted(by_caller=False)
        return max(0.001, remaining if wanted is None else min(remaining, wanted))

    def _limits(self) -> tuple[float, Callable[[], bool] | None]:
        limits: tuple[float, Callable[[], bool] | None] = getattr(self._local, "limits", (float("inf"), None))
        return limits


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, interruption: Interruption) -> None:
        self._stream = stream
        self._interruption = interruption

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            # The exchange's deadline is at most the read time-out, so a slice that runs out is just the next look.
            wait = min(SLICE, self._interruption.remaining(timeout))
            try:
                return self._stream.read(max_bytes, wait)
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # httpcore would give each send of a long body the whole time again.
        for start in range(0, len(buffer), PIECE):
            self._stream.write(buffer[start : start + PIECE], self._interruption.remaining(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._interruption.remaining(timeout))
        return _Stream(secured, self._interruption)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, interruption: Interruption) -> None:
        self._backend = httpcore.SyncBackend()
        self._interruption = interruption

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        wait = self._interruption.remaining(timeout)
        stream = self._backend.connect_tcp(host, port, wait, local_address, socket_options)
        return _Stream(stream, self._interruption)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class InterruptibleTransport(httpx.HTTPTransport):
    """
    httpx's own transport over a pool whose reads can be interrupted.
    """

    def __init__(
        self, interruption: Interruption, tls: ssl.SSLContext, limits: httpx.Limits, proxy: str | None
    ) -> None:
        super().__init__(verify=tls, trust_env=False, limits=limits, proxy=proxy)
        # httpx has no argument for the network backend; httpcore's pool, which it holds, has.
        self._pool._network_backend = _Backend(interruption)
