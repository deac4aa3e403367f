"""
The current Transactionlink API: ``/workflows`` (contract A3, A4, A5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from attrs import field, frozen

from tl_orchestration.answers import json_object, refusal, usable_id
from tl_orchestration.credentials import Credentials
from tl_orchestration.errors import InvalidRequest, NoResult, ResultNotReady, TransactionlinkError
from tl_orchestration.exchange import Flow, Operation, Request, Response, Send
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.services.reading import in_workspace, same_execution, secret, status_literal, text
from tl_orchestration.services.service import NOTHING, Service, seen_after_cancel
from tl_orchestration.settings import VENDOR_URL, Settings
from tl_orchestration.status import TRANSACTIONLINK_LITERALS, StatusMap, meaning

_CAN_RUN = "the permission can_run on the workflow definition"
_CAN_VIEW = "the permission can_view_workspace on the workspace"


@frozen
class Transactionlink(Service):
    """
    Verbs of the current API.

    Args:
        now: Epoch seconds; only for a Retry-After that is a date.
        accept: ``Accept`` header. ``*/*`` is what the vendor's own sample client sends (contract A3).
        status_map: Literals that the caller teaches.
        workspace_id: If given, a start answered from another workspace is refused.
    """

    name: ClassVar[str] = "transactionlink"
    default_base_url: ClassVar[str] = VENDOR_URL

    now: Callable[[], float]
    accept: str = "*/*"
    status_map: StatusMap = field(factory=dict)
    workspace_id: str | None = None

    @classmethod
    def configured(cls, credentials: Credentials, settings: Settings, now: Callable[[], float]) -> Self:
        return cls(now=now, accept=settings.accept, status_map=settings.status_map, workspace_id=settings.workspace_id)

    def for_request(self, request: RunRequest) -> Self:
        if request.options is not None:
            raise InvalidRequest(f"The service {self.name} takes no options, but the request has some.")
        return self

    def expiry(self, request: RunRequest, now: float, timeout: float) -> datetime | None:
        return request.expiry(now, timeout)

    def run(
        self, request: RunRequest, expires_at: datetime | None, send: Send, known: Mapping[str, str] = NOTHING
    ) -> Flow[Execution]:
        """
        POST /workflows. The answer of an interactive execution also has ``link`` and ``token``.
        """
        body: dict[str, Any] = {
            "workflowDefinitionId": request.workflow_definition_id,
            "locale": request.locale,
            "parameters": request.parameters,
        }
        if expires_at is not None:
            body["expiresAt"] = wire_time(expires_at)
        if request.record_id is not None:
            body["recordId"] = request.record_id
        post = Request("run", "POST", "/workflows", json=body, accept=self.accept, repeatable=False)
        response = yield from send(post)
        if not response.is_success:
            raise self._refusal(response, post, f"workflow definition {request.workflow_definition_id}", _CAN_RUN)
        return in_workspace(self._execution(response, post), self.workspace_id, response)

    def poll(self, execution_id: str, send: Send) -> Flow[Execution]:
        """
        GET /workflows/{id}. Answers in the legacy shape (``caseId``) are read as well: both share the path.
        """
        get = self._request("poll", "GET", f"/workflows/{execution_id}")
        response = yield from send(get)
        if not response.is_success:
            raise self._refusal(response, get, f"execution {execution_id}", _CAN_VIEW).about(execution_id)
        return same_execution(self._execution(response, get), execution_id, response)

    def result(self, execution_id: str, send: Send) -> Flow[dict[str, Any]]:
        """
        GET /workflows/{id}/result. A 404 is told apart by the status of the execution (contract C12), and so is a 400,
        which may mean the same as long as the execution has not ended.
        """
        get = self._request("result", "GET", f"/workflows/{execution_id}/result")
        response = yield from send(get)
        if response.is_success:
            return json_object(response, get)
        refused = self._refusal(response, get, f"execution {execution_id}", _CAN_VIEW).about(execution_id)
        if response.status not in {400, 404}:
            raise refused
        execution = yield from self.poll(execution_id, send)
        if execution.is_terminal:
            if response.status == 400:
                raise refused
            raise NoResult(
                f"Execution {execution_id} has ended ({execution.raw_status}) and left no result.",
                execution_id=execution_id,
                status_code=404,
            )
        raise ResultNotReady(
            f"Execution {execution_id} has not ended yet ({execution.raw_status}): wait for it, then ask again.",
            execution_id=execution_id,
            status_code=response.status,
        )

    def cancel(self, execution_id: str, send: Send) -> Flow[Execution]:
        """
        POST /workflows/{id}/cancel, then a look at the status. A refusal because it is already over is no error.
        """
        post = self._request("cancel", "POST", f"/workflows/{execution_id}/cancel")
        response = yield from send(post)
        if response.is_success:
            return (yield from seen_after_cancel(self, execution_id, send))
        refused = self._refusal(response, post, f"execution {execution_id}", _CAN_VIEW).about(execution_id)
        if response.status not in {400, 409}:
            raise refused
        execution = yield from self.poll(execution_id, send)
        if not execution.is_terminal:
            raise refused
        return execution

    def check(self, probe_id: str, send: Send) -> Flow[None]:
        """
        Ask for an execution that cannot exist: a 404 shows that the credential is accepted and may read.

        It starts nothing. Whether the credential may start a definition cannot be asked without starting one.
        """
        get = self._request("check", "GET", f"/workflows/{probe_id}")
        response = yield from send(get)
        if not (response.is_success or response.status == 404):
            raise self._refusal(response, get, "the workspace", _CAN_VIEW)

    def _request(self, operation: Operation, method: str, path: str) -> Request:
        return Request(operation, method, path, accept=self.accept)

    def _refusal(self, response: Response, request: Request, subject: str, permission: str) -> TransactionlinkError:
        return refusal(response, request, subject=subject, permission=permission, now=self.now())

    def _execution(self, response: Response, request: Request) -> Execution:
        document = json_object(response, request)
        identifier = usable_id(document, response, request)
        raw_status = status_literal(document, identifier, response, request)
        expires_at = read_time(document.get("expiresAt"))
        return Execution(
            id=identifier,
            status=meaning(raw_status, TRANSACTIONLINK_LITERALS, self.status_map),
            raw_status=raw_status,
            service=self.name,
            workflow_definition_id=text(document, "workflowDefinitionId"),
            name=text(document, "name"),
            revision=text(document, "revision"),
            workspace_id=text(document, "workspaceId"),
            record_id=text(document, "recordId") or text(document, "caseId"),
            expires_at=expires_at,
            link=secret(document, "link"),
            token=secret(document, "token"),
            handle=Handle(
                execution_id=identifier,
                service=self.name,
                expires_at=expires_at.timestamp() if expires_at else None,
            ),
        )


def wire_time(moment: datetime) -> str:
    """
    UTC with milliseconds and ``Z``, as the vendor's sample sends it.
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_time(value: object) -> datetime | None:
    """
    A time as the service writes it: ``Z`` or an offset, any number of digits. None where it cannot be read.
    """
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
