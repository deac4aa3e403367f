"""
One row from its start to its ending, and its result.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define

from tl_orchestration.batch.parts import Outcome
from tl_orchestration.batch.policy import Policy
from tl_orchestration.batch.rows import Row, Update
from tl_orchestration.batch.starting import handle_of
from tl_orchestration.batch.states import WITH_RESULT, RowState, final_state
from tl_orchestration.batch.thrift import SCOUTING, Experience, Thrift
from tl_orchestration.errors import (
    InvalidAnswer,
    InvalidRequest,
    NoAnswer,
    NotFound,
    RateLimited,
    ResultNotReady,
    ServerError,
    TransactionlinkError,
    WaitTimeout,
)
from tl_orchestration.models import Execution, Handle
from tl_orchestration.result_file import encoded
from tl_orchestration.wait import Patience

if TYPE_CHECKING:
    from tl_orchestration.client import AsyncClient

log = logging.getLogger(__name__)

#: How often, and for how long, a result that cannot be read is asked for again, seconds.
_PAUSE = 30.0
_LONGEST = 900.0
#: Cancels at once: as many as a client has connections by default, for who cancels may have seconds only.
_CANCELS = 10


class _Missing(Exception):
    """
    The service has a result for others, and not for this one.
    """

    def __init__(self, error: TransactionlinkError) -> None:
        code = "" if error.status_code is None else f" ({error.status_code})"
        super().__init__(f"{type(error).__name__}{code}")


@define(kw_only=True)
class Ending:
    """
    How a row's execution has ended. ``status``: None where its deadline has passed.
    """

    status: str | None
    raw_status: str | None
    revision: str | None
    reason: str | None
    polls: int
    at: float


class Follower:
    """
    Watches executions of one campaign, and fetches their results.

    Args:
        decides: Whether it does what a passed deadline asks for; if not, whoever waits is told.
        kept: A row whose result was kept, where there is one: it tells a result that does not come from a service that
            gives none.
    """

    def __init__(
        self,
        client: AsyncClient,
        campaign: str,
        policy: Policy,
        experience: Experience,
        *,
        decides: bool = True,
        kept: Callable[[], Row | None] = lambda: None,
    ) -> None:
        self._client = client
        self._campaign = campaign
        self._policy = policy
        self._experience = experience
        self._decides = decides
        self._kept = kept
        self._good: Handle | None = None
        self._has_hints = client._watcher._inbox is not None

    def handle(self, row: Row) -> Handle:
        """
        Of a row's execution, as its index knows it.
        """
        assert row.execution_id is not None
        return handle_of(self._client.service, self._campaign, row)

    async def ending(self, handle: Handle, started_at: float) -> Ending:
        """
        Wait until an execution has ended.

        Raises:
            WaitTimeout: Its deadline has passed, and it is not for this to decide.
            NotFound: The service does not know it any more.
            TransactionlinkError: The service cannot be asked, for longer than a wait bears.
        """
        scout = None if self._has_hints else self._experience.enrol(started_at)
        took: float | None = None
        try:
            if not self._has_hints:
                await self._first_look(started_at, scout)
            pacing = Thrift(experience=self._experience, started_at=started_at, began=time.time(), scout=scout)
            patience = Patience(
                pacing=pacing,
                # Whoever only watches in a worker's place can read its credential anew.
                credential_budget=None if self._decides else 0.0,
                cancel_on_timeout=self._decides and self._policy.cancel_on_timeout,
                quiet=True,
            )
            try:
                execution = await self._client.wait(handle, patience=patience)
            except WaitTimeout as error:
                if not self._decides:
                    raise
                return Ending(
                    status=None,
                    raw_status=error.raw_status,
                    revision=None,
                    reason="WaitTimeout (cancelled)" if error.cancelled else "WaitTimeout",
                    polls=pacing.polls[0] + 1,
                    at=time.time(),
                )
            took = time.time() - started_at
            return ended(execution, pacing.polls[0] + 1)
        finally:
            if scout is not None:
                self._experience.learn(scout, took)

    async def _first_look(self, started_at: float, scout: int | None) -> None:
        while True:
            now = time.time()
            age = max(0.0, now - started_at)
            due = SCOUTING.floor if scout is not None else self._experience.next_look(0.0, now)
            if age >= due:
                return
            await asyncio.sleep(min(due - age, max(1.0, age / 4)))  # what is known may have changed meanwhile

    async def cancel(self, rows: Sequence[Row]) -> int:
        """
        Cancel the executions of rows, a few at once. Returns how many cancels the service has accepted; the others are
        logged.
        """
        slots = asyncio.Semaphore(_CANCELS)

        async def one(row: Row) -> bool:
            async with slots:
                try:
                    await self._client.cancel(self.handle(row))
                except TransactionlinkError as error:
                    log.warning("Row %s: %s", row.key, error)
                    return error.cancel_accepted
                return True

        return sum(await asyncio.gather(*map(one, rows)))

    async def outcome(self, row: Row, ending: Ending) -> Outcome:
        """
        What is kept of a row, with its result; ``RESULT_MISSING`` where the service gives those of others only.

        Raises:
            TransactionlinkError: The service gives no results, for longer than an outcome can wait.
        """
        state, result, reason = final_state(ending.status), None, ending.reason or row.reason
        if self._policy.results and state in WITH_RESULT:
            try:
                result = await self._result(self.handle(row))
            except _Missing as missing:
                state, reason = RowState.RESULT_MISSING, str(missing)
                log.error("Row %s: the result of execution %s is missing: %s", row.key, row.execution_id, reason)
        values = {
            "execution_id": row.execution_id,
            "started_at": row.started_at,
            "ended_at": ending.at,
            "status": ending.status,
            "raw_status": ending.raw_status,
            "revision": ending.revision,
            "reason": reason,
            "polls": ending.polls,
        }
        line = {
            "key": row.key,
            "attempt": row.attempt,
            "state": state.value,
            "execution_id": row.execution_id,
            "raw_status": ending.raw_status,
            "revision": ending.revision,
            "reason": reason,
            "started_at": row.started_at,
            "ended_at": ending.at,
        }
        return Outcome(key=row.key, attempt=row.attempt, state=state, values=values, line=line, result=result)

    async def _result(self, handle: Handle) -> bytes:
        ends = time.monotonic() + _LONGEST
        while True:
            try:
                document: dict[str, Any] = await self._client.result(handle)
                content = encoded(document)
            except (NotFound, InvalidAnswer, InvalidRequest) as error:
                raise _Missing(error) from None
            except (NoAnswer, ServerError, RateLimited, ResultNotReady) as error:
                if time.monotonic() > ends:
                    if await self._gives_others(handle):
                        raise _Missing(error) from None
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                self._good = handle
                return content

    async def _gives_others(self, handle: Handle) -> bool:
        """
        Whether the service gives, at this moment, a result that it has given before.
        """
        if self._good is None:
            row = await asyncio.to_thread(self._kept)
            self._good = None if row is None else self.handle(row)
        if self._good is None or self._good.execution_id == handle.execution_id:
            return False
        try:
            await self._client.result(self._good)
        except TransactionlinkError:
            return False
        return True


def ended(execution: Execution, polls: int) -> Ending:
    """
    The ending that an answer tells.
    """
    return Ending(
        status=execution.status.value,
        raw_status=execution.raw_status,
        revision=execution.revision,
        reason=None,
        polls=polls,
        at=time.time(),
    )


def as_ended(row: Row, ending: Ending) -> Update:
    """
    The ending on its way to the store.
    """
    values = {
        "ended_at": ending.at,
        "status": ending.status,
        "raw_status": ending.raw_status,
        "revision": ending.revision,
        "reason": ending.reason or row.reason,
        "polls": ending.polls,
    }
    return Update(key=row.key, attempt=row.attempt, state=RowState.ENDED, values=values)


def of_row(row: Row) -> Ending:
    """
    The ending that a row's index has on record.
    """
    return Ending(
        status=row.status,
        raw_status=row.raw_status,
        revision=row.revision,
        reason=row.reason,
        polls=row.polls,
        at=row.ended_at or time.time(),
    )


__all__ = ["Ending", "Follower", "as_ended", "ended", "of_row"]
