"""
A service without sockets and a clock that need not be waited for: for tests of code that uses a client.

``FakeService`` is the current Transactionlink API as far as a client can tell. Its clients are real ones, with the real
start protocol, ledger, retries and waits; what would go on the wire goes to the fake instead, and every sleep passes at
once on the service's ``VirtualClock``. It is no oracle for the client itself: that is what the sandbox is for.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import threading
import uuid
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from attrs import define, evolve, field, frozen

from tl_orchestration.client import AsyncClient, Client
from tl_orchestration.credentials import OrganizationToken
from tl_orchestration.errors import NoAnswer, WaitInterrupted
from tl_orchestration.exchange import Clock, Command, Deliver, Operation, Request, Response, Sleep
from tl_orchestration.ledger import Ledger
from tl_orchestration.models import Execution
from tl_orchestration.observer import Observer
from tl_orchestration.retry import RetryPolicy
from tl_orchestration.services.transactionlink import read_time
from tl_orchestration.settings import Settings
from tl_orchestration.transport import AsyncWire, SyncWire
from tl_orchestration.verbs import Target
from tl_orchestration.wait import Patience

#: 2026-01-01T00:00:00Z, where a virtual clock begins unless told otherwise.
_NEW_YEAR = 1_767_225_600.0
_HOST = "service.test"
#: Rounds of an event loop in which nobody asks the clock for anything before it moves on.
_QUIET = 3
#: How long a clock waits for a thread before it looks again, real seconds.
_LOOK_AGAIN = 0.001


class VirtualClock:
    """
    Time that passes when somebody sleeps, and then at once.

    Of several coroutines that sleep in one event loop, the one that is due first wakes first. Threads that sleep push
    the clock on each by itself, so a test with several of them should not count on who is first.

    Args:
        now: Epoch seconds to begin with.
    """

    def __init__(self, now: float = _NEW_YEAR) -> None:
        self._began = now
        self._passed = 0.0
        self._order = itertools.count()
        self._plans: list[tuple[float, int, Callable[[], object]]] = []
        self._lock = threading.RLock()
        self._sleepers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Sleepers] = weakref.WeakKeyDictionary()
        self._stirred = 0
        self._at_work = 0

    def now(self) -> float:
        """
        Epoch seconds.
        """
        return self._began + self._passed

    def monotonic(self) -> float:
        """
        Seconds since the clock was made.
        """
        return self._passed

    def advance(self, seconds: float) -> None:
        """
        Let time pass, and what was planned for it happen on the way.
        """
        self._reach(self._passed + max(seconds, 0.0))

    #: What to patch ``time.sleep`` with.
    sleep = advance

    async def asleep(self, seconds: float) -> None:
        """
        Sleep in a coroutine: others that are due earlier get their turn first.
        """
        loop = asyncio.get_running_loop()
        sleepers = self._sleepers.setdefault(loop, _Sleepers())
        woken: asyncio.Future[None] = loop.create_future()
        heapq.heappush(sleepers.heap, (self._passed + max(seconds, 0.0), next(self._order), woken))
        self._stirred += 1
        if not sleepers.ticking:
            sleepers.ticking = True
            loop.call_soon(self._tick, loop, sleepers, self._stirred, 0)
        await woken

    def plan(self, seconds: float, action: Callable[[], object]) -> None:
        """
        Have something happen so many seconds from now, for example a person's decision.
        """
        with self._lock:
            heapq.heappush(self._plans, (self._passed + max(seconds, 0.0), next(self._order), action))

    def as_clock(self) -> Clock:
        """
        As clients take it.
        """
        return Clock(now=self.now, monotonic=self.monotonic)

    @contextmanager
    def waiting_for_a_thread(self) -> Iterator[None]:
        """
        Coroutines' time stands still: one of them waits for something real.
        """
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
            self._stirred += 1

    def _reach(self, moment: float) -> None:
        with self._lock:
            while self._plans and self._plans[0][0] <= moment:
                due, _, action = heapq.heappop(self._plans)
                self._passed = max(self._passed, due)
                action()
            self._passed = max(self._passed, moment)

    def _tick(self, loop: asyncio.AbstractEventLoop, sleepers: _Sleepers, stirred: int, quiet: int) -> None:
        while sleepers.heap and sleepers.heap[0][2].done():  # cancelled meanwhile
            heapq.heappop(sleepers.heap)
        if not sleepers.heap:
            sleepers.ticking = False
        elif self._at_work:
            loop.call_later(_LOOK_AGAIN, self._tick, loop, sleepers, self._stirred, 0)
        elif stirred != self._stirred or quiet < _QUIET:
            loop.call_soon(self._tick, loop, sleepers, self._stirred, quiet + 1 if stirred == self._stirred else 0)
        else:
            due, _, woken = heapq.heappop(sleepers.heap)
            self._reach(due)
            woken.set_result(None)
            loop.call_soon(self._tick, loop, sleepers, self._stirred, 0)


@define(eq=False)
class _Sleepers:
    """
    The coroutines of one event loop that sleep, by when they are due.
    """

    heap: list[tuple[float, int, asyncio.Future[None]]] = field(factory=list)
    ticking: bool = False


@frozen(kw_only=True)
class Script:
    """
    What an execution of a definition does.

    Args:
        ends: The service's literal at its end, such as ``COMPLETED`` or ``FAILED``.
        after: Seconds from start to end; None: not by itself, see :meth:`FakeService.end`.
        result: What it leaves; None: nothing.
        interactive: Whether the answer to the start has a link for a person.
        link_in_status: Whether the answers to polls have it as well, as long as the execution runs.
    """

    ends: str = "COMPLETED"
    after: float | None = 1.0
    result: Mapping[str, Any] | None = None
    interactive: bool = False
    link_in_status: bool = False


#: Definitions that every fake has. The sandbox has them too, under the same names.
SCRIPTS: Mapping[str, Script] = MappingProxyType(
    {
        "kyc-approve": Script(result={"decision": "approve", "riskScore": 12}),
        "kyc-expire": Script(ends="EXPIRED", after=3.0),
        "kyc-fail": Script(ends="FAILED"),
        "kyc-reject": Script(result={"decision": "reject", "riskScore": 87}),
        "kyc-review": Script(after=None, interactive=True),
        "kyc-slow": Script(after=600.0, result={"decision": "approve", "riskScore": 12}),
    }
)


@frozen(kw_only=True)
class Start:
    """
    A start that the service has carried out. ``at`` is in epoch seconds.
    """

    execution_id: str
    workflow_definition_id: str
    parameters: Mapping[str, Any] = field(repr=False)
    locale: str
    record_id: str | None
    at: float


@frozen(kw_only=True)
class Cancel:
    """
    A cancel that the service has carried out; ``took_effect`` is False where the execution was over already.
    """

    execution_id: str
    took_effect: bool
    at: float


@define(kw_only=True)
class _Kept:
    start: Start
    script: Script
    expires_at: float | None
    ended: str | None = None
    result: Mapping[str, Any] | None = None


#: What happens to a request: whether the service carries it out, and the answer or error instead of its own.
_Fate = tuple[bool, Response | NoAnswer]


class FakeService:
    """
    The service, in this process.

    Args:
        clock: Its time, and that of its clients.
        definitions: More definitions than :data:`SCRIPTS`, or others under their names.
    """

    def __init__(self, clock: VirtualClock | None = None, definitions: Mapping[str, Script] | None = None) -> None:
        self.clock = clock or VirtualClock()
        self._definitions = {**SCRIPTS, **(definitions or {})}
        self._executions: dict[str, _Kept] = {}
        self._fates: defaultdict[str, deque[_Fate]] = defaultdict(deque)
        self._lock = threading.RLock()
        #: Every start and every cancel that was carried out, whether or not the client was told.
        self.starts: list[Start] = []
        self.cancels: list[Cancel] = []
        #: Every request that a client has sent, lost ones included: method and path.
        self.requests: list[tuple[str, str]] = []

    def client(
        self,
        *,
        ledger: Ledger | None = None,
        settings: Settings | None = None,
        retry: RetryPolicy | None = None,
        observer: Observer | None = None,
    ) -> Client:
        """
        A Client of this service. Its arguments are those of Client.
        """
        return _FakeClient(self, ledger, settings, retry, observer)

    def async_client(
        self,
        *,
        ledger: Ledger | None = None,
        settings: Settings | None = None,
        retry: RetryPolicy | None = None,
        observer: Observer | None = None,
    ) -> AsyncClient:
        """
        An AsyncClient of this service. Its arguments are those of AsyncClient.
        """
        return _FakeAsyncClient(self, ledger, settings, retry, observer)

    def lose_answer(self, operation: Operation = "run", *, times: int = 1) -> None:
        """
        Carry out the next such requests and have their answers lost on the way.
        """
        self._will(operation, times, (True, NoAnswer("The answer was lost on the way.", sent=True)))

    def disconnect(self, operation: Operation = "run", *, times: int = 1) -> None:
        """
        Let nothing of the next such requests reach the service: no connection can be made.
        """
        self._will(operation, times, (False, NoAnswer("No connection could be made.", sent=False)))

    def refuse(
        self, operation: Operation = "run", status: int = 503, *, times: int = 1, retry_after: str | None = None
    ) -> None:
        """
        Carry out nothing of the next such requests, and answer with this status.
        """
        headers = {} if retry_after is None else {"retry-after": retry_after}
        answer = _answer({"errors": [{"code": "REFUSED", "message": "Refused as asked."}]}, status)
        self._will(operation, times, (False, evolve(answer, headers={**answer.headers, **headers})))

    def recover(self) -> None:
        """
        Forget what was ordered and has not happened yet.
        """
        with self._lock:
            self._fates.clear()

    def end(self, execution_id: str, literal: str = "COMPLETED", result: Mapping[str, Any] | None = None) -> None:
        """
        Have an execution end now, for example because a person has decided. One that is over stays as it is.

        Raises:
            LookupError: There is no such execution.
        """
        with self._lock:
            kept = self._executions[execution_id]
            if self._ending(kept) is None:
                kept.ended, kept.result = literal, result

    def status(self, execution_id: str) -> str:
        """
        The literal that a poll would be answered with.

        Raises:
            LookupError: There is no such execution.
        """
        with self._lock:
            return self._ending(self._executions[execution_id]) or "RUNNING"

    def _will(self, operation: str, times: int, fate: _Fate) -> None:
        with self._lock:
            self._fates[operation].extend([fate] * times)

    def _handle(self, request: Request) -> Response:
        """
        Raises:
            NoAnswer: As was ordered.
        """
        with self._lock:
            self.requests.append((request.method, request.path))
            fates = self._fates[request.operation]
            carried_out, instead = fates.popleft() if fates else (True, None)
            answer = self._carried_out(request) if carried_out else None
        if isinstance(instead, NoAnswer):
            raise NoAnswer(instead.message, sent=instead.sent)
        told = instead or answer
        assert told is not None
        return told

    def _carried_out(self, request: Request) -> Response:
        if request.operation == "run":
            return self._start(request)
        kept = self._executions.get(request.path.split("/")[2])
        if kept is None:
            return _refusal(404)
        if request.operation == "cancel":
            return self._cancel(kept)
        if request.operation == "result":
            return self._result(kept)
        shows_link = kept.script.link_in_status and self._ending(kept) is None
        return _answer(self._document(kept) | (_links(kept) if shows_link else {}))

    def _start(self, request: Request) -> Response:
        body = request.json or {}
        script = self._definitions.get(body["workflowDefinitionId"])
        if script is None:
            return _refusal(404)
        expires_at = read_time(body.get("expiresAt"))
        start = Start(
            execution_id=str(uuid.uuid4()),
            workflow_definition_id=body["workflowDefinitionId"],
            parameters=json.loads(json.dumps(body["parameters"])),
            locale=body["locale"],
            record_id=body.get("recordId"),
            at=self.clock.now(),
        )
        kept = _Kept(start=start, script=script, expires_at=None if expires_at is None else expires_at.timestamp())
        self.starts.append(start)
        self._executions[start.execution_id] = kept
        return _answer(self._document(kept) | _links(kept))

    def _cancel(self, kept: _Kept) -> Response:
        active = self._ending(kept) is None
        self.cancels.append(
            Cancel(execution_id=kept.start.execution_id, took_effect=active, at=self.clock.now()),
        )
        if not active:
            return _refusal(400)
        kept.ended = "CANCELLED"
        return Response(200)

    def _result(self, kept: _Kept) -> Response:
        ending = self._ending(kept)
        by_itself = kept.ended is None and ending == kept.script.ends
        result = kept.script.result if by_itself else kept.result
        return _refusal(404) if ending is None or result is None else _answer(result)

    def _ending(self, kept: _Kept) -> str | None:
        """
        How an execution has ended; None as long as it runs.
        """
        if kept.ended is not None:
            return kept.ended
        ends = None if kept.script.after is None else kept.start.at + kept.script.after
        now = self.clock.now()
        if ends is not None and ends <= min(now, kept.expires_at or now):
            return kept.script.ends
        return "EXPIRED" if kept.expires_at is not None and kept.expires_at <= now else None

    def _document(self, kept: _Kept) -> dict[str, Any]:
        expires_at = None if kept.expires_at is None else datetime.fromtimestamp(kept.expires_at, UTC).isoformat()
        return {
            "id": kept.start.execution_id,
            "workflowDefinitionId": kept.start.workflow_definition_id,
            "name": kept.start.workflow_definition_id,
            "recordId": kept.start.record_id,
            "status": self._ending(kept) or "RUNNING",
            "expiresAt": expires_at,
        }


def _links(kept: _Kept) -> dict[str, str]:
    if not kept.script.interactive:
        return {}
    return {"link": f"https://{_HOST}/{kept.start.execution_id}", "token": "page-token"}


def _answer(document: Mapping[str, Any], status: int = 200) -> Response:
    return Response(status, {"content-type": "application/json"}, json.dumps(document).encode())


def _refusal(status: int) -> Response:
    return _answer({"errors": [{"code": "FAKE", "message": "The fake service refuses this."}]}, status)


class _Line(SyncWire):
    """
    The fake service in place of connections.
    """

    def __init__(self, service: FakeService) -> None:
        self._service = service
        self._closed = False

    def close(self) -> None:
        self._closed = True

    def send(self, request: Request, stop: Callable[[], bool] | None = None) -> Response:
        if self._closed:
            raise RuntimeError("This client has been closed.")
        return self._service._handle(request)


class _AsyncLine(AsyncWire):
    """
    The same, awaited.
    """

    def __init__(self, service: FakeService) -> None:
        self._line = _Line(service)

    async def aclose(self) -> None:
        self._line.close()

    def turn(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def send(self, request: Request) -> Response:
        await asyncio.sleep(0)  # as on a wire, others get their turn
        return self._line.send(request)


def _arguments(
    service: FakeService,
    ledger: Ledger | None,
    settings: Settings | None,
    retry: RetryPolicy | None,
    observer: Observer | None,
) -> dict[str, Any]:
    return {
        "credentials": OrganizationToken("tot_fake"),
        "base_url": f"http://{_HOST}",  # nothing listens there, and nothing is sent there
        "ledger": ledger,
        "settings": evolve(settings or Settings(), allowed_hosts=(f"http://{_HOST}",)),
        "retry": retry,
        "clock": service.clock.as_clock(),
        "observer": observer,
    }


class _FakeClient(Client):
    def __init__(self, service: FakeService, *arguments: Any) -> None:
        super().__init__(**_arguments(service, *arguments))
        self._wire.close()
        self._wire = _Line(service)
        self._time = service.clock

    def _perform(self, command: Command, stop: Callable[[], bool] | None) -> Any:
        if not isinstance(command, Sleep):
            return super()._perform(command, stop)
        if stop is not None and stop():
            raise WaitInterrupted("Stopped as asked, between two polls.")
        return self._time.sleep(command.seconds)


class _FakeAsyncClient(AsyncClient):
    def __init__(self, service: FakeService, *arguments: Any) -> None:
        super().__init__(**_arguments(service, *arguments))
        self._wire = _AsyncLine(service)
        self._time = service.clock

    async def wait(
        self, execution: Target, timeout: float | None = None, *, patience: Patience | None = None
    ) -> Execution:
        # Not by the watcher: that sleeps by timers of the event loop.
        return await self._drive(self._wait(execution, timeout, patience))

    async def _perform(self, command: Command) -> Any:
        if isinstance(command, Sleep):
            return await self._time.asleep(command.seconds)
        if isinstance(command, Request | Deliver):
            return await super()._perform(command)
        with self._time.waiting_for_a_thread():
            return await super()._perform(command)


__all__ = ["Cancel", "FakeService", "Script", "Start", "VirtualClock"]
