"""
Executions of a quota's other campaigns that nobody follows: they are asked about, so that those that have ended hold no
share any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, select, update

from tl_orchestration.batch.campaigns import Campaign
from tl_orchestration.batch.following import ended
from tl_orchestration.batch.starting import handle_of
from tl_orchestration.batch.states import RowState
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import campaigns, rows, workers
from tl_orchestration.errors import TransactionlinkError

if TYPE_CHECKING:
    from tl_orchestration.client import AsyncClient

log = logging.getLogger(__name__)

#: Executions that are asked about at once, and in one go.
_AT_ONCE = 10
_MOST = 1000
#: Until the next poll of the same one: a share of its age, between these, seconds.
_SHARE, _SOONEST, _LATEST = 0.25, 15.0, 300.0


class Strays:
    """
    Args:
        client: Its polls pass the quota.
        campaign: Whose workers need room.
        lease: Seconds after which a silent worker follows nothing any more.
    """

    def __init__(self, client: AsyncClient, database: Database, campaign: Campaign, lease: float) -> None:
        self._client = client
        self._database = database
        self._campaign = campaign
        self._lease = lease
        self._due_at: dict[str, float] = {}

    async def release(self) -> int:
        """
        Poll those whose turn it is, and put on record which ones have ended; their results are left to their own
        campaign. One that runs, or that the service does not know by this credential, keeps its share. Returns how many
        have ended.

        Raises:
            LedgerError: The store cannot be used.
        """
        now = time.time()
        found = [
            one for one in await asyncio.to_thread(self._found, now) if self._due_at.get(one.execution_id, 0) < now
        ]
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(row: Any) -> bool:
            async with slots:
                return await self._look(row)

        return sum(await asyncio.gather(*map(one, found)))

    def holders(self) -> str:
        """
        Who has executions in flight, for a message: campaigns with their numbers, the greatest first.
        """
        query = (
            select(campaigns.c.name, func.count())
            .select_from(rows.join(campaigns, rows.c.campaign == campaigns.c.id))
            .where(self._sharing(), rows.c.state == RowState.STARTED.value)
            .group_by(campaigns.c.name)
            .order_by(func.count().desc())
            .limit(5)
        )
        with self._database.reading() as connection:
            return ", ".join(f"{count} of {name}" for name, count in connection.execute(query))

    def _found(self, now: float) -> list[Any]:
        followed = exists().where(
            workers.c.campaign == rows.c.campaign, workers.c.name == rows.c.owner, workers.c.seen_at > now - self._lease
        )
        query = (
            select(rows, campaigns.c.name)
            .select_from(rows.join(campaigns, rows.c.campaign == campaigns.c.id))
            .where(self._sharing(), rows.c.state == RowState.STARTED.value)
            .where(rows.c.campaign != self._campaign.id, ~followed)
            .order_by(rows.c.started_at)
            .limit(_MOST)
        )
        with self._database.reading() as connection:
            return list(connection.execute(query))

    async def _look(self, row: Any) -> bool:
        age = time.time() - (row.started_at or 0.0)
        self._due_at[row.execution_id] = time.time() + min(_LATEST, max(_SOONEST, _SHARE * age))
        try:
            execution = await self._client.poll(handle_of(self._client.service, row.name, row))
        except TransactionlinkError as error:
            log.debug("Row %s of campaign %s holds its share of the quota: %s", row.key, row.name, error)
            return False
        if not execution.is_terminal:
            return False
        ending = ended(execution, row.polls + 1)
        await asyncio.to_thread(
            self._record,
            row,
            {
                "ended_at": ending.at,
                "status": ending.status,
                "raw_status": ending.raw_status,
                "revision": ending.revision,
                "polls": ending.polls,
            },
        )
        del self._due_at[row.execution_id]
        return True

    def _record(self, row: Any, values: dict[str, Any]) -> None:
        same = (rows.c.campaign == row.campaign) & (rows.c.key == row.key) & (rows.c.attempt == row.attempt)
        with self._database.writing() as connection:
            connection.execute(
                update(rows)
                .where(same, rows.c.state == RowState.STARTED.value)
                .values(state=RowState.ENDED.value, owner=None, **values)
            )

    def _sharing(self) -> Any:
        return (campaigns.c.namespace == self._campaign.namespace) & (campaigns.c.quota == self._campaign.quota)


__all__ = ["Strays"]
