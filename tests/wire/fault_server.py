"""
A TCP server that misbehaves on purpose, each connection in a thread of its own, and keeps what it was sent.

It is no HTTP server: a behaviour writes bytes, or does not. The sandbox is for what a service does; this is for what
a network does to it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

Behaviour = Callable[["Conversation"], None]

EXECUTION_ID = "e3c23802-537d-4aa4-89f1-397c120f5565"
ANSWER = f'{{"id": "{EXECUTION_ID}", "status": "RUNNING"}}'.encode()


def http(
    status: str = "200 OK", body: bytes = ANSWER, *headers: str, content_type: str | None = "application/json"
) -> bytes:
    """
    A whole answer.
    """
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _length(data: bytes) -> int | None:
    """
    How long the request is that the data begins with; None as long as that cannot be told.
    """
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return None
    lengths = [
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    ]
    return len(head) + 4 + sum(lengths)


class Conversation:
    """
    One connection, as a behaviour sees it.
    """

    def __init__(self, connection: socket.socket, stopping: threading.Event) -> None:
        self._connection = connection
        self._stopping = stopping
        self._pending = b""
        self.received = b""

    def read_request(self) -> bytes:
        """
        Read one whole request; what there is of one, if the other side goes.
        """
        while (length := _length(self._pending)) is None or len(self._pending) < length:
            if not self.read_some():
                break
        request, self._pending = self._pending[:length], self._pending[length:] if length else b""
        return request

    def peek_request(self) -> bytes:
        """
        One whole request, left unread; nothing, if the other side goes before it is whole.
        """
        while True:
            data = self._connection.recv(65536, socket.MSG_PEEK)
            if not data:
                return b""
            length = _length(data)
            if length is not None and len(data) >= length:
                return data[:length]
            if self.rest(0.001):
                return b""

    def read_some(self, size: int = 65536) -> bytes:
        """
        Read what is there; nothing, if the other side has gone.
        """
        data = self._connection.recv(size)
        self.received += data
        self._pending += data
        return data

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def drip(self, data: bytes, interval: float = 0.1) -> None:
        """
        Send one byte at a time.
        """
        for byte in data:
            if self.rest(interval):
                return
            self.send(bytes([byte]))

    def rest(self, seconds: float) -> bool:
        """
        Do nothing for a while. True if the server is stopping.
        """
        return self._stopping.wait(seconds)

    def reset(self) -> None:
        """
        Close with a reset instead of an end.
        """
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._connection.close()


class FaultServer:
    """
    Listens on loopback; the n-th connection meets the n-th behaviour, and all later ones the last.

    Args:
        behaviours: What happens to a connection.
        tls: Certificate to speak TLS with.
    """

    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self._behaviours = behaviours
        self._tls = tls
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.conversations: list[Conversation] = []
        self.accepted = 0
        self._counting = threading.Lock()
        self.errors: list[BaseException] = []

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def received(self) -> bytes:
        """
        All that all connections have read.
        """
        return b"".join(conversation.received for conversation in self.conversations)

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for connection in self._open:
            connection.close()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """
        For a moment nobody listens, and whoever connects is refused. What is connected already stays so.
        """
        with contextlib.suppress(OSError):
            self._listener.setblocking(False)
            while True:  # whoever waits to be let in has sent a request perhaps, and would be reset
                self._admit(self._listener.accept()[0])
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with socket.socket() as holder:  # so that nobody else gets the port
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", self.port))
            try:
                yield
            finally:
                self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
                self._spawn(self._accept)

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        listener = self._listener
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        with self._counting:
            behaviour = self._behaviours[min(self.accepted, len(self._behaviours) - 1)]
            self.accepted += 1
        self._open.append(connection)
        self._spawn(self._converse, connection, behaviour)

    def _converse(self, connection: socket.socket, behaviour: Behaviour) -> None:
        with contextlib.suppress(OSError):  # the other side may go whenever it likes
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            conversation = Conversation(connection, self._stopping)
            self.conversations.append(conversation)
            behaviour(conversation)


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """
    The address of a port where nobody listens, and nobody else can begin to.
    """
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


@contextlib.contextmanager
def unresponsive_port() -> Iterator[str]:
    """
    The address of a port that neither accepts nor refuses: its queue is full.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def answer(data: bytes | None = None) -> Behaviour:
    """
    Read a request, answer, and keep the connection for the next one.
    """
    whole = http() if data is None else data

    def behave(conversation: Conversation) -> None:
        while request := conversation.read_request():
            conversation.send(whole)
            if b"connection: close" in request.lower():
                break
        conversation.close()

    return behave


def reset_unread(conversation: Conversation) -> None:
    """
    Reset without having read a byte, once the other side has begun to send.
    """
    conversation.rest(0.05)
    conversation.reset()


def reset_read(conversation: Conversation) -> None:
    """
    Read the whole request, then reset.
    """
    conversation.read_request()
    conversation.reset()


def close_read(conversation: Conversation) -> None:
    """
    Read the whole request, then close without an answer.
    """
    conversation.read_request()
    conversation.close()


def close_unread(conversation: Conversation) -> None:
    """
    Close at once, in good order.
    """
    conversation.close()


def hang(conversation: Conversation) -> None:
    """
    Read the whole request and never answer.
    """
    conversation.read_request()
    conversation.rest(30)


def hang_deaf(conversation: Conversation) -> None:
    """
    Neither read nor answer.
    """
    conversation.rest(30)


def then(*steps: bytes | str) -> Behaviour:
    """
    Read the request, then send bytes; the words ``reset``, ``close``, ``hang`` and ``drip`` act.
    """

    def behave(conversation: Conversation) -> None:
        conversation.read_request()
        for step in steps:
            if isinstance(step, bytes):
                conversation.send(step)
            elif step == "reset":
                conversation.rest(0.05)  # else the reset overtakes what was sent before it
                conversation.reset()
            elif step == "close":
                conversation.close()
            elif step == "hang":
                conversation.rest(30)
            elif step == "drip":
                conversation.drip(http())

    return behave
