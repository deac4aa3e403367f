"""
A service that does nothing but answer polls, so that it does not dominate what is measured.

An execution's id says when it ends: ``<name>-<epoch milliseconds>``; until then, it has no result. The process prints
its port, serves loopback until its standard input closes, and tells on ``GET /seen`` how many connections have polled,
and how often.
"""

from __future__ import annotations

import asyncio
import sys
import time

_BODY = (
    '{"id":"%s","workspaceId":"3f0c1d52-7a54-4a0e-9d0b-5f1f6a2f9c11","workflowDefinitionId":"kyc-approve",'
    '"parameters":{},"name":"kyc-approve","revision":"r1","status":"%s","locale":"en",'
    '"expiresAt":"2099-09-21T15:13:20.250000Z","uiOptions":{},"executionType":"BACKGROUND","executionVersion":1,'
    '"origin":"API"}'
)
_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: application/json;charset=UTF-8\r\ncontent-length: %d\r\n\r\n"


class _Connection(asyncio.Protocol):
    seen = 0
    polls = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._pending = b""
        self._polled = False

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head, self._pending = self._pending[:end], self._pending[end + 4 :]
            self._answer(head.split(b" ", 2)[1].decode())

    def _answer(self, path: str) -> None:
        head = _HEAD
        name = path.removesuffix("/result").rpartition("/")[2]
        if name == "seen":
            body = f'{{"connections":{_Connection.seen},"polls":{_Connection.polls}}}'
        else:
            _Connection.polls += 1
            _Connection.seen += not self._polled
            self._polled = True
            ended = time.time() * 1000 >= int(name.rpartition("-")[2])
            body = _BODY % (name, "COMPLETED" if ended else "RUNNING")
            if path.endswith("/result") and not ended:
                head, body = _HEAD.replace("200 OK", "404 Not Found"), "{}"
        self._transport.write((head % len(body) + body).encode())


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
