"""
Reading and claiming a step where other processes may be at the same step.

In a fenced ledger an intent without an outcome is a former try's, and nobody can add to it any more. In any other
ledger it may also be the intent of a process that is about to send, or waits for the answer: only time tells.
"""

from __future__ import annotations

import logging

from tl_orchestration.errors import LedgerError
from tl_orchestration.exchange import ClaimStart, Clock, Flow, ReadLedger, Sleep
from tl_orchestration.ledger.entry import Entry, Event, State

log = logging.getLogger(__name__)

#: How long after an intent its start may still be on its way at least, seconds, and where the intent does not say. A
#: start with the default settings takes 90 s of tries, 30 s for the last of them and 5 s to record its id.
SETTLE_WINDOW = 180.0
#: What a client with longer settings gives itself on top of them, seconds.
SETTLE_MARGIN = 60.0
#: How long a try waits for another process that is at the same step, seconds.
PATIENCE = 5.0
#: First and longest pause between two looks at the other's progress, seconds.
_FIRST_LOOK = 0.05
_LONGEST_LOOK = 0.5


def settle_window(entry: Entry) -> float:
    """
    Seconds that whoever recorded the latest intent gave itself for the start: its own settings decide, not those of
    whoever looks.
    """
    if entry.settles_at is None or entry.intended_at is None:
        return SETTLE_WINDOW
    return entry.settles_at - entry.intended_at


def may_be_starting(entry: Entry, now: float, *, fenced: bool) -> bool:
    """
    Whether whoever recorded this intent may still be at it. Never true of any other state, nor in a fenced ledger.

    Clocks of different machines differ, so an intent from the near future is as fresh as one from the near past.
    """
    return not fenced and entry.state is State.INTENT and abs(now - entry.changed_at) < settle_window(entry)


class Claim:
    """
    One try's dealings with a ledger until it has claimed the step or knows what to do instead.

    Args:
        key: The step.
        fenced: Whether the ledger takes nothing from a process that has lost the step.
    """

    def __init__(self, key: str, clock: Clock, *, fenced: bool) -> None:
        self._key = key
        self._clock = clock
        self._fenced = fenced
        self._patient_until = clock.monotonic() + PATIENCE

    def read(self) -> Flow[Entry | None]:
        """
        The entry, once nobody else seems to be at the step.

        Raises:
            LedgerError: Somebody still is.
        """
        pause = _FIRST_LOOK
        while True:
            entry: Entry | None = yield ReadLedger(self._key)
            now = self._clock.now()
            if entry is None or not may_be_starting(entry, now, fenced=self._fenced):
                return entry
            if self._clock.monotonic() >= self._patient_until:
                age = max(0.0, now - entry.changed_at)
                raise LedgerError(
                    f"Another process announced {age:.0f} seconds ago that it starts {self._key}, and may still be at"
                    f" it. Nothing was sent; try again. {settle_window(entry):.0f} seconds after the announcement it"
                    " counts as a start of unknown fate."
                )
            yield Sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)

    def may_be_delivering(self, entry: Entry) -> Flow[bool]:
        """
        Whether the process that has started this execution may still be handing its link over. If so, it has been
        given a moment: read again.

        Raises:
            LedgerError: It has been given several.
        """
        age, window = self._clock.now() - entry.changed_at, settle_window(entry)
        if self._fenced or abs(age) >= window:
            return False
        if self._clock.monotonic() >= self._patient_until:
            raise LedgerError(
                f"Another process started execution {entry.execution_id} of {self._key} {max(0.0, age):.0f} seconds"
                " ago and may still be handing its link over. Nothing was sent; try again."
                f" {window:.0f} seconds after the start the link counts as lost.",
                execution_id=entry.execution_id,
            )
        yield Sleep(_LONGEST_LOOK)
        return True

    def claim(self, intent: Event, after: Entry | None) -> Flow[Entry | None]:
        """
        Record the intent. None if somebody else was faster: read again.

        Raises:
            LedgerError: The ledger cannot be written, or refuses for another reason.
        """
        try:
            claimed: Entry = yield ClaimStart(self._key, intent, after)
        except LedgerError as refused:
            lost = yield from self._was_lost(after)
            if not lost:
                raise refused from None
            return None
        return claimed

    def _was_lost(self, after: Entry | None) -> Flow[bool]:
        if self._fenced or self._clock.monotonic() >= self._patient_until:
            return False
        found: Entry | None = yield ReadLedger(self._key)
        if found == after:
            return False
        log.info("Another process was faster at step %s.", self._key)
        return True


__all__ = ["PATIENCE", "SETTLE_MARGIN", "SETTLE_WINDOW", "Claim", "may_be_starting", "settle_window"]
