"""
One client, and one connection look-up, for all triggers of a process that use the same connection.

A client per trigger would cost about a mebibyte and 16 ms of CPU each, and a connection look-up in a triggerer costs
four round trips to its supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from airflow.sdk import Connection

    from tl_orchestration import AsyncClient

#: Seconds after which the connection is read again, so that an edited one takes effect on the next trigger.
LIFETIME = 300.0

#: Connection id and the status words that the task teaches.
_Key = tuple[str, tuple[tuple[str, str], ...]]


@define(eq=False)
class _Shared:
    client: AsyncClient
    connection: Connection
    read_at: float
    users: int = 0


@define(eq=False)
class _Pool:
    clients: dict[_Key, _Shared] = field(factory=dict)
    building: asyncio.Lock = field(factory=asyncio.Lock)


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def borrowed(conn_id: str, status_map: Mapping[str, str]) -> AsyncIterator[AsyncClient]:
    """
    The client of this loop for a connection. It is closed once nobody uses it and it has been replaced.

    Raises:
        InvalidSettings: The connection cannot be used.
    """
    pool = _pools.setdefault(asyncio.get_running_loop(), _Pool())
    key: _Key = (conn_id, tuple(sorted(status_map.items())))
    shared = await _current(pool, key)
    shared.users += 1
    try:
        yield shared.client
    finally:
        shared.users -= 1
        if shared.users == 0 and pool.clients.get(key) is not shared:
            await shared.client.close()


async def _current(pool: _Pool, key: _Key) -> _Shared:
    from airflow_provider.hooks import TransactionlinkHook

    async with pool.building:
        now = asyncio.get_running_loop().time()
        shared = pool.clients.get(key)
        if shared is not None and now - shared.read_at <= LIFETIME:
            return shared
        conn_id, status_map = key
        hook = TransactionlinkHook(conn_id)
        connection = await hook.alook_up()
        if shared is not None and connection == shared.connection:
            # Long waits would otherwise keep one generation of clients after another, each with connections of its own.
            shared.read_at = now
            return shared
        fresh = _Shared(hook.async_client(connection, dict(status_map)), connection, read_at=now)
        pool.clients[key] = fresh
        if shared is not None and shared.users == 0:
            await shared.client.close()
        return fresh


def forget(client: AsyncClient) -> None:
    """
    Have the next trigger read the connection again, because the service refused this client's credential. Whoever still
    uses the client closes it.
    """
    pool = _pools.get(asyncio.get_running_loop())
    if pool is not None:
        pool.clients = {key: shared for key, shared in pool.clients.items() if shared.client is not client}
