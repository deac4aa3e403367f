"""
Any number of waits at the price of one poller per event loop.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING

from tl_orchestration.errors import InvalidSettings, WaitInterrupted
from tl_orchestration.listener import listen
from tl_orchestration.models import Execution
from tl_orchestration.poller import Poller

if TYPE_CHECKING:
    from tl_orchestration.client import AsyncClient
    from tl_orchestration.hints import HintSource
    from tl_orchestration.verbs import Target
    from tl_orchestration.wait import Patience


class Watcher:
    """
    Waits for any number of executions of one client, with few requests in flight (``max_connections`` of the client's
    settings). ``AsyncClient.wait`` goes through a watcher of the client's own.

    With an inbox, it is asked once a second for all of them: a hint about an execution makes its poll immediate, and
    the other polls keep to ``Patience.safety_net``. While it cannot be read, they keep to ``Patience.pacing``.

    It may be used from several event loops: each has its own waits, pauses and limits. Between polls it keeps
    one timer and no task; without waits, neither.

    Args:
        client: Whose executions, connections and settings.
        requests_per_second: Requests of all waits together, spread evenly; None: as many as are due.
        inbox: Where webhooks arrive, such as :class:`tl_orchestration.webhooks.inbox.Inbox`; None: nowhere.

    Raises:
        InvalidSettings: ``requests_per_second`` is not above zero.
    """

    def __init__(
        self, client: AsyncClient, *, requests_per_second: float | None = None, inbox: HintSource | None = None
    ) -> None:
        if requests_per_second is not None and not requests_per_second > 0:
            raise InvalidSettings(f"requests_per_second must be greater than zero, not {requests_per_second!r}.")
        self._client = client
        self._limit = requests_per_second
        self._inbox = inbox
        # A poller without waits holds nothing of its loop, so the entry goes when the loop does.
        self._pollers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Poller] = weakref.WeakKeyDictionary()
        self._making = threading.Lock()
        self._closed = False

    async def wait(
        self, execution: Target, timeout: float | None = None, *, patience: Patience | None = None
    ) -> Execution:
        """
        As :meth:`tl_orchestration.Client.wait`. Log lines and ``on_change`` of this wait run in the caller's context.
        Cancelling the task ends this wait and no other, and leaves the execution alone.

        Raises:
            WaitInterrupted: The watcher was closed meanwhile.
            RuntimeError: It had been closed before.
            TransactionlinkError: As :meth:`tl_orchestration.Client.wait`.
        """
        if self._closed:
            raise RuntimeError("This client has been closed.")
        loop = asyncio.get_running_loop()
        poller = self._pollers.get(loop)
        if poller is None:
            poller = Poller(self._client, self._limit)
            with self._making:
                self._pollers[loop] = poller
        waiter = poller.admit(self._client._wait(execution, timeout, patience), _id_of(execution))
        if self._inbox is not None:
            listen(self._inbox, poller, self._client._metrics, self._client._clock)
        try:
            return await waiter.future
        except WaitInterrupted as error:
            raise error.about(_id_of(execution)) from None
        finally:
            poller.dismiss(waiter)

    def nudge(self, execution_id: str) -> bool:
        """
        Poll an execution at once, because somebody says that it has changed. Returns whether anybody waits for it in
        the running event loop.
        """
        poller = self._pollers.get(asyncio.get_running_loop())
        return poller is not None and poller.nudge(execution_id)

    async def close(self) -> None:
        """
        End all waits with ``WaitInterrupted``; the executions go on.
        """
        self._closed = True
        here = asyncio.get_running_loop()
        with self._making:
            pollers = list(self._pollers.items())
        for loop, poller in pollers:
            if loop is here:
                await poller.end()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(poller.interrupt)


def _id_of(target: Target) -> str:
    """
    Its name among the waits; the wait itself refuses what is no execution.
    """
    return target.id if isinstance(target, Execution) else str(getattr(target, "execution_id", target))
