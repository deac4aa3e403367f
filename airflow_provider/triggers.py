"""
Waiting in the triggerer. A trigger polls and reports. It never starts an execution, and cancels its task's own only
when somebody has ended the deferred task.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider import versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from airflow_provider.events import WaitEvent
    from tl_orchestration import AsyncClient, Execution, Handle, Patience

#: Seconds between two looks at a connection whose credential is refused, and for how long that is forgiven: a rotated
#: token must not kill what waits.
_CREDENTIAL_PAUSE = 15.0
_CREDENTIAL_BUDGET = 900.0
#: Seconds for a cancel; after 30 (``[triggerer] on_kill_timeout``) Airflow would end it without a word.
CANCEL_BUDGET = 25.0


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """
    Await what a trigger does when it is told to stop. Airflow cancels it again and again meanwhile, about once a
    second.
    """
    from tl_orchestration.finishing import CancelledLate, finished

    with contextlib.suppress(CancelledLate):
        await finished(asyncio.ensure_future(work))


class Forbearance:
    """
    For how long a wait in the running event loop bears that its credential is refused.
    """

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._gives_up = self._began + _CREDENTIAL_BUDGET

    def is_over(self) -> bool:
        """
        Asked at each refusal.
        """
        if self._now() - self._began > _CREDENTIAL_PAUSE:  # it has worked since: this is another refusal
            self._gives_up = self._now() + _CREDENTIAL_BUDGET
        return self._now() > self._gives_up

    async def pause(self) -> None:
        """
        Until the next attempt.
        """
        await asyncio.sleep(_CREDENTIAL_PAUSE)
        self._began = self._now()


class TransactionlinkExecutionTrigger(BaseTrigger):
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

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """
        Wait, report, return: code after the event would run into Airflow's cancellation.
        """
        try:
            payload = (await self._event()).to_dict()
        except asyncio.CancelledError:
            if not versions.HAS_TRIGGER_ON_KILL:
                await self.on_kill()
            raise
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]  # Airflow's

    async def on_kill(self) -> None:
        """
        Called when Airflow no longer wants this trigger, which is not always somebody's decision: up to 3.3 also when
        another triggerer has taken it over. So the state of the task decides; without an answer, nothing is cancelled.
        """
        if self.cancel_on_kill and self.owned:
            await to_its_end(self._end())

    async def _end(self) -> None:
        from airflow_provider import decisions, shared_clients
        from tl_orchestration.errors import TransactionlinkError

        if not await decisions.deferred_task_was_ended(self.task_instance, durable=self.durable):
            return
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
        """
        Wait, and begin again with the connection read anew where it cannot be read or its credential is refused.
        """
        from airflow_provider import decisions, inboxes
        from tl_orchestration import Pacing, Patience
        from tl_orchestration.errors import AuthenticationError, InvalidSettings, PermissionDenied

        if self.cancel_on_kill:
            await decisions.make_ready(self.task_instance)
        fixed = None if self.poll_interval is None else Pacing.every(self.poll_interval)
        patience = Patience(
            pacing=fixed or Pacing(),
            safety_net=fixed or inboxes.safety_net(),
            cancel_on_timeout=False,
            credential_budget=0.0,
        )
        bearable = Forbearance()
        while True:
            try:
                return await self._wait_once(patience)
            except (AuthenticationError, PermissionDenied, InvalidSettings) as error:
                if bearable.is_over():
                    raise
                self.log.warning("Waiting for execution %s goes on: %s", self.execution_id, error)
                await bearable.pause()

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
