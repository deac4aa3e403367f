"""
From the inbox to the poller: what was announced about executions that somebody waits for in this event loop.
"""

from __future__ import annotations

import asyncio
import logging

from tl_orchestration.errors import LedgerError
from tl_orchestration.hints import Cursor, HintSource
from tl_orchestration.poller import Poller

log = logging.getLogger(__name__)

#: How often the inbox is asked, and how often it is told to forget what is old, seconds.
INTERVAL = 1.0
PURGE_INTERVAL = 600.0


def listen(source: HintSource, poller: Poller) -> None:
    """
    Nudge a poller with what arrives from now on, until nobody waits there any more. Calling it again while it listens
    does nothing.
    """
    poller.listen(lambda: _listen(source, poller))


async def _listen(source: HintSource, poller: Poller) -> None:
    cursor: Cursor | None = None
    failing = False
    purge_at = asyncio.get_running_loop().time() + PURGE_INTERVAL
    while True:
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
        if asyncio.get_running_loop().time() >= purge_at:
            purge_at += PURGE_INTERVAL
            await _purge(source)


async def _purge(source: HintSource) -> None:
    try:
        await source.apurge()
    except LedgerError as error:  # a reader need not have the right; `tl webhooks purge` does it as well
        log.debug("The inbox of webhooks was not purged: %s", error)


__all__ = ["listen"]
