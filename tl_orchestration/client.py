"""
The two clients, each with a loop that drives flows. The third driver is :mod:`tl_orchestration.poller`; nothing else
sends, sleeps or writes to a ledger for a flow.

Every verb is a flow that is written once, in :mod:`tl_orchestration.verbs`; ``Client`` and ``AsyncClient`` differ in
how a flow is driven and in nothing else. A parity test holds their signatures together.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self, TypeVar

from tl_orchestration.credentials import Credentials
from tl_orchestration.delivery import OnLink, checked_callback, perform, perform_awaited
from tl_orchestration.errors import LedgerError, TransactionlinkError, WaitInterrupted
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
)
from tl_orchestration.finishing import CancelledLate, finished, slept
from tl_orchestration.hints import HintSource
from tl_orchestration.ledger import Ledger
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.observer import Observer
from tl_orchestration.retry import RetryPolicy
from tl_orchestration.settings import Settings
from tl_orchestration.start import Step
from tl_orchestration.transport import AsyncWire, SyncWire
from tl_orchestration.verbs import Target, Verbs
from tl_orchestration.wait import Patience
from tl_orchestration.watcher import Watcher

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Longest time in which a sleeping synchronous client does not look at ``stop``, seconds.
_SLICE = 0.25


class Client(Verbs):
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


class AsyncClient(Verbs):
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
