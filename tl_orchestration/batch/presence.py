"""
That a worker lives, on record: others take up what a silent one has left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from tl_orchestration.batch.rows import Rows
from tl_orchestration.errors import LedgerError

if TYPE_CHECKING:
    from tl_orchestration.batch.throttle import ThrottledWire

log = logging.getLogger(__name__)

#: How often a worker says that it lives, seconds.
BEAT = 5.0


class Presence:
    """
    One worker's.

    Args:
        wire: Whose requests go on record beside it.
    """

    def __init__(self, rows: Rows, wire: ThrottledWire) -> None:
        self._rows = rows
        self._wire = wire
        self._writing = asyncio.Lock()
        self._has_left = False

    async def keep(self) -> None:
        """
        Say so until this is cancelled, however long anything else takes.
        """
        while True:
            try:
                await self.beat()
            except LedgerError as error:
                log.debug("This worker could not say that it lives: %s", error)
            await asyncio.sleep(BEAT)

    async def beat(self) -> None:
        """
        Say so once, unless it has left, and which requests it has sent.

        Raises:
            LedgerError: It is not on record; the next one makes up for it.
        """
        async with self._writing:
            spent, self._wire.spent = self._wire.spent, type(self._wire.spent)()
            try:
                await asyncio.to_thread(self._rows.beat, None if self._has_left else time.time(), spent)
            except BaseException:
                self._wire.spent += spent
                raise

    async def leave_to_others(self) -> bool:
        """
        Leave, if another worker lives; from then on this one does not say any more that it does.

        Raises:
            LedgerError: The store cannot be used.
        """
        async with self._writing:
            self._has_left = await asyncio.to_thread(self._rows.leave_to_others, time.time())
        return self._has_left


__all__ = ["BEAT", "Presence"]
