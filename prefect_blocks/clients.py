"""
One client in a process for all runs with the same credentials and ledger: connections, TLS contexts and pollers are
made once.

Asynchronous clients belong to their event loop and are closed when it ends; the others when the process does.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import threading
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from attrs import define, field

from prefect_blocks.twins import Twin

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping

    from prefect_blocks.credentials import TransactionlinkCredentials
    from tl_orchestration import AsyncClient, Client
    from tl_orchestration.ledger import Ledger

C = TypeVar("C")
T = TypeVar("T")

_IDLE = 4
"""
Clients that nobody uses and that are kept for whoever comes next. A process that serves flow runs one after another
needs one for each of them.
"""


@define(eq=False)
class _Shared(Generic[C]):
    client: C
    users: int = 0


@define(eq=False)
class _Pool(Generic[C]):
    """
    Clients by what they were made from, the one used last at the end.
    """

    clients: dict[Hashable, _Shared[C]] = field(factory=dict)
    lock: threading.Lock = field(factory=threading.Lock)

    def take(self, key: Hashable, make: Callable[[], C]) -> _Shared[C]:
        with self.lock:
            shared = self.clients.pop(key, None) or _Shared(make())
            self.clients[key] = shared
            shared.users += 1
            return shared

    def give_back(self, shared: _Shared[C]) -> list[C]:
        """
        Returns the clients to close: those that were idle for longest.
        """
        with self.lock:
            shared.users -= 1
            idle = [key for key, each in self.clients.items() if each.users == 0]
            return [self.clients.pop(key).client for key in idle[: max(0, len(idle) - _IDLE)]]

    def empty(self) -> list[C]:
        with self.lock:
            clients = [shared.client for shared in self.clients.values()]
            self.clients.clear()
            return clients


@define(eq=False)
class _OfLoop:
    """
    The clients of one event loop, and what the loop closes at its end.
    """

    pool: _Pool[AsyncClient] = field(factory=_Pool)
    ending: AsyncGenerator[None, None] | None = None


_here: _Pool[Client] = _Pool()
_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def borrowed(
    credentials: TransactionlinkCredentials,
    *,
    ledger: Ledger | None = None,
    status_map: Mapping[str, str] | None = None,
) -> Iterator[Client]:
    """
    The client of this process. Leave it open.

    Raises:
        InvalidSettings: As :meth:`TransactionlinkCredentials.get_client`.
    """
    shared = _here.take(
        _key(credentials, ledger, status_map),
        lambda: credentials.get_client(ledger=ledger, status_map=status_map),
    )
    try:
        yield shared.client
    finally:
        for client in _here.give_back(shared):
            client.close()


@contextlib.asynccontextmanager
async def aborrowed(
    credentials: TransactionlinkCredentials,
    *,
    ledger: Ledger | None = None,
    status_map: Mapping[str, str] | None = None,
) -> AsyncIterator[AsyncClient]:
    """
    The client of the running event loop. Leave it open.

    Raises:
        InvalidSettings: As :meth:`TransactionlinkCredentials.get_async_client`.
    """
    import asyncio

    of_loop = _loops.setdefault(asyncio.get_running_loop(), _OfLoop())
    if of_loop.ending is None:
        of_loop.ending = _closed_at_the_end(of_loop.pool)
        await anext(of_loop.ending)
    shared = of_loop.pool.take(
        _key(credentials, ledger, status_map),
        lambda: credentials.get_async_client(ledger=ledger, status_map=status_map),
    )
    try:
        yield shared.client
    finally:
        for client in of_loop.pool.give_back(shared):
            await client.close()


def asking(
    verb: Callable[[Client | AsyncClient], T | Awaitable[T]],
    credentials: TransactionlinkCredentials,
    *,
    ledger: Ledger | None = None,
    status_map: Mapping[str, str] | None = None,
) -> Twin[T]:
    """
    What a client says, of this process or of the running event loop.

    Args:
        verb: Calls it.
    """

    def here() -> T:
        with borrowed(credentials, ledger=ledger, status_map=status_map) as client:
            return cast("T", verb(client))

    async def there() -> T:
        async with aborrowed(credentials, ledger=ledger, status_map=status_map) as client:
            return await cast("Awaitable[T]", verb(client))

    return Twin(here, there)


async def _closed_at_the_end(pool: _Pool[AsyncClient]) -> AsyncGenerator[None, None]:
    """
    ``asyncio.run`` closes the generators that are still open before it closes the loop, and so this one.
    """
    try:
        yield
    finally:
        for client in pool.empty():
            await client.close()


@atexit.register
def _close() -> None:
    for client in _here.empty():
        client.close()


def _key(
    credentials: TransactionlinkCredentials, ledger: Ledger | None, status_map: Mapping[str, str] | None
) -> Hashable:
    """
    What a client is made from. Of the secrets only a digest, so that no key shows them.
    """
    fields: dict[str, Any] = {
        name: reveal() if (reveal := getattr(value, "get_secret_value", None)) else value
        for name in type(credentials).model_fields
        for value in [getattr(credentials, name)]
    }
    made_from = json.dumps([fields, credentials.saved_name(), dict(status_map or {})], sort_keys=True, default=str)
    kept = None if ledger is None else getattr(ledger, "identity", id(ledger))
    return hashlib.sha256(made_from.encode()).hexdigest(), kept


__all__ = ["aborrowed", "asking", "borrowed"]
