"""
From the inbox of webhooks to the Prefect server: an event for each announcement, and an end to the suspension of the
flow runs that wait for its execution.

Any number of these may run. All make the same events, and one that begins again goes on where the last one was, so that
nothing is passed over; what comes twice is an event that Prefect has, or a flow run that looks once more.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from attrs import Factory, define

from prefect_blocks import announcing, waking
from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import InvalidRequest, InvalidSettings, LedgerError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

    from tl_orchestration.hints import Cursor, Hint
    from tl_orchestration.webhooks.inbox import Inbox

log = logging.getLogger("tl_orchestration.webhooks.forward")

INTERVAL = 1.0
"""
Seconds between two looks at the inbox.
"""

LOOKS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 90, 120)
"""
Ages of a hint, seconds, at which it is looked who waits. A flow run that has just looked itself is suspended a moment
later, and its announcement is to be found some seconds after it was made. Whoever is suspended later than that is woken
by the timer.
"""

PATIENCE = 30.0
"""
Seconds that the automation has to resume a flow run until it is resumed without it. Long, because an automation that is
late after all resumes whatever the flow run is suspended for by then.
"""

EARLY = 30.0
"""
By how much a hint may be older than a suspension and count for it, seconds: clocks differ, and it may have come between
the flow's look and its suspension.
"""

KEEP_INTERVAL = 5.0
ASK_INTERVAL = 60.0
PURGE_INTERVAL = 600.0
_LONGEST_PAUSE = 30.0
_MOST_PENDING = 5000
_MOST_SUSPENSIONS = 10_000


@define
class _Pending:
    """
    A hint on its way: since when, when it is due next, whether its event is made, and which flow runs are done with it.
    """

    hint: Hint
    since: float
    due: float
    looks: int = 0
    told: bool = False
    waking: dict[UUID, str] = Factory(dict)
    done: set[UUID] = Factory(set)


@define
class _Suspension:
    """
    One suspension: which of its executions were announced, and since when it is being woken.
    """

    announced: set[str] = Factory(set)
    woken_at: float | None = None


class Forwarder:
    """
    Reads an inbox and tells one Prefect server.

    Args:
        inbox: The right to read it is enough; with the right to delete, what is old is forgotten.
        monotonic: Seconds.
    """

    def __init__(self, inbox: Inbox, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._inbox = inbox
        self._monotonic = monotonic
        self._cursor: Cursor | None = None
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._suspensions: OrderedDict[str, _Suspension] = OrderedDict()
        self._kept = ""
        self._keep_at = 0.0
        self._automated = True
        self._ask_at = 0.0
        self._purge_at = monotonic() + PURGE_INTERVAL

    def turn(self, client: SyncPrefectClient) -> None:
        """
        Take what is new, and do what is due.

        Raises:
            LedgerError: The inbox cannot be read.
            prefect.exceptions.PrefectException, httpx.HTTPError: The server does not answer, or refuses. Nothing is
                lost by either: the next turn does it.
        """
        now = self._monotonic()
        if self._cursor is None:
            self._cursor = self._begin(client)
        if now >= self._ask_at:
            self._ask_at = now + ASK_INTERVAL
            self._ask_for_automation(client)
        if len(self._pending) < _MOST_PENDING:
            hints, self._cursor = self._inbox.since(self._cursor)
            for hint in hints:
                if hint.execution_id:
                    self._pending.setdefault(hint.number, _Pending(hint, now, now))
        due = [pending for pending in self._pending.values() if pending.due <= now]
        for first in range(0, len(due), waking.PORTION):
            self._look(client, due[first : first + waking.PORTION], now)
        for number in [number for number, one in self._pending.items() if one.looks == len(LOOKS)]:
            del self._pending[number]
        if now >= self._keep_at:
            self.keep(client)
            self._keep_at = now + KEEP_INTERVAL
        if now >= self._purge_at:
            self._purge_at = now + PURGE_INTERVAL
            self._purge()

    def keep(self, client: SyncPrefectClient) -> None:
        """
        Leave the place with the server, for whoever goes on: before everything that is still on its way.
        """
        if self._cursor is None:
            return
        place = min([int(self._cursor.to_text()), *(number - 1 for number in self._pending)])
        if str(place) == self._kept:
            return
        from prefect.client.schemas.actions import VariableCreate, VariableUpdate

        name = place_name(self._inbox)
        if client.read_variable_by_name(name) is None:
            client.create_variable(VariableCreate(name=name, value=str(place)))
        else:
            client.update_variable(VariableUpdate(name=name, value=str(place)))
        self._kept = str(place)

    def _begin(self, client: SyncPrefectClient) -> Cursor:
        known = client.read_variable_by_name(place_name(self._inbox))
        if known is None:
            return self._inbox.start()
        try:
            return self._inbox.resume(str(known.value))
        except InvalidRequest:
            log.warning("The variable %s is not a place in an inbox; the last two minutes are read.", known.name)
            return self._inbox.start()

    def _ask_for_automation(self, client: SyncPrefectClient) -> None:
        from prefect_blocks.automations import WAKE_UP

        automated = any(automation.enabled for automation in client.read_automations_by_name(WAKE_UP))
        if self._automated and not automated:
            log.warning(
                "The Prefect server has no automation %r, so that flow runs are resumed without it. `python -m"
                " prefect_blocks automations create` makes it.",
                WAKE_UP,
            )
        self._automated = automated

    def _look(self, client: SyncPrefectClient, due: list[_Pending], now: float) -> None:
        waiting = waking.who_waits(client, (one.hint.execution_id for one in due))
        states = waking.states(client, {run for runs in waiting.values() for run in runs})
        events = [
            waking.announced(one.hint, waiting[one.hint.execution_id]) for one in due if not one.told
        ]  # what was announced can have triggered something already, so it comes before anybody is woken
        to_wake = dict(self._to_wake(due, waiting, states))
        events += [waking.wake(run, key) for key, run in to_wake.items() if self._suspensions[key].woken_at is None]
        announcing.send(client, events)
        for key, run in to_wake.items():
            suspension = self._suspensions[key]
            if suspension.woken_at is None:
                suspension.woken_at = now
                log.info("Flow run %s is woken: what it waits for was announced.", run)
            if not self._automated or now - suspension.woken_at >= PATIENCE:
                client.resume_flow_run(run)  # refused where it is not suspended any more
                log.info("Flow run %s was resumed without the automation.", run)
        for one in due:
            one.told = True
            one.looks += 1
            if one.looks < len(LOOKS):
                one.due = one.since + LOOKS[one.looks]

    def _to_wake(
        self, due: list[_Pending], waiting: dict[str, set[UUID]], states: dict[UUID, State]
    ) -> Iterator[tuple[str, UUID]]:
        """
        The suspensions, by their key, that are over as far as hints can tell.
        """
        for one in due:
            for run in waiting[one.hint.execution_id] - one.done:
                state = states.get(run)
                unended = announcing.awaited(state)
                key = None if state is None else state.state_details.pause_key
                if state is None or state.is_final() or one.waking.get(run, key) != key:
                    one.done.add(run)  # it is over, or has looked since
                elif unended is not None and key is not None:
                    one.waking[run] = key
                    suspension = self._suspension(key)
                    if one.hint.received_at >= state.timestamp.timestamp() - EARLY:
                        suspension.announced.add(one.hint.execution_id)
                    # One of many is not worth a process: it is begun when each was announced, or by the timer.
                    if unended == 1 or len(suspension.announced) >= unended:
                        yield key, run

    def _suspension(self, key: str) -> _Suspension:
        suspension = self._suspensions.setdefault(key, _Suspension())
        self._suspensions.move_to_end(key)
        if len(self._suspensions) > _MOST_SUSPENSIONS:
            self._suspensions.popitem(last=False)
        return suspension

    def _purge(self) -> None:
        try:
            self._inbox.purge()
        except LedgerError as error:  # a reader need not have the right; `tl webhooks purge` does it as well
            log.debug("The inbox of webhooks was not purged: %s", error)


def place_name(inbox: Inbox) -> str:
    """
    The Prefect variable in which the place in an inbox is kept.
    """
    return f"transactionlink_inbox_{hashlib.sha256(inbox.database.address.encode()).hexdigest()[:12]}"


def forward(inbox: Inbox, stop: threading.Event) -> None:
    """
    Forward to the server that PREFECT_API_URL or the profile names, until told to stop. A server or an inbox that
    cannot be reached is tried again.

    Raises:
        InvalidSettings: No server is named.
    """
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise InvalidSettings("No Prefect server is named: set PREFECT_API_URL, or choose a profile that has it.")
    forwarder, pause = Forwarder(inbox), 0.0
    while not stop.wait(pause):
        try:
            with get_client(sync_client=True) as client:
                forwarder.turn(client)
                pause = 0.0
                while not stop.wait(INTERVAL):
                    forwarder.turn(client)
                forwarder.keep(client)
        except (*PREFECT_FAILURES, LedgerError) as error:
            level = logging.DEBUG if pause else logging.WARNING
            what = str(error) if isinstance(error, LedgerError) else f"the Prefect server ({type(error).__name__})"
            log.log(level, "Forwarding waits, and goes on by itself: %s", what)
            pause = min(_LONGEST_PAUSE, 2 * pause or INTERVAL)


__all__ = ["Forwarder", "forward", "place_name"]
