"""
Flows driven to their end: a ledger answers for itself, the service by script, and time passes when a flow sleeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from attrs import define, field

from tests.builders import FakeClock
from tl_orchestration.delivery import perform
from tl_orchestration.errors import TransactionlinkError
from tl_orchestration.exchange import (
    AppendEvent,
    ClaimStart,
    Command,
    Deliver,
    Flow,
    ReadLedger,
    Request,
    Response,
    Sleep,
)
from tl_orchestration.ledger import Entry, Event, Ledger, MemoryLedger

T = TypeVar("T")


class Crashed(BaseException):
    """
    The process is gone: the flow is told nothing, and nothing that it had in mind happens.
    """


#: What the service does with a request: answers, fails, or sees the process die before or after taking it up.
Reaction = Response | TransactionlinkError | type[Crashed]


@define
class World:
    """
    A ledger, a clock and what the service will do next.

    Args:
        reactions: One for each request that will come.
        requests: Those that came.
    """

    reactions: Sequence[Reaction] = ()
    ledger: Ledger = field(factory=MemoryLedger)
    clock: FakeClock = field(factory=FakeClock)
    requests: list[Request] = field(factory=list)

    def will(self, *reactions: Reaction) -> World:
        """
        Add to what the service will do.
        """
        self.reactions = [*self.reactions, *reactions]
        return self

    def drive(self, flow: Flow[T]) -> T:
        """
        Drive a flow to its end, and return or raise what it does.
        """
        try:
            command = next(flow)
            while True:
                try:
                    reply = self._perform(command)
                except TransactionlinkError as error:
                    command = flow.throw(error)
                else:
                    command = flow.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    @property
    def paths(self) -> list[str]:
        """
        Where requests went, in order.
        """
        return [request.path for request in self.requests]

    def bodies(self, path: str) -> Iterable[dict[str, object]]:
        """
        What was sent there.
        """
        return [dict(request.json or {}) for request in self.requests if request.path == path]

    def _perform(self, command: Command) -> object:
        match command:
            case Sleep(seconds):
                self.clock.advance(seconds)
                return None
            case ReadLedger(key):
                return self.ledger.read(key)
            case ClaimStart(key, intent, after):
                return self.ledger.claim(key, intent, after)
            case AppendEvent(key, event):
                return self.ledger.append(key, event)
            case Deliver():
                perform(command)
                return None
        self.requests.append(command)
        assert self.reactions, f"nothing is scripted for {command.method} {command.path}"
        reaction, *self.reactions = self.reactions
        if isinstance(reaction, Response):
            return reaction
        raise reaction


class Mortal:
    """A ledger whose user dies before or after its n-th write."""

    def __init__(self, write: int, *, after: bool) -> None:
        self.inner = MemoryLedger()
        self.fenced = True
        self._left = write
        self._after = after

    def read(self, key: str) -> Entry | None:
        return self.inner.read(key)

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        self._die(before=True)
        written = self.inner.claim(key, intent, after)
        self._die(before=False)
        return written

    def append(self, key: str, event: Event) -> Entry:
        self._die(before=True)
        written = self.inner.append(key, event)
        self._die(before=False)
        return written

    def _die(self, *, before: bool) -> None:
        if before:
            self._left -= 1
        if self._left == 0 and before is not self._after:
            raise Crashed


class Hindered:
    """A ledger with something in the way of its writes."""

    fenced = True

    def __init__(self, inner: Any, claim: Any, append: Any = None) -> None:
        self.read, self.claim, self.append = inner.read, claim, append or inner.append
