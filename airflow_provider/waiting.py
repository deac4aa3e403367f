"""
Waiting inside a worker: how long, what a stop means, and what a trigger's event says.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import evolve

from airflow_provider import decisions
from airflow_provider.events import Ending, WaitEvent
from airflow_provider.failures import (
    TransactionlinkFailure,
    TransactionlinkRetry,
    after_waiting,
    unknown_start_message,
)
from airflow_provider.versions import AirflowTaskTimeout
from tl_orchestration import Execution, Handle, Pacing, Patience, errors
from tl_orchestration.correlation import recorded_correlation
from tl_orchestration.errors import (
    LedgerError,
    NotCancellableYet,
    NotSupported,
    TransactionlinkError,
    WaitInterrupted,
    WaitTimeout,
)
from tl_orchestration.fate import unknown_start
from tl_orchestration.ledger.entry import OPEN, Event, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime, timedelta

    from tl_orchestration import Client
    from tl_orchestration.ledger import Entry, Ledger

log = logging.getLogger(__name__)

_OUTAGES = {error.__name__ for error in (errors.InvalidAnswer, errors.NoAnswer, errors.RateLimited, errors.ServerError)}


def bounded(handle: Handle, started: datetime | None, execution_timeout: timedelta | None) -> Handle:
    """
    With ``execution_timeout`` in the deadline, counted from the try's start: Airflow does not enforce it while a task
    is deferred.
    """
    if execution_timeout is None or started is None:
        return handle
    return ending_by(started.timestamp() + execution_timeout.total_seconds(), handle)


def ending_by(moment: float | None, handle: Handle) -> Handle:
    """
    With a deadline no later than this moment, epoch seconds, if there is one.
    """
    if moment is None:
        return handle
    return evolve(handle, deadline=moment if handle.deadline is None else min(handle.deadline, moment))


def in_worker(
    client: Client,
    handle: Handle,
    context: Any,
    *,
    grace: float | None,
    pacing: Pacing,
    cancel: bool,
    stop: Callable[[], bool],
) -> Execution | None:
    """
    Wait here to the end, or for ``grace`` seconds. Returns the ended execution, or None after the grace.

    Args:
        cancel: Whether a stop by a person, or a deadline, cancels the execution.
        stop: Whether the task was told to stop.

    Raises:
        WaitTimeout: The deadline has passed.
        TransactionlinkFailure: Somebody stopped the task.
        TransactionlinkRetry: The worker is going away; the execution was left alone.
    """
    with stoppable(client, handle, context, cancel=cancel):
        if grace is None or _ends_within(handle, grace):
            patience = Patience(pacing=pacing, cancel_on_timeout=None if cancel else False)
            return client.wait(handle, patience=patience, stop=stop)
        try:
            return client.wait(handle, grace, patience=Patience(pacing=pacing, cancel_on_timeout=False), stop=stop)
        except WaitTimeout:
            return None


@contextlib.contextmanager
def stoppable(client: Client, handle: Handle, context: Any, *, cancel: bool) -> Iterator[None]:
    """
    Do what a stop or a time-out of the task asks for, wherever it catches us.
    """
    try:
        yield
    except WaitInterrupted:
        stopped(client, handle, context, cancel=cancel)
    except AirflowTaskTimeout:
        # A deadline that the author set: somebody's decision, nothing to ask Airflow.
        if cancel:
            _time_is_up(client, handle)
        raise


@contextlib.contextmanager
def stoppable_start(client: Client, key: str, context: Any, *, cancel: bool) -> Iterator[None]:
    """
    The same for a start or a re-attachment: the execution, if there is one, is the one that the ledger knows.

    Args:
        key: The step's name in the client's ledger.
    """
    try:
        yield
    except WaitInterrupted:
        try:
            entry = None if client.ledger is None else client.ledger.read(key)
        except LedgerError as error:
            log.warning("The ledger of step %s could not be read: %s", key, error)
            entry = None
        stopped(client, _running(client, key, entry), context, cancel=cancel)
    except AirflowTaskTimeout:
        _start_ran_out_of_time(client, key, cancel=cancel)
        raise


def _running(client: Client, key: str, entry: Entry | None) -> Handle | None:
    """
    The step's execution that may still run, if its ledger knows one.
    """
    if entry is None or entry.execution_id is None or entry.state not in OPEN:
        return None
    return Handle(
        execution_id=entry.execution_id,
        service=client.service,
        key=key,
        deadline=entry.deadline,
        expires_at=entry.expires_at,
        owned=True,
    )


def _start_ran_out_of_time(client: Client, key: str, *, cancel: bool) -> None:
    """
    Airflow's own limit cuts a request off in the middle. A start that was on its way then has an unknown fate, which
    goes on record here, for no core flow could yield to do it.
    """
    who, ledger = "This try of the step was ended by its execution_timeout and", client.ledger
    if ledger is None:
        log.error("%s", unknown_start_message(unknown_start(None, None, who)))
        return
    try:
        entry = ledger.read(key)
        handle = _running(client, key, entry)
        if handle is not None:
            if cancel:
                _time_is_up(client, handle)
            return
        if entry is None or entry.state is not State.INTENT or entry.preparing:
            log.warning("The time of the task was up before the start of step %s was sent.", key)
            return
        if not ledger.fenced:
            # The intent may be another process's, which is about to record what came of it.
            log.error("The time of the task was up during a start of step %s: tl ledger show %s", key, shlex.quote(key))
            return
        found = unknown_start(key, None, who, correlation=recorded_correlation(entry))
        log.error("%s", unknown_start_message(found))
        event = Event(state=State.UNKNOWN, at=time.time(), reason="AirflowTaskTimeout", version=entry.version)
        ledger.append(key, event)
    except LedgerError as error:
        log.error(
            "The ledger of step %s fails; the next try takes an intent for a start of unknown fate. %s", key, error
        )


def _ends_within(handle: Handle, seconds: float) -> bool:
    return handle.deadline is not None and handle.deadline <= time.time() + seconds


def stopped(client: Client, handle: Handle | None, context: Any, *, cancel: bool) -> NoReturn:
    """
    Told to stop: cancel if somebody decided so, else leave the execution for the next try.
    """
    decided = decisions.somebody_decided(context, durable=handle is None or handle.key is not None)
    if handle is None:
        kind = TransactionlinkFailure if decided else TransactionlinkRetry
        raise kind("The task was told to stop before it had started an execution.")
    if not decided:
        following = "goes on waiting for it" if handle.key is not None else "starts another one (durable=False)"
        raise TransactionlinkRetry(
            f"This worker was told to stop, but nobody ended the task: execution {handle.execution_id} goes on, and"
            f" the next try {following}."
        )
    if not cancel:
        raise TransactionlinkFailure(
            f"The task was stopped; execution {handle.execution_id} was left running, as cancel_on_kill=False says."
        )
    outcome = _cancel(client, handle)
    raise TransactionlinkFailure(f"The task was stopped, and execution {handle.execution_id} {outcome}")


def _time_is_up(client: Client, handle: Handle) -> None:
    """
    What any deadline does: one last poll, then the cancel; not of an execution whose status nobody here knows.
    """
    try:
        execution = client.wait(evolve(handle, deadline=time.time()), patience=Patience(cancel_on_timeout=True))
    except WaitTimeout as error:
        log.warning("%s", error)
    except TransactionlinkError as error:
        log.error("%s To end it: tl cancel %s", error, handle.execution_id)
    else:
        log.warning("Execution %s has ended as %s just now.", handle.execution_id, execution.status.name)


def _cancel(client: Client, handle: Handle) -> str:
    """
    Cancel because somebody decided so. Returns what came of it, as the end of a sentence.
    """
    try:
        client.cancel(handle)
    except NotSupported as error:
        outcome = f"goes on: {error}"
    except NotCancellableYet as error:
        outcome = f"goes on, for it cannot be cancelled yet: {error}"
    except TransactionlinkError as error:
        if error.cancel_accepted:
            log.warning("%s", error)
            return "was asked to end, which the service accepted; its status since then could not be read."
        log.error("Execution %s could not be cancelled: %s", handle.execution_id, error)
        return f"could not be cancelled; do it: tl cancel {handle.execution_id}"
    else:
        log.info("Execution %s was cancelled.", handle.execution_id)
        return "was cancelled."
    log.error("Execution %s %s", handle.execution_id, outcome)
    return outcome


def is_outage(said: WaitEvent) -> bool:
    """
    Whether a wait in the triggerer has given up because the service did not answer, or made no sense, for too long.
    """
    return said.ending is Ending.FAILED and said.error in _OUTAGES


def check_event(said: WaitEvent, *, recorded: bool = True) -> None:
    """
    Raise what a wait in the triggerer failed with.

    Args:
        recorded: Whether a retry finds the execution again.

    Raises:
        TransactionlinkRetry, TransactionlinkFailure: By the error's class.
    """
    if said.ending is not Ending.FAILED:
        return
    kind = after_waiting(said.error, recorded=recorded)
    status = f", HTTP {said.status_code}" if said.status_code else ""
    raise kind(
        f"Waiting for execution {said.execution_id} in the triggerer failed ({said.error}{status}); the log above says"
        " why. The execution was left alone: " + _afterwards(final=kind is TransactionlinkFailure, recorded=recorded)
    )


def _afterwards(*, final: bool, recorded: bool) -> str:
    if not recorded:
        return "what is run next starts another one (durable=False)."
    return "clear the task to look at it again." if final else "a retry of this task goes on waiting for it."


def handle_of(said: WaitEvent, ledger: Ledger | None, key: str, generation: str) -> Handle:
    """
    The step's execution, as its ledger knows it. An event of an earlier life of the step may arrive late; it then says
    nothing about the execution of this one.

    Args:
        said: What the trigger reported.
        ledger: Where the step is kept; None: nowhere.
        key: The step's name there.
        generation: Which life of the step this is: what a person adopted for an earlier one is not this one's to end.

    Raises:
        LedgerError: The ledger knows no execution that runs.
    """
    handle = Handle(
        execution_id=said.execution_id,
        service=said.service,
        deadline=said.deadline,
        expires_at=said.expires_at,
        owned=True,
        api_version=said.api_version,
    )
    if ledger is None:
        return handle
    entry = ledger.read(key)
    if entry is None or entry.execution_id is None:
        raise LedgerError(f"The task was resumed for execution {said.execution_id}, but its step has none on record.")
    if entry.execution_id != said.execution_id and entry.state not in OPEN:
        raise LedgerError(
            f"The task was resumed for execution {said.execution_id}, but its step has gone on to"
            f" {entry.execution_id}, which has ended."
        )
    return evolve(
        handle,
        execution_id=entry.execution_id,
        key=key,
        deadline=entry.deadline,
        expires_at=entry.expires_at,
        owned=not (entry.adopted and entry.generation != generation),
    )


def check_recorded(ledger: Ledger | None, key: str) -> None:
    """
    Before a broken wait is taken up again: that its execution is on record, so that nothing can be started.

    Raises:
        TransactionlinkRetry: There is no ledger.
        TransactionlinkFailure: The step has no execution in it.
    """
    if ledger is None:
        raise TransactionlinkRetry(
            "The wait has broken off in the triggerer, and with durable=False this step no longer knows its execution."
            " Its id is in the log of this try; it goes on until it ends, expires or is cancelled (tl cancel ID)."
            " A retry starts a new one."
        )
    entry = ledger.read(key)
    if entry is None or entry.execution_id is None:
        raise TransactionlinkFailure(
            f"The wait of step {key} has broken off in the triggerer, and its execution is no longer on record. Its id"
            " is in the log of this try: cancel it (tl cancel ID), or wait for it with TransactionlinkWorkflowSensor."
        )
