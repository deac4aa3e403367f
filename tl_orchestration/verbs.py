"""
Each verb as a flow that is written once; the two clients and the watcher drive it.
"""

from __future__ import annotations

import math
import random
import time
import uuid
from typing import Any, TypeVar

from attrs import evolve

from tl_orchestration.answers import safe_id
from tl_orchestration.claim import SETTLE_MARGIN, SETTLE_WINDOW
from tl_orchestration.credentials import Credentials
from tl_orchestration.delivery import OnLink, hand_over
from tl_orchestration.errors import InvalidRequest, InvalidSettings, TransactionlinkError
from tl_orchestration.exchange import Clock, Flow, Request, Response, once
from tl_orchestration.fingerprint import fingerprint
from tl_orchestration.ledger import Event, Ledger, State
from tl_orchestration.ledger.namespace import bound, namespace_of
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.observer import Metrics, Observer
from tl_orchestration.retry import RetryBudget, RetryPolicy, persistently
from tl_orchestration.services import Service, service_named
from tl_orchestration.settings import Settings
from tl_orchestration.settings import base_url as checked_base_url
from tl_orchestration.start import Step, start_once, start_unrecorded
from tl_orchestration.wait import Patience, record, settle, wait

T = TypeVar("T")

#: Seconds from the start of an execution to its deadline, where the caller names none.
_DEFAULT_TIMEOUT = 24 * 3600.0
#: A century: a longer time-out ends no earlier, and its deadline can still be written as a date.
_LONGEST_TIMEOUT = 100 * 365 * 86400.0
_PATIENCE = Patience()

Target = Execution | Handle | str


class Verbs:
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
        seconds = _positive(_DEFAULT_TIMEOUT if timeout is None else timeout)
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


__all__ = ["Target", "Verbs"]
