"""
From the inbox to the poller: what was announced about executions that somebody waits for in this event loop.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context

from tl_orchestration.errors import LedgerError
from tl_orchestration.hints import Cursor, HintSource
from tl_orchestration.poller import Poller

log = logging.getLogger(__name__)

#: How often the inbox is asked, seconds.
INTERVAL = 1.0


def listen(source: HintSource, poller: Poller) -> None:
    """
    Nudge a poller with what arrives from now on, until nobody waits there any more. Calling it again while it listens
    does nothing.
    """
    if poller.listening is None:
        task = asyncio.get_running_loop().create_task(_listen(source, poller), context=Context())
        poller.listening = task
        task.add_done_callback(lambda _: setattr(poller, "listening", None), context=Context())


async def _listen(source: HintSource, poller: Poller) -> None:
    cursor: Cursor | None = None
    failing = False
    while not poller.is_idle:
        try:
            if cursor is None:
                cursor = await source.astart()
            hints, cursor = await source.asince(cursor)
        except LedgerError as error:
            # The safety net of polls holds meanwhile.
            log.log(logging.DEBUG if failing else logging.WARNING, "The inbox of webhooks cannot be read: %s", error)
            failing = True
        else:
            failing = False
            for execution_id in {hint.execution_id for hint in hints}:
                poller.nudge(execution_id)
        await asyncio.sleep(INTERVAL)


__all__ = ["listen"]
