"""
One remote API in our vocabulary: what a service file has to give, and what most of them have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self

from tl_orchestration.credentials import Credentials
from tl_orchestration.errors import InvalidRequest, TransactionlinkError
from tl_orchestration.exchange import Flow, Send
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.secret import Secret
from tl_orchestration.settings import Settings

#: Nothing is known of an attempt yet.
NOTHING: Mapping[str, str] = MappingProxyType({})
#: Name, among the ids of an attempt, of the key that a keyed service gets with every start.
IDEMPOTENCY_KEY = "idempotency_key"


class Service(Protocol):
    """
    One remote API. Each verb is a generator; ``send`` decides how persistently each request is sent.

    ``keyed`` says whether a start carries an idempotency key, so that the same start may be asked for again.
    ``holds_parameters`` names, among what :meth:`needs` names, what is made of the request's parameters.
    """

    name: ClassVar[str]
    default_base_url: ClassVar[str]
    keyed: ClassVar[bool] = False
    holds_parameters: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def configured(cls, credentials: Credentials, settings: Settings, now: Callable[[], float]) -> Self:
        """
        The service as a client uses it.
        """
        ...

    @property
    def can_cancel(self) -> bool:
        """
        Whether an execution can be cancelled at all. Where not, ``cancel`` raises NotSupported and sends nothing.
        """
        return True

    def for_request(self, request: RunRequest) -> Self:
        """
        The service as this request needs it.

        Raises:
            InvalidRequest: This service cannot run such a request. Nothing was sent or recorded.
        """
        ...

    def for_execution(self, handle: Handle, client_token: Secret | None) -> Self:
        """
        The service as this execution has to be asked about.
        """
        return self

    def handle_of(self, execution_id: str) -> Handle:
        """
        What is needed to ask this service about an execution, without having asked.
        """
        return Handle(execution_id=execution_id, service=self.name)

    def expiry(self, request: RunRequest, now: float, timeout: float) -> datetime | None:
        """
        When the service is to end the execution by itself; None where it has no such thing.
        """
        return None

    def needs(self, request: RunRequest, known: Mapping[str, str]) -> tuple[str, ...]:
        """
        Names of the ids that have to be made, in this order, before the start; without those that are known.
        """
        return ()

    def make(self, name: str, request: RunRequest, send: Send) -> Flow[str]:
        """
        Make what :meth:`needs` has named and return its id. Whatever becomes of it, no execution has started.
        """
        raise LookupError(f"{self.name} makes no {name}")

    def run(
        self, request: RunRequest, expires_at: datetime | None, send: Send, known: Mapping[str, str] = NOTHING
    ) -> Flow[Execution]:
        """
        Start. ``known`` holds the ids of this attempt: all that :meth:`needs` names, and a keyed service's key.
        """
        ...

    def poll(self, execution_id: str, send: Send) -> Flow[Execution]: ...
    def result(self, execution_id: str, send: Send) -> Flow[dict[str, Any]]: ...
    def cancel(self, execution_id: str, send: Send) -> Flow[Execution]: ...
    def check(self, probe_id: str, send: Send) -> Flow[None]: ...


def seen_after_cancel(service: Service, execution_id: str, send: Send) -> Flow[Execution]:
    """
    How an execution stands whose cancel the service has just accepted.

    Raises:
        TransactionlinkError: It cannot be read. The error says that the cancel was accepted.
    """
    try:
        return (yield from service.poll(execution_id, send))
    except TransactionlinkError as error:
        raise error.after_cancel(execution_id) from None


def refuse_expiry(request: RunRequest, service: str) -> None:
    """
    Raises:
        InvalidRequest: The request asks for an expiry, which this service does not have.
    """
    if request.expires_at is not None or request.expires_in is not None:
        raise InvalidRequest(
            f"The service {service} has no expiry: leave out expires_at and expires_in, and give run a timeout."
        )
