"""
From the inbox to the poller: what was announced about executions that somebody waits for in this event loop.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from tl_orchestration.errors import LedgerError

if TYPE_CHECKING:
    from tl_orchestration.exchange import Clock
    from tl_orchestration.hints import Cursor, HintSource
    from tl_orchestration.observer import Metrics
    from tl_orchestration.poller import Poller

log = logging.getLogger(__name__)

#: How often the inbox is asked, and how often it is told to forget what is old, seconds.
INTERVAL = 1.0
PURGE_INTERVAL = 600.0
#: Longest time for one look, seconds; an inbox that takes longer counts as one that cannot be read.
LONGEST_LOOK = 10.0


def listen(source: HintSource, poller: Poller, metrics: Metrics, clock: Clock) -> None:
    """
    Nudge a poller with what arrives from now on, until nobody waits there any more. Calling it again while it listens
    does nothing.
    """
    poller.listen(lambda: _listen(source, poller, metrics, clock))


async def _listen(source: HintSource, poller: Poller, metrics: Metrics, clock: Clock) -> None:
    cursor: Cursor | None = None
    failing = False
    purge_at = asyncio.get_running_loop().time() + PURGE_INTERVAL
    while True:
        old = cursor is None  # what arrived before anybody listened has waited for its reader
        try:
            async with asyncio.timeout(LONGEST_LOOK):
                if cursor is None:
                    cursor = await source.astart()
                hints, cursor = await source.asince(cursor)
        except Exception as error:  # whatever it is: without hints, waits have to poll as if there were no inbox
            said = str(error) if isinstance(error, LedgerError) else type(error).__name__
            log.log(logging.DEBUG if failing else logging.WARNING, "The inbox of webhooks cannot be read: %s", said)
            failing = True
            poller.hear(well=False)
        else:
            if failing:
                log.info("The inbox of webhooks can be read again.")
            poller.hear(well=True)
            awaited = {one for one in {hint.execution_id for hint in hints} if poller.nudge(one)}
            for hint in hints:
                if hint.execution_id in awaited and not (old or failing):
                    metrics.heard(clock.now() - hint.received_at)
            failing = False
        await asyncio.sleep(INTERVAL)
        if asyncio.get_running_loop().time() >= purge_at:
            purge_at += PURGE_INTERVAL
            await _purge(source)


async def _purge(source: HintSource) -> None:
    try:
        async with asyncio.timeout(LONGEST_LOOK):
            await source.apurge()
    except Exception as error:  # a reader need not have the right; `tl webhooks purge` does it as well
        log.debug("The inbox of webhooks was not purged: %s", error)


__all__ = ["listen"]
