"""
All that a flow may ask of the world.

A flow (a verb of a service, a wait, a start) is a generator: it yields one of these commands and is sent the reply,
or has the error thrown in. It never sends, sleeps or reads a clock of its own, so it can be driven by hand in a test.
Else it is driven by one of the two loops in :mod:`tl_orchestration.client` or by :mod:`tl_orchestration.poller`, and
nothing else sends for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from attrs import evolve, field, frozen

from tl_orchestration.ledger.entry import Entry, Event
from tl_orchestration.secret import Secret

if TYPE_CHECKING:
    from tl_orchestration.models import Execution

T = TypeVar("T")

#: Seconds at the end of ``Request.within`` in which a request must not be held back any more.
LAST_MOMENT = 5.0
#: The operations that a request can stand for, in the words of the product.
Operation = Literal["run", "prepare", "poll", "result", "cancel", "check", "authorize"]


@frozen
class Request:
    """
    One HTTP request, without host, credential or time-out: those belong to the client.

    Args:
        operation: The verb that it serves; used in messages and logs.
        method: HTTP method.
        path: Path below the base URL; ids in it have been checked.
        json: Body; may be personal data, so it is never shown.
        accept: Value of the ``Accept`` header.
        repeatable: Whether it may be sent again when its fate is unknown. Never true for a start.
        query: Query values that grant access; they are put on the wire below everything that logs URLs.
        earlier: What earlier requests of the same start have sent, so that it is scrubbed from errors as well.
        over_by: Epoch seconds by which a start that is announced in a ledger has to be over. If its time-out could end
            later, it is not sent.
        within: Seconds for the request and its whole answer, tries of a retry policy together; None: the settings say.
            Who drives many flows may hold the request back for all of it but the last ``LAST_MOMENT`` seconds.
    """

    operation: Operation
    method: str
    path: str
    json: Mapping[str, Any] | None = field(default=None, repr=False)
    accept: str = "*/*"
    repeatable: bool = True
    query: Mapping[str, Secret] = field(factory=dict, repr=False)
    earlier: object = field(default=None, repr=False)
    over_by: float | None = field(default=None, eq=False)
    within: float | None = field(default=None, eq=False)

    def after(self, seconds: float) -> Request:
        """
        The same request, once it has been held back for so long.
        """
        return self if self.within is None else evolve(self, within=max(0.0, self.within - seconds))


@frozen
class Response:
    """
    A whole answer. Header names are lower case; the body is bounded and not decoded.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@frozen
class Sleep:
    """
    Let so many seconds pass. ``stoppable``: a caller who wants to stop need not wait for their end. ``hintable``: a
    hint that the execution has changed ends it; the reply says whether one did. ``with_hints``: seconds instead, where
    hints can be heard.
    """

    seconds: float
    stoppable: bool = True
    hintable: bool = False
    with_hints: float | None = None


@frozen
class ReadLedger:
    """
    Read the entry of a key; the reply is an Entry or None.
    """

    key: str


@frozen
class ClaimStart:
    """
    Record the intent to start, if the entry is still as it was read; the reply is the new Entry.
    """

    key: str
    intent: Event
    after: Entry | None = None


@frozen
class AppendEvent:
    """
    Record what happened to a key; the reply is the new Entry.
    """

    key: str
    event: Event


@frozen
class Deliver:
    """
    Hand the link of an interactive execution over, by the caller's own callable. What it returns is of no matter.
    """

    on_link: Callable[[Execution], object] = field(repr=False)
    execution: Execution


Command = Request | Sleep | ReadLedger | ClaimStart | AppendEvent | Deliver
Flow = Generator[Command, Any, T]

#: How a service verb has its requests sent: once, or as persistently as a policy allows.
Send = Callable[[Request], Flow[Response]]


def once(request: Request) -> Flow[Response]:
    """
    Send a request a single time.
    """
    response: Response = yield request
    return response


@frozen
class Clock:
    """
    Time, handed to whatever needs it: ``now`` in epoch seconds across processes, ``monotonic`` within one.
    """

    now: Callable[[], float]
    monotonic: Callable[[], float]
