"""
Waiting in the triggerer. A trigger polls and reports. It never starts an execution, and cancels its task's own only
when somebody has ended the deferred task.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_provider.waiting_trigger import CANCEL_BUDGET, WaitingTrigger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from airflow_provider.events import WaitEvent
    from tl_orchestration import AsyncClient, Execution, Handle, Patience


class TransactionlinkExecutionTrigger(WaitingTrigger):
    """
    Fires once, when an execution has ended or its deadline has passed.

    Its arguments are kept in Airflow's database in clear, so they are ids and times only.

    Args:
        transactionlink_conn_id: Connection to poll with.
        execution_id: What to wait for.
        deadline: When to give up, epoch seconds; None: when the execution expires.
        expires_at: When the service ends the execution, epoch seconds, if known.
        poll_interval: Fixed interval between polls, seconds; None: one that grows with the time waited, or, while the
            connection has an inbox of webhooks that can be read, a slow one.
        status_map: Status words that the task teaches.
        owned: Whether the task started it; a fresh id may be unknown to the service for a moment.
        service: Which API it lives in; None: the connection's.
        api_version: The version of the API that it was started with, where the service has several.
        cancel_on_kill: Whether to cancel the execution when somebody ends the deferred task.
        durable: Whether a cleared task finds what it has started: its next try then cancels it, and not this trigger.
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
        service: str | None = "transactionlink",
        api_version: int | None = None,
        cancel_on_kill: bool = False,
        durable: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.transactionlink_conn_id = transactionlink_conn_id
        self.execution_id = execution_id
        self.deadline = deadline
        self.expires_at = expires_at
        self.poll_interval = poll_interval
        self.status_map = status_map or {}
        self.owned = owned
        self.service = service
        self.api_version = api_version
        self.cancel_on_kill = cancel_on_kill
        self.durable = durable

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """
        Class path and arguments, for the triggerer. Those that came after the first release are left out where they say
        nothing, so that a triggerer of that release can still load them.
        """
        later: dict[str, Any] = {} if self.service == "transactionlink" else {"service": self.service}
        if self.api_version is not None:
            later["api_version"] = self.api_version
        if self.cancel_on_kill:
            later |= {"cancel_on_kill": True, "durable": self.durable}
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
                **later,
            },
        )

    def _may_cancel(self) -> bool:
        return self.cancel_on_kill and self.owned

    def _durable(self) -> bool:
        return self.durable

    async def _end(self) -> None:
        from airflow_provider import shared_clients
        from tl_orchestration.errors import TransactionlinkError

        try:
            async with (
                asyncio.timeout(CANCEL_BUDGET),
                shared_clients.borrowed(self.transactionlink_conn_id, self.status_map) as client,
            ):
                await client.cancel(self._handle(client))
        except Exception as error:
            accepted = isinstance(error, TransactionlinkError) and error.cancel_accepted
            said = str(error) if isinstance(error, TransactionlinkError) else type(error).__name__
            self.log.error(
                "Somebody ended the task, but execution %s %s: %s. If it runs: tl cancel %s",
                self.execution_id,
                "was asked to end and could not be looked at since" if accepted else "could not be cancelled",
                said,
                self.execution_id,
            )
        else:
            self.log.info("Somebody ended the task; execution %s was cancelled.", self.execution_id)

    async def _event(self) -> WaitEvent:
        from airflow_provider.events import Ending, WaitEvent
        from tl_orchestration.errors import TransactionlinkError, WaitTimeout

        def event(ending: Ending, **facts: Any) -> WaitEvent:
            return WaitEvent(
                ending=ending,
                execution_id=self.execution_id,
                deadline=self.deadline,
                expires_at=self.expires_at,
                service=self.service or "transactionlink",  # whose task knows none needs none
                api_version=self.api_version,
                **facts,
            )

        try:
            execution = await self._wait()
        except WaitTimeout as error:
            return event(Ending.DEADLINE, raw_status=error.raw_status)
        except Exception as error:
            # A trigger that dies fails its task with the framework's words; an event lets the task say what to do.
            said = str(error) if isinstance(error, TransactionlinkError) else type(error).__name__
            self.log.error("Waiting for execution %s failed: %s", self.execution_id, said)
            return event(Ending.FAILED, error=type(error).__name__, status_code=getattr(error, "status_code", None))
        return event(Ending.ENDED, raw_status=execution.raw_status)

    async def _wait(self) -> Execution:
        from airflow_provider import inboxes
        from tl_orchestration import Pacing, Patience
        from tl_orchestration.wait import EXPIRY_GRACE

        fixed = None if self.poll_interval is None else Pacing.every(self.poll_interval)

        def once(accepted: Callable[[], None]) -> Awaitable[Execution]:
            patience = Patience(
                pacing=fixed or Pacing(),
                safety_net=fixed or inboxes.safety_net(),
                cancel_on_timeout=False,
                credential_budget=0.0,
                on_change=lambda _: accepted(),  # the first poll that is answered is a change
            )
            return self._wait_once(patience)

        limits = [self.deadline, None if self.expires_at is None else self.expires_at + EXPIRY_GRACE]
        ends = min((limit for limit in limits if limit is not None), default=None)
        return await self._patiently(once, f"execution {self.execution_id}", ends)

    def _handle(self, client: AsyncClient) -> Handle:
        from tl_orchestration import Handle

        return Handle(
            execution_id=self.execution_id,
            service=self.service or client.service,
            deadline=self.deadline,
            expires_at=self.expires_at,
            owned=self.owned,
            api_version=self.api_version,
        )

    async def _wait_once(self, patience: Patience) -> Execution:
        from airflow_provider import shared_clients
        from tl_orchestration.errors import AuthenticationError, PermissionDenied

        async with shared_clients.borrowed(self.transactionlink_conn_id, self.status_map) as client:
            try:
                return await client.wait(self._handle(client), patience=patience)
            except (AuthenticationError, PermissionDenied):
                shared_clients.forget(client)
                raise
