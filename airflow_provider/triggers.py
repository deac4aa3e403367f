"""
Waiting in the triggerer. A trigger polls and reports; it never starts and never cancels an execution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TransactionlinkExecutionTrigger(BaseTrigger):
    """
    Fires once, when an execution has ended or its deadline has passed.

    Its arguments are kept in Airflow's database in clear, so they are ids and times only.

    Args:
        transactionlink_conn_id: Connection to poll with.
        execution_id: What to wait for.
        deadline: When to give up, epoch seconds; None: when the execution expires.
        expires_at: When the service ends the execution, epoch seconds, if known.
        poll_interval: Fixed interval between polls, seconds; None: one that grows with the time waited.
        status_map: Status words that the task teaches.
        owned: Whether the task started it; a fresh id may be unknown to the service for a moment.
    """

    def __init__(
        self,
        *,
        transactionlink_conn_id: str,
        execution_id: str,
        deadline: float | None = None,
        expires_at: float | None = None,
        poll_interval: float | None = None,
        status_map: dict[str, str] | None = None,
        owned: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.transactionlink_conn_id = transactionlink_conn_id
        self.execution_id = execution_id
        self.deadline = deadline
        self.expires_at = expires_at
        self.poll_interval = poll_interval
        self.status_map = status_map or {}
        self.owned = owned

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """
        Class path and arguments, for the triggerer.
        """
        return (
            "airflow_provider.triggers.TransactionlinkExecutionTrigger",
            {
                "transactionlink_conn_id": self.transactionlink_conn_id,
                "execution_id": self.execution_id,
                "deadline": self.deadline,
                "expires_at": self.expires_at,
                "poll_interval": self.poll_interval,
                "status_map": self.status_map,
                "owned": self.owned,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """
        Wait, report, return: code after the event would run into Airflow's cancellation.
        """
        payload = (await self._wait()).to_dict()
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]  # Airflow's

    async def _wait(self) -> Any:
        from airflow_provider import shared_clients
        from airflow_provider.events import Ending, WaitEvent
        from tl_orchestration import Handle, Pacing, Patience
        from tl_orchestration.errors import (
            AuthenticationError,
            PermissionDenied,
            TransactionlinkError,
            WaitTimeout,
        )

        handle = Handle(
            execution_id=self.execution_id, deadline=self.deadline, expires_at=self.expires_at, owned=self.owned
        )
        pacing = Pacing() if self.poll_interval is None else Pacing.every(self.poll_interval)
        try:
            async with shared_clients.borrowed(self.transactionlink_conn_id, self.status_map) as client:
                patience = Patience(pacing=pacing, cancel_on_timeout=False)
                execution = await client.wait(handle, patience=patience)
        except WaitTimeout as error:
            return WaitEvent(ending=Ending.DEADLINE, execution_id=self.execution_id, raw_status=error.raw_status)
        except TransactionlinkError as error:
            if isinstance(error, AuthenticationError | PermissionDenied):
                shared_clients.forget(self.transactionlink_conn_id)
            self.log.error("Waiting for execution %s failed: %s", self.execution_id, error)
            return WaitEvent(
                ending=Ending.FAILED,
                execution_id=self.execution_id,
                error=type(error).__name__,
                status_code=error.status_code,
            )
        return WaitEvent(ending=Ending.ENDED, execution_id=execution.id, raw_status=execution.raw_status)
