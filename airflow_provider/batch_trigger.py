"""
Waiting for a batch in the triggerer. The trigger starts nothing and fetches nothing: it watches what is in flight, and
wakes its task when there is something to do.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from airflow_provider.waiting_trigger import CANCEL_BUDGET, WaitingTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow_provider.events import BatchEvent
    from tl_orchestration.batch import Batch, BatchSummary

#: For how long the store may fail, and the time between two looks meanwhile, seconds.
_STORE_BUDGET = 120.0
_STORE_PAUSE = 5.0


class TransactionlinkBatchTrigger(WaitingTrigger):
    """
    Fires once, when a worker of a campaign has something to do: the in-flight limit has room again and rows are left,
    nothing of this worker is in flight any more, or a deadline has passed.

    Its arguments are kept in Airflow's database in clear, so they are names only.

    Args:
        transactionlink_conn_id: Connection, with the ledger that keeps the campaign.
        campaign: Which one.
        worker: Whose rows are watched: the task's own name in the campaign.
        cancel_on_kill: Whether to cancel what this worker has in flight when somebody ends the deferred task.
    """

    def __init__(
        self, *, transactionlink_conn_id: str, campaign: str, worker: str, cancel_on_kill: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.transactionlink_conn_id = transactionlink_conn_id
        self.campaign = campaign
        self.worker = worker
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """
        Class path and arguments, for the triggerer.
        """
        return (
            "airflow_provider.batch_trigger.TransactionlinkBatchTrigger",
            {
                "transactionlink_conn_id": self.transactionlink_conn_id,
                "campaign": self.campaign,
                "worker": self.worker,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    def _may_cancel(self) -> bool:
        return self.cancel_on_kill

    def _goes_on(self) -> bool:
        return True

    async def _end(self) -> None:
        from tl_orchestration.errors import TransactionlinkError

        # Airflow closes this log after two seconds, while the cancels go on.
        self.log.info("Somebody ended the task; what it has in flight is being cancelled.")
        try:
            async with asyncio.timeout(CANCEL_BUDGET), self._batch() as batch:
                cancelled = await batch.cancel(only_mine=True)
        except Exception as error:
            self.log.error(
                "Somebody ended the task, and not everything that it had in flight could be cancelled: %s. All of the"
                " campaign: tl batch cancel '%s'",
                str(error) if isinstance(error, TransactionlinkError) else type(error).__name__,
                self.campaign,
            )
        else:
            self.log.info("%d executions of its own were cancelled.", cancelled)

    async def _event(self) -> BatchEvent:
        from airflow_provider.events import BatchEvent
        from tl_orchestration.errors import TransactionlinkError

        try:
            await self._watch()
        except Exception as error:
            # A trigger that dies fails its task with the framework's words; an event lets the task say what to do.
            said = str(error) if isinstance(error, TransactionlinkError) else type(error).__name__
            self.log.error("Watching campaign %s failed: %s", self.campaign, said)
            return BatchEvent(
                campaign=self.campaign, error=type(error).__name__, status_code=getattr(error, "status_code", None)
            )
        return BatchEvent(campaign=self.campaign)

    async def _watch(self) -> None:
        await asyncio.to_thread(_imported)
        from airflow_provider.batch_progress import BatchProgress
        from tl_orchestration.errors import LedgerError

        progress = BatchProgress()
        now = asyncio.get_running_loop().time

        async def once(accepted: Callable[[], None]) -> None:
            read_at = now()  # the store, for the last time

            def tell(summary: BatchSummary) -> None:
                nonlocal read_at
                read_at = now()
                progress.tell(summary)
                in_flight.add(summary.in_flight)
                if len(in_flight) > 1:  # the service has told of one that it has ended
                    accepted()

            while True:
                in_flight: set[int] = set()
                try:
                    async with self._batch() as batch:
                        await batch.watch(on_progress=tell)
                    return
                except LedgerError as error:
                    if now() > read_at + _STORE_BUDGET:
                        raise
                    self.log.warning("Watching campaign %s goes on: %s", self.campaign, error)
                    await asyncio.sleep(_STORE_PAUSE)

        await self._patiently(once, f"campaign {self.campaign}")

    @contextlib.asynccontextmanager
    async def _batch(self) -> AsyncIterator[Batch]:
        from airflow_provider import shared_clients

        await asyncio.to_thread(_imported)
        from tl_orchestration.batch import Batch

        async with shared_clients.with_ledger(self.transactionlink_conn_id) as client:
            yield Batch(client, self.campaign, worker=self.worker)


def _imported() -> None:
    """
    What the first batch of a process needs takes a moment to import, in which the event loop must not stand still.
    """
    import airflow_provider.batch_progress  # noqa: F401
