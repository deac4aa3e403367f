"""
B3OS executions: ``/v1/executions`` with a key, ``/v1/public/…`` without one (contract B1, B2, B3).

An execution is cancelled through the run behind it, and its result is a member of its status that only a key shows.
Without a key, the client token of the start's answer is all that lets anybody look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from attrs import evolve, field, frozen

from tl_orchestration.answers import json_object, refusal, safe_id, usable_id
from tl_orchestration.credentials import B3osPublic, Credentials
from tl_orchestration.errors import (
    InvalidAnswer,
    InvalidRequest,
    NoResult,
    NotCancellableYet,
    NotSupported,
    ResultNotReady,
    TransactionlinkError,
)
from tl_orchestration.exchange import Flow, Request, Response, Send
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.options import B3osOptions
from tl_orchestration.secret import Secret
from tl_orchestration.services.reading import in_workspace, same_execution, secret, status_literal, text
from tl_orchestration.services.service import IDEMPOTENCY_KEY, NOTHING, Service, refuse_expiry, seen_after_cancel
from tl_orchestration.settings import Settings
from tl_orchestration.status import B3OS_LITERALS, Status, StatusMap, meaning

_ACCEPT = "application/json"
_CAN_WRITE = "the scope read-write, or access to this organization's workflow"
_CAN_READ = "the scope read, or access to this organization"
_ENVELOPE = frozenset({"code", "requestId", "success"})


@frozen
class B3os(Service):
    """
    Verbs of B3OS.

    Args:
        now: Epoch seconds; only for a Retry-After that is a date.
        keyless: Whether there is no key, so that only the public endpoints can be called.
        client_token: Of the execution that is asked about; without a key it is what lets us ask.
        status_map: Literals that the caller teaches.
        organization_id: If given, a start answered from another organization is refused.
    """

    name: ClassVar[str] = "b3os"
    default_base_url: ClassVar[str] = "https://api.b3os.org"
    keyed: ClassVar[bool] = True

    now: Callable[[], float]
    keyless: bool = False
    client_token: Secret | None = None
    status_map: StatusMap = field(factory=dict)
    organization_id: str | None = None

    @classmethod
    def configured(cls, credentials: Credentials, settings: Settings, now: Callable[[], float]) -> Self:
        return cls(
            now=now,
            keyless=isinstance(credentials, B3osPublic),
            status_map=settings.status_map,
            organization_id=settings.workspace_id,
        )

    @property
    def can_cancel(self) -> bool:
        return not self.keyless

    def for_request(self, request: RunRequest) -> Self:
        refuse_expiry(request, self.name)
        _options(request)
        if request.record_id is not None:
            raise InvalidRequest("B3OS has no records: leave out record_id, and use source_entity_id.")
        return self

    def for_execution(self, handle: Handle, client_token: Secret | None) -> Self:
        return evolve(self, client_token=client_token)

    def run(
        self, request: RunRequest, expires_at: datetime | None, send: Send, known: Mapping[str, str] = NOTHING
    ) -> Flow[Execution]:
        """
        POST /v1/executions, or POST /v1/public/workflows/{id}/executions. The idempotency key is always sent; what
        the service makes of it is documented nowhere (contract B6).
        """
        body = _start_body(request, _options(request), known[IDEMPOTENCY_KEY])
        if self.keyless:
            path = f"/v1/public/workflows/{request.workflow_definition_id}/executions"
        else:
            path = "/v1/executions"
            body["workflowId"] = request.workflow_definition_id
        post = Request("run", "POST", path, json=body, accept=_ACCEPT, repeatable=False)
        response = yield from send(post)
        if not response.is_success:
            raise self._refusal(response, post, f"workflow {request.workflow_definition_id}", _CAN_WRITE)
        data = _unwrapped(response, post)
        execution = self._execution(_nested(data), response, post, secret(data, "clientToken"))
        return in_workspace(execution, self.organization_id, response)

    def poll(self, execution_id: str, send: Send) -> Flow[Execution]:
        """
        GET /v1/executions/{id}, or the public one with the client token.

        Raises:
            NotSupported: There is neither key nor client token.
        """
        execution, _ = yield from self._look(self._get("poll", execution_id), execution_id, send)
        return execution

    def result(self, execution_id: str, send: Send) -> Flow[dict[str, Any]]:
        """
        The member ``responsePayload`` of the status.

        Raises:
            NotSupported: There is no key; the public answer has no such member (contract C29).
        """
        if self.keyless:
            raise NotSupported(
                f"B3OS shows the result of execution {execution_id} only to a key: use B3osKey.",
                execution_id=execution_id,
            )
        execution, document = yield from self._look(self._get("result", execution_id), execution_id, send)
        payload = document.get("responsePayload")
        # An ending that we cannot read may have left a result all the same.
        if payload is not None and (execution.is_terminal or execution.status is Status.UNKNOWN):
            if isinstance(payload, dict):
                return payload
            raise InvalidAnswer(
                f"The service answered result of execution {execution_id} with a responsePayload that is no object.",
                execution_id=execution_id,
            )
        if execution.is_terminal:
            raise NoResult(
                f"Execution {execution_id} has ended ({execution.raw_status}) and left no result.",
                execution_id=execution_id,
            )
        raise ResultNotReady(
            f"Execution {execution_id} has not ended yet ({execution.raw_status}): wait for it, then ask again.",
            execution_id=execution_id,
        )

    def cancel(self, execution_id: str, send: Send) -> Flow[Execution]:
        """
        POST /v1/runs/{runId}/cancel, between two looks at the status. A refusal because it is over is no error.

        Raises:
            NotSupported: There is no key.
            NotCancellableYet: There is no run yet; an execution itself cannot be cancelled (contract C39).
        """
        if self.keyless:
            raise NotSupported(
                f"B3OS lets only a key cancel: execution {execution_id} goes on. Use B3osKey.",
                execution_id=execution_id,
            )
        execution = yield from self.poll(execution_id, send)
        if execution.is_terminal:
            return execution
        if execution.run_id is None:
            raise NotCancellableYet(
                f"Execution {execution_id} is {execution.raw_status} and has no run yet, which is what B3OS can cancel."
                " Cancel it again once it runs.",
                execution_id=execution_id,
            )
        post = Request("cancel", "POST", f"/v1/runs/{execution.run_id}/cancel", accept=_ACCEPT)
        response = yield from send(post)
        if response.is_success:
            return (yield from seen_after_cancel(self, execution_id, send))
        subject = f"run {execution.run_id} of execution {execution_id}"
        refused = self._refusal(response, post, subject, _CAN_WRITE).about(execution_id)
        if response.status not in {400, 409}:
            raise refused
        execution = yield from self.poll(execution_id, send)
        if not execution.is_terminal:
            raise refused
        return execution

    def check(self, probe_id: str, send: Send) -> Flow[None]:
        """
        Ask for an execution that cannot exist. With a key, a 400 or 404 shows that the key is accepted; without one
        there is nothing to accept, and any refusal shows that the service is there.
        """
        get = evolve(self, client_token=Secret(probe_id))._get("check", probe_id)
        response = yield from send(get)
        expected = {400, 401, 403, 404} if self.keyless else {400, 404}
        if not (response.is_success or response.status in expected):
            raise self._refusal(response, get, "the organization", _CAN_READ)

    def _get(self, operation: Any, execution_id: str) -> Request:
        if not self.keyless:
            return Request(operation, "GET", f"/v1/executions/{execution_id}", accept=_ACCEPT)
        if self.client_token is None:
            raise NotSupported(
                f"Without a key, execution {execution_id} can be asked about only in the process that started it, with"
                " the Execution that run returned: its client token is kept nowhere else. Use B3osKey.",
                execution_id=execution_id,
            )
        path = f"/v1/public/executions/{execution_id}"
        return Request(operation, "GET", path, accept=_ACCEPT, query={"token": self.client_token})

    def _look(self, get: Request, execution_id: str, send: Send) -> Flow[tuple[Execution, Mapping[str, Any]]]:
        response = yield from send(get)
        if not response.is_success:
            raise self._refusal(response, get, f"execution {execution_id}", _CAN_READ).about(execution_id)
        document = _nested(_unwrapped(response, get))
        execution = self._execution(document, response, get, self.client_token)
        return same_execution(execution, execution_id, response), document

    def _refusal(self, response: Response, request: Request, subject: str, permission: str) -> TransactionlinkError:
        return refusal(response, request, subject=subject, permission=permission, now=self.now())

    def _execution(
        self, document: Mapping[str, Any], response: Response, request: Request, client_token: Secret | None
    ) -> Execution:
        identifier = usable_id(document, response, request)
        literal = status_literal(document, identifier, response, request)
        return Execution(
            id=identifier,
            status=meaning(literal, B3OS_LITERALS, self.status_map),
            raw_status=literal,
            service=self.name,
            workflow_definition_id=text(document, "workflowId"),
            workspace_id=text(document, "organizationId"),
            run_id=safe_id(document.get("runId")),
            client_token=client_token,
            handle=Handle(execution_id=identifier, service=self.name),
        )


def _options(request: RunRequest) -> B3osOptions:
    if not isinstance(request.options, B3osOptions):
        raise InvalidRequest("B3OS needs options=B3osOptions(source_system=…, source_entity_type=…).")
    return request.options


def _start_body(request: RunRequest, options: B3osOptions, idempotency_key: str) -> dict[str, Any]:
    optional = {
        "sourceEntityId": options.source_entity_id,
        "externalRef": options.external_ref,
        "clientSafeMetadata": options.client_safe_metadata,
    }
    return {
        "sourceSystem": options.source_system,
        "sourceEntityType": options.source_entity_type,
        "requestPayload": request.parameters,
        "idempotencyKey": idempotency_key,
        **{member: value for member, value in optional.items() if value is not None},
    }


def _unwrapped(response: Response, request: Request) -> Mapping[str, Any]:
    """
    The ``data`` of an answer, where something beside it shows that it is an envelope (contract B1, C24, C33).
    """
    document = json_object(response, request)
    data = document.get("data")
    return data if isinstance(data, dict) and _ENVELOPE & document.keys() else document


def _nested(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    What is said of the execution: one level down with a key, flat in the public answer (contract C30).
    """
    nested = data.get("execution")
    return nested if isinstance(nested, dict) else data
