"""
One row's start through the start protocol, and what its failure means for the row, the breaker and the worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from tl_orchestration.batch.breaker import Admission, Breaker
from tl_orchestration.batch.policy import Policy
from tl_orchestration.batch.rows import Row, Update
from tl_orchestration.batch.states import RowState
from tl_orchestration.claim import may_be_starting, settle_window
from tl_orchestration.errors import (
    InvalidAnswer,
    InvalidRequest,
    KeyPurged,
    LedgerError,
    NoAnswer,
    NotFound,
    RateLimited,
    RequestChanged,
    ServerError,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.ledger.entry import State
from tl_orchestration.ledger.sql import SqlLedger
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.pacing import LONGEST_PAUSE
from tl_orchestration.start import Step

if TYPE_CHECKING:
    from tl_orchestration.client import AsyncClient

log = logging.getLogger(__name__)

#: Seconds after which a start that was not sent is tried again.
_AGAIN = 15.0
#: Kinds of refusals that a worker's log tells of.
_MOST_TOLD = 20
#: Ledger states in which a row has an execution.
_WITH_EXECUTION = frozenset({State.STARTED, State.LINK_DELIVERED, State.CANCEL_REQUESTED, State.SETTLED})
#: A row's reason where it has started with another record than the source has now.
CHANGED = "RequestChanged"


@frozen
class Started:
    """
    An execution runs, or has ended; ``changed``: for another record than the source has now.
    """

    execution: Execution
    at: float
    changed: bool = False


@frozen
class Refused:
    """
    The row has come to an end without one.
    """

    update: Update


@frozen
class PutBack:
    """
    Nothing is known to have happened; worth another try from a time on (epoch seconds).
    """

    due_at: float


class Starter:
    """
    Starts rows of one campaign.

    Args:
        client: With the ledger that keeps the keys.
        campaign: Its name.
    """

    def __init__(self, client: AsyncClient, ledger: SqlLedger, campaign: str, policy: Policy, breaker: Breaker) -> None:
        self._client = client
        self._ledger = ledger
        self._campaign = campaign
        self._policy = policy
        self._breaker = breaker
        self._told: set[str] = set()

    async def start(self, row: Row, request: RunRequest) -> Started | Refused | PutBack:
        """
        Start a row's execution, or find the one that it has started.

        Raises:
            TransactionlinkError: Something is wrong that other rows would meet as well. Nothing was started.
        """
        async with self._breaker.turn() as admission:
            if not admission.granted:
                return PutBack(0.0)
            return await self._start(row, request, admission)

    async def _start(self, row: Row, request: RunRequest, admission: Admission) -> Started | Refused | PutBack:
        step = Step(
            key=ledger_key(self._campaign, row.key),
            generation=str(row.attempt),
            on_unknown_start="restart" if row.restart else "fail",
            correlation_parameter=self._policy.correlation_parameter,
        )
        try:
            execution, changed = await self._run(request, step)
        except (StartOutcomeUnknown, InvalidRequest, KeyPurged, NotFound) as error:
            return await self._ended(row, error)
        except RateLimited as error:
            admission.pause = error.retry_after
            return PutBack(time.time() + min(error.retry_after or _AGAIN, LONGEST_PAUSE))
        except (NoAnswer, ServerError, InvalidAnswer) as error:
            # Nothing was sent, or an execution that was found could not be asked how it stands.
            log.warning("Row %s is tried again later: %s", row.key, error)
            if not (isinstance(error, NoAnswer) and error.overdue):
                await self._breaker.failed()
            return PutBack(time.time() + _AGAIN)
        except LedgerError as error:
            return await self._delayed(row, step, error)
        await self._breaker.answered()
        return Started(execution, time.time(), changed)

    async def _run(self, request: RunRequest, step: Step) -> tuple[Execution, bool]:
        try:
            return await self._client.run(request, step, timeout=self._policy.timeout), False
        except RequestChanged:
            again = evolve(step, on_changed_request="reattach")
            return await self._client.run(request, again, timeout=self._policy.timeout), True
        except LedgerError:
            # A purged campaign of the same name has had the row tried again: what it has started is gone on with.
            entry = await asyncio.to_thread(self._ledger.read, step.key)
            if entry is None or step.generation not in entry.past or entry.state not in _WITH_EXECUTION:
                raise
            return await self._run(request, evolve(step, generation=entry.generation))

    async def _ended(self, row: Row, error: TransactionlinkError) -> Refused:
        """
        What is the row's end.

        Raises:
            NotFound: There is no such definition.
        """
        name = type(error).__name__
        match error:
            case StartOutcomeUnknown():
                log.error("Row %s: %s", row.key, error)
                if error.__cause__ is not None:  # this start's own failure, not what an earlier one has left
                    await self._breaker.failed()
                return _refused(row, RowState.UNKNOWN, error.execution_id, name)
            case NotFound():
                if error.execution_id is None:
                    raise error
                return _refused(row, RowState.UNKNOWN, error.execution_id, name)
            case InvalidRequest(status_code=None):  # found before anything was sent; such a text shows no value
                self._tell_once(row, error)
                return _refused(row, RowState.REJECTED, None, f"{name}: {error.message}")
            case InvalidRequest():
                await self._breaker.answered()
                codes = f" ({', '.join(error.codes)})" if error.codes else ""
                return _refused(row, RowState.REJECTED, None, f"{name}{codes}")
        return _refused(row, RowState.REJECTED, None, name)

    def _tell_once(self, row: Row, error: TransactionlinkError) -> None:
        if error.message not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(error.message)
            log.warning("Row %s cannot be started, nor can others like it: %s", row.key, error)

    async def _delayed(self, row: Row, step: Step, error: LedgerError) -> PutBack | Refused:
        """
        Another process may be at this row just now, or was when it died.

        Raises:
            LedgerError: It is something else.
        """
        entry = await asyncio.to_thread(self._ledger.read, step.key)
        if entry is not None and step.generation in entry.past:
            return _refused(row, RowState.REJECTED, None, "AttemptOver")
        if entry is None or not may_be_starting(entry, time.time(), fenced=False):
            raise error
        due_at = entry.changed_at + settle_window(entry)
        log.warning("Row %s may be starting elsewhere; its fate is settled in %.0f s.", row.key, due_at - time.time())
        return PutBack(due_at)


def ledger_key(campaign: str, key: str) -> str:
    """
    The name of a row in the ledger.
    """
    return f"batch/{campaign}/{key}"


def handle_of(service: str, campaign: str, row: Any) -> Handle:
    """
    The execution of a started row, as its index knows it.

    Args:
        service: Name of the service in which it lives.
        row: A :class:`Row`, or what a query for the same columns returned.
    """
    return Handle(
        execution_id=row.execution_id,
        service=service,
        key=ledger_key(campaign, row.key),
        deadline=row.deadline,
        expires_at=row.expires_at,
        owned=True,
        api_version=row.api_version,
    )


def _refused(row: Row, state: RowState, execution_id: str | None, reason: str) -> Refused:
    values = {"execution_id": execution_id, "reason": reason}
    return Refused(Update(key=row.key, attempt=row.attempt, state=state, values=values))


__all__ = ["CHANGED", "PutBack", "Refused", "Started", "Starter", "handle_of", "ledger_key"]
