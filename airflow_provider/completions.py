"""
Which completions have been announced, looked at and reported, and from where a restart goes on. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from attrs import define, field

from tl_orchestration.answers import safe_id
from tl_orchestration.errors import InvalidRequest
from tl_orchestration.hints import Cursor, Hint

_FORMAT = 1
#: Looks at an execution after a hint, seconds from one to the next: what the service reads from may lag behind what it
#: sends. One that has not ended by the last of them is left alone until the next hint.
_LOOKS = (0.0, 2.0, 10.0, 60.0)
#: First and longest pause after a look that failed, seconds.
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 60.0
#: For how long an event may be on its way from a trigger to Airflow's database, seconds. Until it is over, a restart
#: reports it again.
UNDER_WAY = 10.0
#: Executions that are looked at in one round, and that may wait for it before no more hints are read.
_ROUND = 50
MOST_PENDING = 1000
#: Reported executions that are remembered, in this process and over a restart: their webhooks may come again.
_REMEMBERED = 10_000
_STORED = 500


@define
class _Pending:
    number: int
    due: float
    looks: int = 0
    failures: int = 0


@define
class Completions:
    """
    A reader's dealings with an inbox. Times are monotonic seconds.

    Args:
        cursor: Where it reads on.
        reported: Executions whose completion it has reported, each with the time, in the order of the reports.
    """

    cursor: Cursor
    reported: dict[str, float] = field(factory=dict)
    _pending: dict[str, _Pending] = field(factory=dict)
    #: Places, each with the time from which on nothing before it was left to do.
    _places: deque[tuple[float, int]] = field(factory=deque)

    def __attrs_post_init__(self) -> None:
        self._places.append((float("-inf"), int(self.cursor.to_text())))

    @classmethod
    def from_dict(cls, document: Any) -> Completions:
        """
        Go on from what :meth:`to_dict` told.

        Raises:
            InvalidRequest: It is not that.
        """
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise InvalidRequest("What is kept of the completions that were reported has an unknown format.")
        reported = document.get("reported")
        known = reported if isinstance(reported, list) else []
        ids = [one for one in map(safe_id, known) if one is not None]
        return cls(Cursor.from_text(str(document.get("cursor"))), dict.fromkeys(ids, float("-inf")))

    def to_dict(self, now: float) -> dict[str, Any]:
        """
        From where a restart goes on so that it misses nothing: as JSON values, ids and numbers only.
        """
        while len(self._places) > 1 and self._places[1][0] <= now - UNDER_WAY:
            self._places.popleft()
        arrived = [one for one, moment in self.reported.items() if moment <= now - UNDER_WAY]
        return {"format": _FORMAT, "cursor": str(self._places[0][1]), "reported": arrived[-_STORED:]}

    @property
    def is_full(self) -> bool:
        """
        Whether no more hints can be taken for now.
        """
        return len(self._pending) >= MOST_PENDING

    def take(self, hints: Iterable[Hint], cursor: Cursor, service: str, now: float) -> None:
        """
        What was read from the inbox, and the place after it. Hints of another service concern nobody here.
        """
        for hint in hints:
            if hint.service != service or not hint.execution_id or hint.execution_id in self.reported:
                continue
            known = self._pending.get(hint.execution_id)
            number = hint.number if known is None else min(known.number, hint.number)
            self._pending[hint.execution_id] = _Pending(number, now)
        self.cursor = cursor

    def due(self, now: float) -> list[str]:
        """
        The executions to look at now.
        """
        return [one for one, pending in self._pending.items() if pending.due <= now][:_ROUND]

    def has_ended(self, execution_id: str, now: float) -> None:
        """
        Its completion has been reported, or is none that anybody wants to know of.
        """
        self._pending.pop(execution_id, None)
        self.reported[execution_id] = now
        while len(self.reported) > _REMEMBERED:
            del self.reported[next(iter(self.reported))]

    def goes_on(self, execution_id: str, now: float) -> None:
        """
        It has not ended, as far as the service tells.
        """
        pending = self._pending[execution_id]
        pending.looks, pending.failures = pending.looks + 1, 0
        if pending.looks >= len(_LOOKS):
            del self._pending[execution_id]
        else:
            pending.due = now + _LOOKS[pending.looks]

    def is_unknown(self, execution_id: str, now: float) -> None:
        """
        The service could not be asked.
        """
        pending = self._pending[execution_id]
        pending.due = now + min(_FIRST_PAUSE * 2.0**pending.failures, _LONGEST_PAUSE)
        pending.failures = min(pending.failures + 1, 10)

    def round_is_over(self, now: float) -> None:
        """
        Everything that was due has been looked at and reported.
        """
        place = min([int(self.cursor.to_text()), *(pending.number - 1 for pending in self._pending.values())])
        if place != self._places[-1][1]:
            self._places.append((now, place))


__all__ = ["MOST_PENDING", "UNDER_WAY", "Completions"]
