"""
The two clients, each with a loop that drives flows. The third driver is :mod:`tl_orchestration.poller`; nothing else
sends, sleeps or writes to a ledger for a flow.

Every verb is a flow that is written once; ``Client`` and ``AsyncClient`` differ in how a flow is driven and in
nothing else. A parity test holds their signatures together.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import random
import time
import uuid
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import evolve

from tl_orchestration.answers import safe_id
from tl_orchestration.claim import SETTLE_MARGIN, SETTLE_WINDOW
from tl_orchestration.credentials import Credentials
from tl_orchestration.delivery import OnLink, checked_callback, hand_over, perform, perform_awaited
from tl_orchestration.errors import InvalidRequest, InvalidSettings, LedgerError, TransactionlinkError, WaitInterrupted
from tl_orchestration.exchange import (
    AppendEvent,
    ClaimStart,
    Clock,
    Command,
    Deliver,
    Flow,
    ReadLedger,
    Request,
    Response,
    Sleep,
    once,
)
from tl_orchestration.fingerprint import fingerprint
from tl_orchestration.finishing import CancelledLate, finished, slept
from tl_orchestration.hints import HintSource
from tl_orchestration.ledger import Event, Ledger, State
from tl_orchestration.ledger.namespace import bound, namespace_of
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.observer import Metrics, Observer
from tl_orchestration.retry import RetryBudget, RetryPolicy, persistently
from tl_orchestration.services import Service, service_named
from tl_orchestration.settings import Settings
from tl_orchestration.settings import base_url as checked_base_url
from tl_orchestration.start import Step, start_once, start_unrecorded
from tl_orchestration.transport import AsyncWire, SyncWire
from tl_orchestration.wait import Patience, record, settle, wait
from tl_orchestration.watcher import Watcher

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Seconds from the start of an execution to its deadline, where the caller names none.
DEFAULT_TIMEOUT = 24 * 3600.0
#: A century: a longer time-out ends no earlier, and its deadline can still be written as a date.
_LONGEST_TIMEOUT = 100 * 365 * 86400.0
#: Longest time in which a sleeping synchronous client does not look at ``stop``, seconds.
_SLICE = 0.25
_PATIENCE = Patience()

Target = Execution | Handle | str


class _Verbs:
    """
    What both clients know: the service, the settings, and each verb as a flow.
    """

    def __init__(
        self,
        credentials: Credentials,
        base_url: str | None = None,
        service: str = "transactionlink",
        ledger: Ledger | None = None,
        settings: Settings | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        build = service_named(service)
        if not isinstance(credentials, Credentials):
            raise InvalidSettings("credentials must be a credential such as OrganizationToken('tot_…').")
        self._credentials = credentials
        self._settings = settings or Settings()
        self._clock = clock or Clock(now=time.time, monotonic=time.monotonic)
        _check_fit(credentials, service)
        self._service: Service = build.configured(credentials, self._settings, self._clock.now)
        self.base_url = checked_base_url(base_url or self._service.default_base_url, self._settings.allowed_hosts)
        self.service: str = self._service.name
        namespace = namespace_of(service, self.base_url, self._settings.workspace_id)
        self.ledger = None if ledger is None else bound(ledger, namespace)
        self._metrics = Metrics(observer, service)
        self._retry = retry or RetryPolicy()
        self._retry_budget = RetryBudget()
        self._rng = random.Random()  # noqa: S311 -- jitter

    def _persistently(self, request: Request) -> Flow[Response]:
        return persistently(request, self._retry, self._clock, self._rng, self._retry_budget)

    def _run(
        self, request: RunRequest, key: str | Step | None, timeout: float | None, on_link: OnLink | None
    ) -> Flow[Execution]:
        execution = yield from self._begin(request, key, timeout, on_link)
        yield from self._deliver(execution, on_link)
        return execution

    def _begin(
        self, request: RunRequest, key: str | Step | None, timeout: float | None, on_link: OnLink | None
    ) -> Flow[Execution]:
        return self._counted(self._start(request, key, timeout, delivers=on_link is not None))

    def _deliver(self, execution: Execution, on_link: OnLink | None) -> Flow[None]:
        if on_link is not None:
            yield from hand_over(execution, on_link, self._clock)

    def _start(
        self, request: RunRequest, key: str | Step | None, timeout: float | None, *, delivers: bool
    ) -> Flow[Execution]:
        seconds = _positive(DEFAULT_TIMEOUT if timeout is None else timeout)
        service = self._service.for_request(request)
        if key is None:
            return start_unrecorded(service, request, timeout=seconds, clock=self._clock, start=self._persistently)
        if self.ledger is None:
            raise InvalidSettings("A key needs a ledger: give the client one, for example MemoryLedger().")
        step = key if isinstance(key, Step) else Step(key=key)
        return start_once(
            service,
            request,
            step,
            identity=fingerprint(request, self._credentials.fingerprint_secret()),
            timeout=seconds,
            clock=self._clock,
            start=self._persistently,
            repeat=self._persistently,
            settle=self._settle_window(step),
            fenced=self.ledger.fenced,
            delivers=delivers,
        )

    def _counted(self, start: Flow[Execution]) -> Flow[Execution]:
        try:
            execution = yield from start
        except TransactionlinkError as error:
            self._metrics.not_started(error)
            raise
        self._metrics.started(execution)
        return execution

    def _settle_window(self, step: Step) -> float:
        longest = step.most_sends * (self._retry.total + self._settings.request_timeout) + SETTLE_MARGIN
        if not math.isfinite(longest):
            raise InvalidSettings("A start with a key needs an end: give request_timeout and the retries' total one.")
        return max(SETTLE_WINDOW, longest)

    def _target(self, target: Target) -> tuple[Service, Handle]:
        handle = _handle(target, self._service.name)
        client_token = target.client_token if isinstance(target, Execution) else None
        return self._service.for_execution(handle, client_token), handle

    def _poll(self, target: Target) -> Flow[Execution]:
        service, handle = self._target(target)
        execution = yield from _naming(handle, service.poll(handle.execution_id, self._persistently))
        if execution.is_terminal:
            yield from settle(execution, handle, self._clock)
        return evolve(execution, handle=evolve(handle, expires_at=execution.handle.expires_at or handle.expires_at))

    def _wait(self, target: Target, timeout: float | None, patience: Patience | None) -> Flow[Execution]:
        service, handle = self._target(target)
        if timeout is not None:
            ends = self._clock.now() + _positive(timeout)
            handle = evolve(handle, deadline=ends if handle.deadline is None else min(ends, handle.deadline))
        began = self._clock.monotonic()
        try:
            waiting = wait(
                service,
                handle,
                patience or _PATIENCE,
                send=once,
                repeat=self._persistently,
                clock=self._clock,
                rng=self._rng,
                metrics=self._metrics,
                proven=not isinstance(target, str),  # a bare id may be asked about for the first time
            )
            execution = yield from _naming(handle, waiting)
        except TransactionlinkError as error:
            self._metrics.waited(self._clock.monotonic() - began, error)
            raise
        self._metrics.waited(self._clock.monotonic() - began, execution)
        return evolve(execution, handle=evolve(handle, expires_at=execution.handle.expires_at or handle.expires_at))

    def _result(self, target: Target) -> Flow[dict[str, Any]]:
        service, handle = self._target(target)
        return _naming(handle, service.result(handle.execution_id, self._persistently))

    def _cancel(self, target: Target) -> Flow[Execution]:
        service, handle = self._target(target)
        if service.can_cancel:
            asked = Event(state=State.CANCEL_REQUESTED, at=self._clock.now(), reason="cancel was called")
            yield from record(handle, asked)
        execution = yield from _naming(handle, service.cancel(handle.execution_id, self._persistently))
        if execution.is_terminal:
            yield from settle(execution, handle, self._clock)
        return evolve(execution, handle=evolve(handle, expires_at=execution.handle.expires_at or handle.expires_at))

    def _check(self) -> Flow[None]:
        return self._service.check(str(uuid.uuid4()), self._persistently)


class Client(_Verbs):
    """
    Runs, polls, waits for, reads and cancels executions. One client may serve many threads.

    Args:
        credentials: ``OrganizationToken("tot_…")``; ``WorkspaceKey(key, secret)`` for the legacy API;
            ``B3osKey("b3sk_…")`` for B3OS.
        base_url: Where the service is; None: the vendor's own host.
        service: Which API: ``transactionlink``, ``transactionlink-legacy`` or ``b3os``.
        ledger: Keeps starts with a ``key`` from happening twice. A store that serves several services is bound to
            this one: ``client.ledger`` is the bound one.
        settings: Time-outs, proxy, certificates, limits.
        retry: How persistently requests that may be repeated are repeated.
        clock: For tests.
        observer: Told of starts, polls, waits and what is in flight; see :mod:`tl_orchestration.observer`.

    Raises:
        InvalidSettings: Something about these is wrong. Nothing was sent.
    """

    def __init__(
        self,
        credentials: Credentials,
        base_url: str | None = None,
        service: str = "transactionlink",
        ledger: Ledger | None = None,
        settings: Settings | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(credentials, base_url, service, ledger, settings, retry, clock, observer)
        self._wire = SyncWire(self.base_url, self._credentials, self._settings, self._clock.now)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connections.
        """
        self._wire.close()

    def run(
        self,
        request: RunRequest,
        key: str | Step | None = None,
        *,
        timeout: float | None = None,
        stop: Callable[[], bool] | None = None,
        on_link: OnLink | None = None,
    ) -> Execution:
        """
        Start an execution and return at once.

        Args:
            request: What to run.
            key: Names the caller's step in the ledger: whoever calls again with it gets the same execution. It is
                stored and shown in clear, so it must not be personal.
            timeout: Seconds until the execution's deadline; a day where none is given. The request's expiry follows
                it unless the request has its own.
            stop: Looked at while nothing is at stake: once it returns True, this ends before a start or a re-attach.
                A start that is under way is never interrupted, because its fate would be unknown.
            on_link: Called with the execution before this returns, if a person has to act in it: it has ``link`` and
                ``token``, and whoever can call ``reveal()`` on them has access. With a key at least once, and no more
                once the delivery is recorded; the link itself is recorded nowhere.

        Raises:
            WaitInterrupted: ``stop`` said so; nothing was started.
            LinkNotDelivered: ``on_link`` failed. The execution has started.
            LinkLost: An earlier call with the key may have failed to deliver, and the link cannot be had again; see
                :class:`~tl_orchestration.start.Step`.
            StartOutcomeUnknown: It may or may not have started, and was not repeated.
            InvalidRequest, AuthenticationError, PermissionDenied, NotFound, RateLimited, NoAnswer: It did not start.
            RequestChanged: The key has started something else.
            KeyPurged: The ledger was told to forget what the key has started.
            LedgerError: The ledger could not record the intent, or another process starts with this key; it did not
                start.
        """
        return self._drive(self._run(request, key, timeout, checked_callback(on_link, awaited=False)), stop)

    def poll(self, execution: Target) -> Execution:
        """
        Ask once how an execution stands.

        Raises:
            NotFound: There is no such execution.
            TransactionlinkError: See the tree in :mod:`tl_orchestration.errors`.
        """
        return self._drive(self._poll(execution))

    def wait(
        self,
        execution: Target,
        timeout: float | None = None,
        *,
        patience: Patience | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Execution:
        """
        Wait until an execution has ended, and return it whatever its ending.

        Args:
            execution: From :meth:`run`, a handle, or an id. Only what :meth:`run` returned is cancelled at the
                deadline, unless ``patience`` says otherwise.
            timeout: Seconds from now; it can bring the execution's own deadline forward, not put it off. An id alone
                has no deadline but its expiry.
            patience: Intervals, error budget, whether to cancel at the deadline.
            stop: Looked at every quarter of a second; once it returns True, the wait ends.

        Raises:
            WaitTimeout: The deadline or the expiry has passed.
            WaitInterrupted: ``stop`` said so.
            TransactionlinkError: What a poll failed with, for longer than the error budget.
        """
        return self._drive(self._wait(execution, timeout, patience), stop)

    def result(self, execution: Target) -> dict[str, Any]:
        """
        The result of an execution: a JSON object whose members depend on the definition.

        Raises:
            ResultNotReady: It has not ended.
            NoResult: It has ended without a result.
            NotFound: There is no such execution.
        """
        return self._drive(self._result(execution))

    def cancel(self, execution: Target) -> Execution:
        """
        Cancel an execution and return how it then stands. One that is already over is no error.

        Raises:
            NotFound: There is no such execution.
            NotSupported: This service cannot cancel. Nothing was sent.
            NotCancellableYet: It cannot be cancelled at this stage (B3OS, before there is a run).
            TransactionlinkError: The service refused or did not answer.
        """
        return self._drive(self._cancel(execution))

    def check(self) -> None:
        """
        Show that host, TLS and credential work, by a GET that starts nothing.

        Raises:
            TransactionlinkError: What does not work.
        """
        self._drive(self._check())

    def _drive(self, flow: Flow[T], stop: Callable[[], bool] | None = None) -> T:
        try:
            command = next(flow)
            while True:
                try:
                    reply = self._perform(command, stop)
                except TransactionlinkError as error:
                    command = flow.throw(error)
                else:
                    command = flow.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    def _perform(self, command: Command, stop: Callable[[], bool] | None) -> Any:
        if isinstance(command, Request):
            if not command.repeatable and stop is not None:
                # Once a start is under way, ending it early would only make its fate unknown.
                if stop():
                    raise WaitInterrupted(f"Stopped as asked, before {command.operation}.")
                stop = None
            self._metrics.sending()
            try:
                response = self._wire.send(command, stop)
            except BaseException as error:
                self._metrics.unanswered(command, error)
                raise
            self._metrics.answered(command, response)
            return response
        if isinstance(command, ReadLedger | ClaimStart | AppendEvent):
            return _ledger_call(self.ledger, command)
        if isinstance(command, Deliver):
            return perform(command)
        return _sleep(command.seconds, stop if command.stoppable else None)


class AsyncClient(_Verbs):
    """
    As :class:`Client`, awaited. Each event loop that uses it has connections of its own; close it in each.

    With an ``inbox`` (:class:`tl_orchestration.webhooks.inbox.Inbox`), webhooks make waits poll at once, and else they
    poll rarely. The caller closes it.
    """

    def __init__(
        self,
        credentials: Credentials,
        base_url: str | None = None,
        service: str = "transactionlink",
        ledger: Ledger | None = None,
        settings: Settings | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        inbox: HintSource | None = None,
    ) -> None:
        super().__init__(credentials, base_url, service, ledger, settings, retry, clock, observer)
        self._wire = AsyncWire(self.base_url, self._credentials, self._settings, self._clock.now)
        self._watcher = Watcher(self, requests_per_second=self._settings.requests_per_second, inbox=inbox)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """
        End all waits with ``WaitInterrupted`` and close the connections of this event loop.
        """
        await self._watcher.close()
        await self._wire.aclose()

    async def run(
        self,
        request: RunRequest,
        key: str | Step | None = None,
        *,
        timeout: float | None = None,
        on_link: OnLink | None = None,
    ) -> Execution:
        """
        As :meth:`Client.run`. What ``on_link`` returns is awaited, if it can be. Cancelling the task is like ``stop``:
        a start that is under way is finished and recorded before the cancellation goes on.
        """
        callback = checked_callback(on_link, awaited=True)
        async with self._wire.turn():
            execution = await self._drive(self._begin(request, key, timeout, callback))
        await self._drive(self._deliver(execution, callback))
        return execution

    async def poll(self, execution: Target) -> Execution:
        """
        As :meth:`Client.poll`.
        """
        return await self._drive(self._poll(execution))

    async def wait(
        self, execution: Target, timeout: float | None = None, *, patience: Patience | None = None
    ) -> Execution:
        """
        As :meth:`Client.wait`; cancelling the task ends it, and leaves the execution alone. All waits of a client
        share one :class:`~tl_orchestration.watcher.Watcher`, so thousands of them are no burden.
        """
        return await self._watcher.wait(execution, timeout, patience=patience)

    async def result(self, execution: Target) -> dict[str, Any]:
        """
        As :meth:`Client.result`.
        """
        return await self._drive(self._result(execution))

    async def cancel(self, execution: Target) -> Execution:
        """
        As :meth:`Client.cancel`.
        """
        return await self._drive(self._cancel(execution))

    async def check(self) -> None:
        """
        As :meth:`Client.check`.
        """
        await self._drive(self._check())

    async def _drive(self, flow: Flow[T]) -> T:
        cancelled = False
        try:
            command = next(flow)
            while True:
                try:
                    if cancelled and _may_be_left(command):
                        raise WaitInterrupted("The task was cancelled.")
                    try:
                        reply = await self._perform(command)
                    except CancelledLate as late:
                        cancelled = True
                        reply = late.result()
                except TransactionlinkError as error:
                    command = flow.throw(error)
                else:
                    command = flow.send(reply)
        except StopIteration as done:
            if cancelled:
                raise _left_as_it_is(done.value) from None
            return done.value  # type: ignore[no-any-return]
        except TransactionlinkError as error:
            if cancelled:
                raise _left_as_it_is(error) from None
            raise
        finally:
            flow.close()

    async def _perform(self, command: Command) -> Any:
        if isinstance(command, Request):
            if command.repeatable:
                return await self._send(command)
            return await finished(asyncio.ensure_future(self._send(command)))
        if isinstance(command, ReadLedger | ClaimStart | AppendEvent):
            call = functools.partial(copy_context().run, _ledger_call, self.ledger, command)
            return await finished(asyncio.get_running_loop().run_in_executor(None, call))
        if isinstance(command, Deliver):
            return await perform_awaited(command)
        return await (asyncio.sleep if command.stoppable else slept)(command.seconds)

    async def _send(self, request: Request) -> Response:
        self._metrics.sending()
        try:
            response = await self._wire.send(request)
        except BaseException as error:
            self._metrics.unanswered(request, error)
            raise
        self._metrics.answered(request, response)
        return response


def _may_be_left(command: Command) -> bool:
    """
    Whether a cancelled call does without it: it sends and hands over nothing more, and still records what it knows.
    """
    return isinstance(command, Request | Deliver) or (isinstance(command, Sleep) and command.stoppable)


def _left_as_it_is(outcome: object) -> asyncio.CancelledError:
    """
    The cancellation of a call that has come to its outcome meanwhile, which then only the log can tell.
    """
    if isinstance(outcome, Execution):
        log.warning("The call was cancelled; execution %s is left as it is (%s).", outcome.id, outcome.status)
    elif isinstance(outcome, TransactionlinkError) and not isinstance(outcome, WaitInterrupted):
        log.warning("The call was cancelled. %s", outcome)
    return asyncio.CancelledError()


def _ledger_call(ledger: Ledger | None, command: ReadLedger | ClaimStart | AppendEvent) -> Any:
    if ledger is None:
        raise LedgerError("This execution has a key, and the client has no ledger to record it in.")
    try:
        match command:
            case ReadLedger(key):
                return ledger.read(key)
            case ClaimStart(key, intent, after):
                return ledger.claim(key, intent, after)
            case AppendEvent(key, event):
                return ledger.append(key, event)
    except TransactionlinkError:
        raise
    except Exception as error:
        raise LedgerError(f"The ledger failed with {type(error).__name__}.") from error


def _sleep(seconds: float, stop: Callable[[], bool] | None) -> None:
    if stop is None:
        time.sleep(seconds)
        return
    ends = time.monotonic() + seconds
    while not stop():
        remaining = ends - time.monotonic()
        if remaining <= 0:
            return
        time.sleep(min(remaining, _SLICE))
    raise WaitInterrupted("Stopped as asked, between two polls.")


def _check_fit(credentials: Credentials, service: str) -> None:
    """
    Raises:
        InvalidSettings: The credential says which services it is for, and this is none of them.
    """
    services: frozenset[str] | None = getattr(credentials, "services", None)
    if services is not None and service not in services:
        fitting = "B3osKey (or B3osPublic)" if service == "b3os" else "OrganizationToken or WorkspaceKey"
        raise InvalidSettings(f"{type(credentials).__name__} is no credential of {service}; give it {fitting}.")


def _handle(target: Target, service: str) -> Handle:
    if isinstance(target, Execution | Handle):
        handle = target.handle if isinstance(target, Execution) else target
        if handle.service != service:
            raise InvalidRequest(
                f"Execution {handle.execution_id} lives in the service {handle.service}, and this client is one of"
                f" {service}. Nothing was sent. Use a client of {handle.service}.",
                execution_id=handle.execution_id,
            )
        return handle
    identifier = safe_id(target)
    if identifier is None:
        raise InvalidRequest("An execution id has letters, digits, '-', '_' and '.', and at most 128 characters.")
    return Handle(execution_id=identifier, service=service)


def _naming(handle: Handle, flow: Flow[T]) -> Flow[T]:
    """
    Have whatever goes wrong say to which execution.
    """
    try:
        return (yield from flow)
    except TransactionlinkError as error:
        error.about(handle.execution_id)
        raise


def _positive(seconds: float) -> float:
    if not 0 < seconds < float("inf"):
        raise InvalidRequest(f"timeout must be a positive number of seconds, not {seconds!r}.")
    return float(min(seconds, _LONGEST_TIMEOUT))
