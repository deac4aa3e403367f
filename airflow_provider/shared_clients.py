"""
One client for all triggers of a process with the same connection and status map, and one look-up for each connection.

A client per trigger would cost about a mebibyte and 16 ms of CPU each, and a connection look-up in a triggerer costs
four round trips to its supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from contextvars import Context
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from airflow_provider import inboxes, versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from airflow.sdk import Connection

    from tl_orchestration import AsyncClient
    from tl_orchestration.webhooks.inbox import Inbox

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


@frozen
class _Found:
    """
    What a look-up brought: the connection, and the inbox that it names.
    """

    connection: Connection
    inbox: Inbox | None


@define(eq=False)
class _Pool:
    clients: dict[_Key, _Shared] = field(factory=dict)
    look_ups: dict[str, asyncio.Task[_Found]] = field(factory=dict)
    inboxes: dict[str, Inbox | None] = field(factory=dict)


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def borrowed(conn_id: str, status_map: Mapping[str, str]) -> AsyncIterator[AsyncClient]:
    """
    The client of this loop for a connection and a status map. Once it has been replaced and nobody uses it, it is
    closed.

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


@contextlib.asynccontextmanager
async def with_ledger(conn_id: str) -> AsyncIterator[AsyncClient]:
    """
    A client with the SQL ledger of a connection, for one batch. It is not shared: few wait for a batch, each for
    thousands of executions.

    Raises:
        InvalidSettings: The connection cannot be used, or names no ledger.
    """
    from airflow_provider.hooks import TransactionlinkHook, sql_ledger

    found = await _looked_up(_pools.setdefault(asyncio.get_running_loop(), _Pool()), conn_id)
    ledger = sql_ledger(found.connection, "A batch")
    try:
        async with TransactionlinkHook.async_client(found.connection, None, found.inbox, ledger) as client:
            yield client
    finally:
        await asyncio.to_thread(ledger.close)


async def _current(pool: _Pool, key: _Key) -> _Shared:
    from airflow_provider.hooks import TransactionlinkHook

    conn_id, status_map = key
    now = asyncio.get_running_loop().time
    if (shared := pool.clients.get(key)) is not None and now() - shared.read_at <= LIFETIME:
        return shared
    found = await _looked_up(pool, conn_id)
    shared = pool.clients.get(key)  # another trigger may have made it meanwhile
    if shared is not None and versions.same_connection(found.connection, shared.connection):
        # Long waits would otherwise keep one generation of clients after another, each with connections of its own.
        shared.read_at = now()
        return shared
    client = TransactionlinkHook.async_client(found.connection, dict(status_map), found.inbox)
    fresh = _Shared(client, found.connection, read_at=now())
    pool.clients[key] = fresh
    if shared is not None and shared.users == 0:
        await shared.client.close()
    return fresh


async def inbox_of(conn_id: str) -> Inbox | None:
    """
    The inbox that a connection names; None if there is none.

    Raises:
        InvalidSettings: The connection cannot be used.
    """
    pool = _pools.setdefault(asyncio.get_running_loop(), _Pool())
    return (await _looked_up(pool, conn_id)).inbox


async def _looked_up(pool: _Pool, conn_id: str) -> _Found:
    """
    The connection, by one look-up for all who ask meanwhile. It goes on if the trigger that began it is cancelled.
    """
    task = pool.look_ups.get(conn_id)
    if task is None:
        loop = asyncio.get_running_loop()
        task = pool.look_ups[conn_id] = loop.create_task(_look_up(pool, conn_id), context=Context())
        task.add_done_callback(lambda done: _take_note(pool, conn_id, done))
    return await asyncio.shield(task)


async def _look_up(pool: _Pool, conn_id: str) -> _Found:
    from asgiref.sync import ThreadSensitiveContext

    from airflow_provider.hooks import TransactionlinkHook, inbox_url

    # Airflow asks a secrets backend in a thread, and else in the same one for all: one that is away would keep all
    # other connections waiting.
    async with ThreadSensitiveContext():
        connection = await TransactionlinkHook(conn_id).alook_up()
    url = inbox_url(connection)
    if url is None:
        return _Found(connection, None)
    if url not in pool.inboxes:
        pool.inboxes.setdefault(url, await asyncio.to_thread(inboxes.opened_if_possible, url))
    return _Found(connection, pool.inboxes[url])


def _take_note(pool: _Pool, conn_id: str, done: asyncio.Task[_Found]) -> None:
    del pool.look_ups[conn_id]
    if not done.cancelled():
        done.exception()  # whoever asked may be gone


def forget(client: AsyncClient) -> None:
    """
    Have the next trigger read the connection again, because the service refused this client's credential. Whoever still
    uses the client closes it.
    """
    pool = _pools.get(asyncio.get_running_loop())
    if pool is not None:
        pool.clients = {key: shared for key, shared in pool.clients.items() if shared.client is not client}
