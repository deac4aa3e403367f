"""
What may be counted and timed, for whoever wants to know: Airflow's Stats, OpenTelemetry, a test.

Labels are the service and an outcome, each out of a small set; never an id or a key.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from tl_orchestration.errors import NoAnswer, StartOutcomeUnknown, TransactionlinkError, WaitInterrupted, WaitTimeout
from tl_orchestration.exchange import Request, Response
from tl_orchestration.models import Execution
from tl_orchestration.status import Status

log = logging.getLogger(__name__)


class Count(StrEnum):
    """
    What is counted.

    ``STARTS``: outcome ``started``, ``reattached``, ``unknown`` or ``refused`` (nothing was started).
    ``UNKNOWN_STARTS``: those of them whose fate nobody knows; worth an alert of its own.
    ``UNKNOWN_STATUSES``: changes to a status that this version cannot read.
    ``POLLS``: outcome ``answered``, ``refused`` (any other status than 2xx) or ``unanswered``.
    ``RATE_LIMITED``: answers 429 to any request.
    """

    STARTS = "starts"
    UNKNOWN_STARTS = "unknown_starts"
    UNKNOWN_STATUSES = "unknown_statuses"
    POLLS = "polls"
    RATE_LIMITED = "rate_limited"


class Duration(StrEnum):
    """
    What is timed, seconds.

    ``WAIT``: from the call of ``wait`` to its end; outcome is the execution's status in lower case, ``timeout``,
    ``interrupted`` or ``failed`` (the wait itself). A wait that is cancelled is not told.
    ``DETECTION_DELAY``: longest time for which an ending can have gone unseen: since the poll before the one that saw
    it. Not told where the first poll of a wait finds the ending.
    ``INBOX_LAG``: from the arrival of a webhook, by the receiver's clock, until a wait that it concerns was told of it,
    by the clock of whoever waits. Not told of what arrived before the wait began, or while the inbox could not be read.
    """

    WAIT = "wait"
    DETECTION_DELAY = "detection_delay"
    INBOX_LAG = "inbox_lag"


class Level(StrEnum):
    """
    What goes up and down: ``IN_FLIGHT``, requests that wait for their answer.
    """

    IN_FLIGHT = "in_flight"


@runtime_checkable
class Observer(Protocol):
    """
    Told of events as they happen, from the thread or event loop in which they do; it must not block. What it raises
    is logged and has no effect.
    """

    def count(self, what: Count, *, service: str, outcome: str | None = None) -> None:
        """
        One more.
        """

    def duration(self, what: Duration, seconds: float, *, service: str, outcome: str | None = None) -> None:
        """
        Something took so long.
        """

    def change(self, what: Level, by: int, *, service: str) -> None:
        """
        A level rose or fell by so much. Changes of all clients add up.
        """


class Metrics:
    """
    The product's events in an observer's words. None of it can fail.
    """

    __slots__ = ("_has_failed", "_observer", "_service")

    def __init__(self, observer: Observer | None, service: str) -> None:
        self._observer = observer
        self._service = service
        self._has_failed = False

    def sending(self) -> None:
        """
        A request is about to be sent; :meth:`answered` or :meth:`unanswered` follows.
        """
        if self._observer is not None:
            self._tell("change", Level.IN_FLIGHT, 1)

    def answered(self, request: Request, response: Response) -> None:
        if self._observer is None:
            return
        self._tell("change", Level.IN_FLIGHT, -1)
        if request.operation == "poll":
            self._tell("count", Count.POLLS, outcome="answered" if response.is_success else "refused")
        if response.status == 429:
            self._tell("count", Count.RATE_LIMITED)

    def unanswered(self, request: Request, error: BaseException) -> None:
        if self._observer is None:
            return
        self._tell("change", Level.IN_FLIGHT, -1)
        if request.operation == "poll" and isinstance(error, TransactionlinkError):
            outcome = "unanswered" if isinstance(error, NoAnswer | WaitInterrupted) else "refused"
            self._tell("count", Count.POLLS, outcome=outcome)

    def started(self, execution: Execution) -> None:
        if self._observer is not None:
            self._tell("count", Count.STARTS, outcome="reattached" if execution.reattached else "started")

    def not_started(self, error: TransactionlinkError) -> None:
        if self._observer is None:
            return
        unknown = isinstance(error, StartOutcomeUnknown)
        self._tell("count", Count.STARTS, outcome="unknown" if unknown else "refused")
        if unknown:
            self._tell("count", Count.UNKNOWN_STARTS)

    def noticed(self, execution: Execution) -> None:
        """
        A poll shows another status than the one before.
        """
        if self._observer is not None and execution.status is Status.UNKNOWN:
            self._tell("count", Count.UNKNOWN_STATUSES)

    def detected(self, unseen: float) -> None:
        """
        A poll shows an ending that a poll ``unseen`` seconds before did not.
        """
        if self._observer is not None:
            self._tell("duration", Duration.DETECTION_DELAY, unseen)

    def heard(self, lag: float) -> None:
        """
        A webhook about an execution has reached whoever waits for it.
        """
        if self._observer is not None:
            self._tell("duration", Duration.INBOX_LAG, max(0.0, lag))

    def waited(self, seconds: float, ending: Execution | TransactionlinkError) -> None:
        if self._observer is None:
            return
        if isinstance(ending, Execution):
            outcome = ending.status.value.lower()
        elif isinstance(ending, WaitTimeout):
            outcome = "timeout"
        else:
            outcome = "interrupted" if isinstance(ending, WaitInterrupted) else "failed"
        self._tell("duration", Duration.WAIT, seconds, outcome=outcome)

    def _tell(self, method: str, *facts: Any, **labels: Any) -> None:
        try:
            getattr(self._observer, method)(*facts, service=self._service, **labels)
        except Exception:  # the observer is the caller's, and a start must not be lost for a statistic
            log.log(
                logging.DEBUG if self._has_failed else logging.ERROR,
                "The observer failed at %s; later failures are logged at DEBUG.",
                facts[0],
                exc_info=True,
            )
            self._has_failed = True


#: Tells nobody.
SILENT = Metrics(None, "")
