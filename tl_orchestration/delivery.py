"""
Handing the link of an interactive execution to a person, by a callable of the caller's.

The service shows the link in the answer to the start, and nothing here keeps it. So a delivery is recorded only once
it has happened: a crash in between leaves a link that is delivered again, where the service shows it again, or lost,
and a later try then says so.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeAlias

from tl_orchestration.errors import InvalidRequest, LedgerError, LinkLost, LinkNotDelivered
from tl_orchestration.exchange import AppendEvent, Clock, Deliver, Flow, ReadLedger, Sleep
from tl_orchestration.ledger.entry import Entry, Event, State
from tl_orchestration.models import Execution

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)

#: Takes an execution with ``link`` and ``token``, and returns once a person has them or surely will.
OnLink: TypeAlias = Callable[[Execution], object]

#: How often recording a delivery is tried before it is given up, and the delay between, seconds.
_RECORD_TRIES = 5
_RECORD_DELAY = 1.0
#: How many calls an error names on the way to where a callable failed.
_MOST_CALLS = 8


def checked_callback(on_link: OnLink | None, *, awaited: bool) -> OnLink | None:
    """
    Raises:
        InvalidRequest: It cannot be called, or nobody would await what it returns. Nothing was sent.
    """
    if on_link is None:
        return None
    if not callable(on_link):
        raise InvalidRequest(f"on_link must be a callable that takes an execution, not {type(on_link).__name__}.")
    if not awaited and any(map(inspect.iscoroutinefunction, (on_link, type(on_link).__call__))):
        raise InvalidRequest("on_link is a coroutine function, which only AsyncClient awaits.")
    return on_link


def is_lost(execution: Execution, entry: Entry) -> bool:
    """
    Whether an execution that an earlier try has started waits for a person who was given no link, as far as anybody
    knows, and the service does not show it again. An execution that is to end, or has ended, needs none.
    """
    undelivered = entry.state is State.STARTED and entry.interactive is True
    return undelivered and not execution.is_terminal and not execution.is_interactive


def link_lost(execution_id: str, key: str) -> LinkLost:
    """
    The error for a step that does not accept a restart.
    """
    return LinkLost(
        f"Execution {execution_id} of step {key} waits for a person, but no try has recorded that its link was"
        " delivered, and the service does not show it again. If nobody has the link, set on_link_lost='restart', or end"
        f" the execution with `tl cancel {execution_id}`; if somebody has, run the step without on_link.",
        execution_id=execution_id,
    )


def given_up(entry: Entry, now: float) -> Event:
    """
    The decision to cancel an execution whose link is lost, so that another start can replace it.
    """
    return Event(
        state=State.CANCEL_REQUESTED,
        at=now,
        execution_id=entry.execution_id,
        reason="its link was lost",
        version=entry.version,
        link_lost=True,
    )


def hand_over(execution: Execution, on_link: OnLink, clock: Clock) -> Flow[None]:
    """
    Deliver the link of an execution that was started or found, unless that is done or needless, and record it.

    Raises:
        LinkNotDelivered: ``on_link`` failed; nothing was recorded.
        LedgerError: The delivery could not be recorded, so a later try will not know of it.
    """
    if execution.is_terminal or not execution.is_interactive:
        return
    key = execution.handle.key
    if key is not None and execution.reattached:
        entry: Entry | None = yield ReadLedger(key)
        if entry is None or entry.state is not State.STARTED or entry.execution_id != execution.id:
            return
    yield Deliver(on_link, execution)
    log.info("The link of execution %s was delivered.", execution.id)
    if key is not None:
        yield from _record(execution.id, key, clock)


def _record(execution_id: str, key: str, clock: Clock) -> Flow[None]:
    event = Event(state=State.LINK_DELIVERED, at=clock.now(), execution_id=execution_id)
    for attempt in range(1, _RECORD_TRIES + 1):
        try:
            yield AppendEvent(key, event)
        except LedgerError as error:
            if attempt == _RECORD_TRIES:
                raise error.about(execution_id) from None
            log.warning("The link of execution %s was delivered; this is not recorded yet: %s", execution_id, error)
            yield Sleep(_RECORD_DELAY, stoppable=False)
        else:
            return


def perform(command: Deliver) -> None:
    """
    Call the callable.

    Raises:
        LinkNotDelivered: It raised, or returned what has to be awaited.
    """
    try:
        returned = command.on_link(command.execution)
    except Exception as error:
        failed = _failed(command.execution, error)
    else:
        if not inspect.isawaitable(returned):
            return
        if inspect.iscoroutine(returned):
            returned.close()
        failed = _not_delivered(command.execution, "returned what only AsyncClient awaits")
    raise failed  # here, so that it has nothing of the callable's error in its context


async def perform_awaited(command: Deliver) -> None:
    """
    Call the callable, and await what it returns, if that can be.

    Raises:
        LinkNotDelivered: It raised.
    """
    try:
        returned = command.on_link(command.execution)
        if isinstance(returned, Awaitable):
            await returned
    except Exception as error:
        failed = _failed(command.execution, error)
    else:
        return
    raise failed  # here, so that it has nothing of the callable's error in its context


def _failed(execution: Execution, error: Exception) -> LinkNotDelivered:
    kind, place = type(error).__name__, _place(error.__traceback__)
    return _not_delivered(execution, f"raised {kind}{place}, of which no more is shown because it may quote the link")


def _not_delivered(execution: Execution, what: str) -> LinkNotDelivered:
    return LinkNotDelivered(
        f"on_link {what}. Execution {execution.id} has started and waits for a person, who may not have the link. A"
        " retry delivers it if the service shows it again; if not, on_link_lost says what the retry does.",
        execution_id=execution.id,
    )


def _place(trace: TracebackType | None) -> str:
    """
    Where in the callable it was raised, as calls from the outside in; the first frame is ours.
    """
    calls: list[str] = []
    while trace is not None and (trace := trace.tb_next) is not None and len(calls) < _MOST_CALLS:
        calls.append(f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
    return f" ({' > '.join(calls)})" if calls else ""


__all__ = [
    "OnLink",
    "checked_callback",
    "given_up",
    "hand_over",
    "is_lost",
    "link_lost",
    "perform",
    "perform_awaited",
]
