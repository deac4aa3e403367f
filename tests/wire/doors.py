"""
Both clients behind one door, so that one test body proves that they do the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from tests.remote import TOKEN
from tl_orchestration import AsyncClient, Client, Execution, Handle, OrganizationToken, Patience, RunRequest, Step
from tl_orchestration.credentials import Credentials
from tl_orchestration.delivery import OnLink
from tl_orchestration.ledger import Entry, Ledger
from tl_orchestration.pacing import Pacing
from tl_orchestration.retry import RetryPolicy

T = TypeVar("T")
Target = Execution | Handle | str

#: Retries without long sleeps, polls without long pauses.
QUICK_RETRY = RetryPolicy(base=0.01, cap=0.02)
QUICK = Patience(pacing=Pacing.every(0.02))


class Door(Protocol):
    """
    The verbs of a client, called as ordinary functions.
    """

    def run(
        self,
        request: RunRequest,
        key: str | Step | None = None,
        *,
        timeout: float | None = None,
        on_link: OnLink | None = None,
    ) -> Execution: ...
    def poll(self, execution: Target) -> Execution: ...
    def wait(
        self, execution: Target, timeout: float | None = None, *, patience: Patience | None = None
    ) -> Execution: ...
    def result(self, execution: Target) -> dict[str, Any]: ...
    def cancel(self, execution: Target) -> Execution: ...
    def check(self) -> None: ...
    def close(self) -> None: ...


class AsyncDoor:
    """
    The asynchronous client, with an event loop of its own.
    """

    def __init__(self, credentials: Credentials, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(credentials, url, **options)

    def run(
        self,
        request: RunRequest,
        key: str | Step | None = None,
        *,
        timeout: float | None = None,
        on_link: OnLink | None = None,
    ) -> Execution:
        return self._await(self._client.run(request, key, timeout=timeout, on_link=on_link))

    def poll(self, execution: Target) -> Execution:
        return self._await(self._client.poll(execution))

    def wait(self, execution: Target, timeout: float | None = None, *, patience: Patience | None = None) -> Execution:
        return self._await(self._client.wait(execution, timeout, patience=patience or QUICK))

    def result(self, execution: Target) -> dict[str, Any]:
        return self._await(self._client.result(execution))

    def cancel(self, execution: Target) -> Execution:
        return self._await(self._client.cancel(execution))

    def check(self) -> None:
        self._await(self._client.check())

    def close(self) -> None:
        self._await(self._client.close())
        self._runner.close()

    def _await(self, verb: Awaitable[T]) -> T:
        async def call() -> T:
            return await verb

        return self._runner.run(call())


class SyncDoor(Client):
    """
    The synchronous client, with quick polls where none are named.
    """

    def wait(
        self, execution: Target, timeout: float | None = None, *, patience: Patience | None = None, **more: Any
    ) -> Execution:
        return super().wait(execution, timeout, patience=patience or QUICK, **more)


def stored(client: Any, key: str) -> Entry | None:
    """
    What the client's ledger holds of a key.
    """
    ledger: Ledger = getattr(client, "_client", client).ledger
    return ledger.read(key)


def door(kind: str, url: str, token: str | Credentials = TOKEN, **options: Any) -> Door:
    """
    A client of that kind.
    """
    credentials = OrganizationToken(token) if isinstance(token, str) else token
    chosen = {"retry": QUICK_RETRY, **options}
    return SyncDoor(credentials, url, **chosen) if kind == "sync" else AsyncDoor(credentials, url, **chosen)
