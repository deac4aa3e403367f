"""
Hints that an execution may have changed, and how a reader of them keeps its place. Pure: no clock, no store.

A hint never says what happened: that is asked of the service.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from attrs import frozen

from tl_orchestration.errors import InvalidRequest

#: For how long a number that was passed over may still appear, seconds. A writer commits within half of it
#: (:data:`tl_orchestration.webhooks.inbox.LONGEST_TRANSACTION`) or never, but for the commit itself.
OVERLAP = 30.0
#: Most numbers that a reader looks for at once. More than so many deliveries that came twice within the overlap, and a
#: row that is committed late could be missed; a poll then finds what it was about.
MOST_MISSING = 5000


@frozen
class Hint:
    """
    Something was announced about an execution.

    Args:
        number: Of the row; later rows have higher ones, but may be committed earlier.
        service: ``transactionlink`` (also for executions of the legacy API) or ``b3os``.
        execution_id: Empty where the delivery did not tell it in a form that is known.
        kind: The sender's word for the event; may be empty.
        received_at: Epoch seconds.
    """

    number: int
    service: str
    execution_id: str
    kind: str
    received_at: float


@frozen
class Cursor:
    """
    A reader's place: everything up to ``top`` has been read, but for what is missing.

    Numbers are given out before rows are committed, so that a row may appear below one that was read already. A number
    may also stay unused for ever, as that of a delivery that came twice does.

    Args:
        top: The highest number read.
        missing: Numbers below that have not appeared, each with the time until which it is looked for (monotonic
            seconds), in the order of the numbers.
    """

    top: int = 0
    missing: tuple[tuple[int, float], ...] = ()

    def moved(self, numbers: Iterable[int], now: float) -> Cursor:
        """
        The place after these rows were read.

        Args:
            numbers: Of all rows among the missing, and of the next ones above ``top``.
            now: Monotonic seconds.
        """
        found = sorted(set(numbers))
        seen = frozenset(found)
        missing = [(number, until) for number, until in self.missing if until > now and number not in seen]
        top = self.top
        for number in found:
            if number > top:
                passed_over = range(max(top + 1, number - MOST_MISSING), number)
                missing += [(other, now + OVERLAP) for other in passed_over]
                top = number
        return Cursor(top, tuple(missing[-MOST_MISSING:]))

    def to_text(self) -> str:
        """
        The place in a form that outlives this process. Who goes on from it reads some hints again, and misses none.
        """
        return str(self.missing[0][0] - 1 if self.missing else self.top)

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """
        The place that :meth:`to_text` told.

        Raises:
            InvalidRequest: It is not one.
        """
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise InvalidRequest("This is not a cursor of an inbox.")
        return cls(int(text))


class HintSource(Protocol):
    """
    Where hints come from; :class:`tl_orchestration.webhooks.inbox.Inbox` is one.
    """

    async def astart(self) -> Cursor:
        """
        A place from which on no hint of now or later is missed.
        """

    async def asince(self, cursor: Cursor) -> tuple[list[Hint], Cursor]:
        """
        The hints since a place, and the next place. An error of the store is a ``LedgerError``.
        """

    async def apurge(self) -> int:
        """
        Forget what is old. Returns how many.
        """
