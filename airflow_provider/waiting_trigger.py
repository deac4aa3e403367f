"""
What all triggers do whose task waits: one event, the end of what somebody has ended, and patience with a credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider import versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

#: Seconds between two looks at a connection whose credential is refused, and for how long that is forgiven: a rotated
#: token must not kill what waits.
_CREDENTIAL_PAUSE = 15.0
_CREDENTIAL_BUDGET = 900.0
#: Shortest time from the trigger's start to its event, seconds. The scheduler may hear that the worker's process has
#: ended only after it has queued the task again, takes that for the end of the task, and fails it with "finished with
#: state success, but the task instance's state attribute is queued" (apache/airflow#67287, #72716).
DWELL = 3.0
#: Seconds for a cancel; after 30 (``[triggerer] on_kill_timeout``) Airflow would end it without a word.
CANCEL_BUDGET = 25.0


class Payload(Protocol):
    """
    What a trigger reports.
    """

    def to_dict(self) -> dict[str, Any]:
        """
        As Airflow keeps it.
        """


class WaitingTrigger(BaseTrigger):
    """
    Fires once, with what :meth:`_event` returns.
    """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """
        Wait, report, return: code after the event would run into Airflow's cancellation.
        """
        now = asyncio.get_running_loop().time
        may_fire = now() + DWELL
        try:
            payload = (await self._event()).to_dict()
            await asyncio.sleep(may_fire - now())
        except asyncio.CancelledError:
            if not versions.HAS_TRIGGER_ON_KILL:
                await self.on_kill()
            raise
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]  # Airflow's

    async def on_kill(self) -> None:
        """
        Called when Airflow no longer wants this trigger, which is not always somebody's decision: up to 3.3 also when
        another triggerer has taken it over. So the state of the task decides; without an answer, nothing is cancelled.
        From 3.4 on it is asked only where a clear, which is a decision too, must end nothing.

        Airflow cancels this again and again meanwhile, about once a second.
        """
        from airflow_provider import decisions
        from tl_orchestration.finishing import CancelledLate, finished

        async def end() -> None:
            ti, durable, goes_on = self.task_instance, self._durable(), self._goes_on()
            if await decisions.deferred_task_was_ended(ti, durable=durable, goes_on=goes_on):
                await self._end()

        if self._may_cancel():
            with contextlib.suppress(CancelledLate):
                await finished(asyncio.ensure_future(end()))

    def _durable(self) -> bool:
        """
        Whether a cleared task finds by itself what it has started.
        """
        return True

    def _goes_on(self) -> bool:
        """
        Whether a cleared task goes on with what it has started, so that only another decision ends that.
        """
        return False

    @abstractmethod
    def _may_cancel(self) -> bool:
        """
        Whether a decision about the task ends what it waits for.
        """

    @abstractmethod
    async def _end(self) -> None:
        """
        Cancel what the task waits for; somebody has ended it.
        """

    @abstractmethod
    async def _event(self) -> Payload:
        """
        Wait.
        """

    async def _patiently(
        self, wait: Callable[[Callable[[], None]], Awaitable[T]], what: str, ends: float | None = None
    ) -> T:
        """
        Wait, and begin again with the connection read anew where it cannot be read or its credential is refused.

        Args:
            wait: Gets a function to call once the credential was accepted: what is refused later is another refusal.
            what: Is waited for, for the log.
            ends: When the deadline of that passes, epoch seconds.

        Raises:
            WaitTimeout: The deadline has passed, with the credential still refused.
        """
        from airflow_provider import decisions
        from tl_orchestration.errors import AuthenticationError, InvalidSettings, PermissionDenied, WaitTimeout

        if self._may_cancel():
            await decisions.make_ready(self.task_instance, goes_on=self._goes_on())
        now = asyncio.get_running_loop().time
        gives_up: float | None = None

        def accepted() -> None:
            nonlocal gives_up
            gives_up = None

        while True:
            try:
                return await wait(accepted)
            except (AuthenticationError, PermissionDenied, InvalidSettings) as error:
                left = math.inf if ends is None else ends - time.time()
                if left <= 0:
                    raise WaitTimeout(f"The deadline of {what} has passed: {error}") from error
                gives_up = now() + _CREDENTIAL_BUDGET if gives_up is None else gives_up
                if now() > gives_up:
                    raise
                self.log.warning("Waiting for %s goes on: %s", what, error)
                await asyncio.sleep(min(_CREDENTIAL_PAUSE, left))


__all__ = ["CANCEL_BUDGET", "DWELL", "WaitingTrigger"]
