"""
An event loop whose time jumps to the next thing that is due, and a service that answers in it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.builders import NOW, document, response
from tl_orchestration import AsyncClient, OrganizationToken, Settings
from tl_orchestration.exchange import Clock, Request, Response

T = TypeVar("T")

#: Longest real time in which a loop that has nothing to do is waiting for a thread, seconds.
_PATIENCE = 10.0


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """
    Sleeps take no time, and ``time()`` counts them from zero.
    """

    def __init__(self) -> None:
        self.passed = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.passed

    def clock(self) -> Clock:
        """
        The same time for a client; its wall clock begins at ``NOW``.
        """
        return Clock(now=lambda: NOW + self.passed, monotonic=self.time)


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            events = super().select(_PATIENCE)
            assert events, "nothing will ever happen in this loop"
            return events
        self._loop.passed += max(timeout, 0.0)
        return super().select(0)


def in_virtual_time(main: Callable[[VirtualTimeLoop], Coroutine[Any, Any, T]]) -> T:
    """
    Run a coroutine in a loop of its own. What the loop is told of, such as an exception that nobody has seen, fails.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        complaints: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        result = runner.run(main(loop))
    assert complaints == []
    return result


#: What a service says about an execution at a time of the loop.
Says = Callable[[str, float], Response | BaseException]


def about(execution_id: str, status: str = "RUNNING") -> Response:
    """
    The answer to a poll.
    """
    return response(200, document(status, id=execution_id, expiresAt=None))


def ends_at(seconds: Callable[[str], float]) -> Says:
    """
    Executions that are COMPLETED from such a time on.
    """
    return lambda execution_id, now: about(execution_id, "COMPLETED" if now >= seconds(execution_id) else "RUNNING")


class VirtualService:
    """
    Answers a client's requests in place of its connections, and remembers them.

    Args:
        says: Its answer to a poll; an exception is raised.
        takes: Seconds until it answers.
    """

    def __init__(self, says: Says, takes: float = 0.01) -> None:
        self._says = says
        self._takes = takes
        self.requests: list[tuple[float, Request]] = []
        self.in_flight = 0
        self.peak = 0
        self.abandoned = 0
        self.before_answer: Callable[[Request], None] = lambda request: None

    @property
    def times(self) -> list[float]:
        """
        When requests began.
        """
        return [moment for moment, _ in self.requests]

    def polls(self) -> Counter[str]:
        """
        Requests by execution.
        """
        return Counter(request.path.rpartition("/")[2] for _, request in self.requests)

    async def send(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        self.requests.append((loop.time(), request))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            self.before_answer(request)
            await asyncio.sleep(self._takes)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        finally:
            self.in_flight -= 1
        outcome = self._says(request.path.rpartition("/")[2], loop.time())
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """
        There is nothing to close.
        """


def client_of(service: VirtualService, clock: Clock | None = None, **options: Any) -> AsyncClient:
    """
    A client that speaks to the virtual service.
    """
    settings = options.pop("settings", None) or Settings()
    client = AsyncClient(OrganizationToken("tot_x"), "http://127.0.0.1:1", settings=settings, clock=clock, **options)
    client._wire = service  # type: ignore[assignment]  # the only part that would open a socket
    return client
