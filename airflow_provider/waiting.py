"""
Waiting inside a worker: how long, what a stop means, and what a trigger's event says.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowTaskTimeout
from attrs import evolve

from airflow_provider import decisions, identity
from airflow_provider.events import Ending, WaitEvent
from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry
from tl_orchestration import Execution, Handle, Pacing, Patience, errors
from tl_orchestration.errors import LedgerError, TransactionlinkError, WaitInterrupted, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from airflow_provider.identity import TaskIdentity
    from airflow_provider.ledger import TaskStateLedger
    from tl_orchestration import Client

log = logging.getLogger(__name__)


def bounded(handle: Handle, started: datetime | None, execution_timeout: timedelta | None) -> Handle:
    """
    With ``execution_timeout`` in the deadline, counted from the try's start: Airflow does not enforce it while a task
    is deferred.
    """
    if execution_timeout is None or started is None:
        return handle
    ends = started.timestamp() + execution_timeout.total_seconds()
    return evolve(handle, deadline=ends if handle.deadline is None else min(handle.deadline, ends))


def in_worker(
    client: Client,
    handle: Handle,
    context: Any,
    *,
    moment: float | None,
    poll_interval: float | None,
    cancel: bool,
    stop: Callable[[], bool],
) -> Execution | None:
    """
    Wait here for ``moment`` seconds, or to the end where it is None. Returns the ended execution, or None.

    Args:
        cancel: Whether a stop by a person, or a deadline, cancels the execution.
        stop: Whether the task was told to stop.

    Raises:
        WaitTimeout: The deadline has passed.
        TransactionlinkFailure: Somebody stopped the task.
        TransactionlinkRetry: The worker is going away; the execution was left alone.
    """
    pacing = Pacing() if poll_interval is None else Pacing.every(poll_interval)
    try:
        if moment == 0.0:
            execution = client.poll(handle)
            return execution if execution.is_terminal else None
        if moment is not None and not _ends_within(handle, moment):
            try:
                return client.wait(handle, moment, patience=Patience(pacing=pacing, cancel_on_timeout=False), stop=stop)
            except WaitTimeout:
                return None
        patience = Patience(pacing=pacing, cancel_on_timeout=None if cancel else False)
        return client.wait(handle, patience=patience, stop=stop)
    except WaitInterrupted:
        _stopped(client, handle, context, cancel=cancel)
    except AirflowTaskTimeout:
        # A deadline that the author set: somebody's decision, nothing to ask.
        if cancel:
            _cancel(client, handle)
        raise


def _ends_within(handle: Handle, seconds: float) -> bool:
    return handle.deadline is not None and handle.deadline <= time.time() + seconds


def _stopped(client: Client, handle: Handle, context: Any, *, cancel: bool) -> NoReturn:
    """
    Told to stop: cancel if somebody decided so, else leave the execution for the next try.
    """
    if not decisions.somebody_decided(context):
        raise TransactionlinkRetry(
            f"This worker was told to stop, but nobody stopped the task: execution {handle.execution_id} goes on, and"
            " the next try goes on waiting for it."
        )
    if not cancel:
        raise TransactionlinkFailure(
            f"The task was stopped; execution {handle.execution_id} was left running, as cancel_on_kill=False says."
        )
    cancelled = _cancel(client, handle)
    raise TransactionlinkFailure(
        f"The task was stopped, and execution {handle.execution_id} "
        + ("was cancelled." if cancelled else f"could not be cancelled; do it: tl cancel {handle.execution_id}")
    )


def _cancel(client: Client, handle: Handle) -> bool:
    try:
        client.cancel(handle)
    except TransactionlinkError as error:
        log.error("Execution %s could not be cancelled: %s", handle.execution_id, error)
        return False
    log.info("Execution %s was cancelled.", handle.execution_id)
    return True


def check_event(said: WaitEvent) -> None:
    """
    Raise what a wait in the triggerer failed with.

    Raises:
        TransactionlinkRetry, TransactionlinkFailure: By the error's class; one that is unknown here is not retried.
    """
    if said.ending is not Ending.FAILED:
        return
    kind = getattr(errors, said.error or "", None)
    again = isinstance(kind, type) and issubclass(kind, TransactionlinkError) and kind.retryable
    status = f", HTTP {said.status_code}" if said.status_code else ""
    raise (TransactionlinkRetry if again else TransactionlinkFailure)(
        f"Waiting for execution {said.execution_id} in the triggerer failed ({said.error}{status}); the log above says"
        " why. The execution was left alone: a retry of this task goes on waiting for it."
    )


def handle_of(execution_id: str, ledger: TaskStateLedger | None, ti: TaskIdentity, *, timeout: float) -> Handle:
    """
    The step's execution, as its ledger knows it.

    Raises:
        LedgerError: The ledger knows another one: the step was cleared and has moved on.
    """
    if ledger is None:
        return Handle(execution_id=execution_id, deadline=None, owned=True)
    key = identity.step_key(ti)
    entry = ledger.read(key)
    if entry is None or entry.execution_id != execution_id:
        raise LedgerError(
            f"The task was resumed for execution {execution_id}, but it has"
            f" {entry.execution_id if entry and entry.execution_id else 'none'} on record."
        )
    return Handle(
        execution_id=execution_id,
        key=key,
        deadline=entry.deadline,
        expires_at=entry.expires_at,
        owned=True,
    )
