"""
The current Transactionlink API: ``/workflows`` (contract A3, A4, A5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from attrs import field, frozen

from tl_orchestration.answers import json_object, refusal, usable_id
from tl_orchestration.errors import InvalidAnswer, NoResult, ResultNotReady, TransactionlinkError
from tl_orchestration.exchange import Flow, Operation, Request, Response, Send
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.secret import Secret
from tl_orchestration.status import TRANSACTIONLINK_LITERALS, StatusMap, meaning

_CAN_RUN = "the permission can_run on the workflow definition"
_CAN_VIEW = "the permission can_view_workspace on the workspace"


@frozen
class Transactionlink:
    """
    Verbs of the current API.

    Args:
        now: Epoch seconds; only for a Retry-After that is a date.
        accept: ``Accept`` header. ``*/*`` is what the vendor's own sample client sends (contract A3).
        status_map: Literals that the caller teaches.
        workspace_id: If given, a start answered from another workspace is refused.
    """

    name: ClassVar[str] = "transactionlink"
    default_base_url: ClassVar[str] = "https://api.transactionlink.io"

    now: Callable[[], float]
    accept: str = "*/*"
    status_map: StatusMap = field(factory=dict)
    workspace_id: str | None = None

    def run(self, request: RunRequest, expires_at: datetime, send: Send) -> Flow[Execution]:
        """
        POST /workflows. The answer of an interactive execution also has ``link`` and ``token``.
        """
        body: dict[str, Any] = {
            "workflowDefinitionId": request.workflow_definition_id,
            "locale": request.locale,
            "parameters": request.parameters,
            "expiresAt": wire_time(expires_at),
        }
        if request.record_id is not None:
            body["recordId"] = request.record_id
        post = Request("run", "POST", "/workflows", json=body, accept=self.accept, repeatable=False)
        response = yield from send(post)
        if not response.is_success:
            raise self._refusal(response, post, f"workflow definition {request.workflow_definition_id}", _CAN_RUN)
        execution = self._execution(response, post)
        if self.workspace_id and execution.workspace_id and execution.workspace_id != self.workspace_id:
            raise InvalidAnswer(
                f"Execution {execution.id} was started in workspace {execution.workspace_id}, but this connection is"
                f" set to workspace {self.workspace_id}.",
                execution_id=execution.id,
                status_code=response.status,
            )
        return execution

    def poll(self, execution_id: str, send: Send) -> Flow[Execution]:
        """
        GET /workflows/{id}. Answers in the legacy shape (``caseId``) are read as well: both share the path.
        """
        get = self._request("poll", "GET", f"/workflows/{execution_id}")
        response = yield from send(get)
        if not response.is_success:
            raise self._refusal(response, get, f"execution {execution_id}", _CAN_VIEW).about(execution_id)
        execution = self._execution(response, get)
        if execution.id != execution_id:
            raise InvalidAnswer(
                f"The service answered the poll of execution {execution_id} with another execution.",
                execution_id=execution_id,
                status_code=response.status,
            )
        return execution

    def result(self, execution_id: str, send: Send) -> Flow[dict[str, Any]]:
        """
        GET /workflows/{id}/result. A 404 is told apart by the status of the execution (contract C12).
        """
        get = self._request("result", "GET", f"/workflows/{execution_id}/result")
        response = yield from send(get)
        if response.is_success:
            return json_object(response, get)
        if response.status != 404:
            raise self._refusal(response, get, f"execution {execution_id}", _CAN_VIEW).about(execution_id)
        execution = yield from self.poll(execution_id, send)
        if execution.is_terminal:
            raise NoResult(
                f"Execution {execution_id} has ended ({execution.raw_status}) and left no result.",
                execution_id=execution_id,
                status_code=404,
            )
        raise ResultNotReady(
            f"Execution {execution_id} has not ended yet ({execution.raw_status}): wait for it, then ask again.",
            execution_id=execution_id,
            status_code=404,
        )

    def cancel(self, execution_id: str, send: Send) -> Flow[Execution]:
        """
        POST /workflows/{id}/cancel, then a look at the status. A refusal because it is already over is no error.
        """
        post = self._request("cancel", "POST", f"/workflows/{execution_id}/cancel")
        response = yield from send(post)
        if response.is_success:
            return (yield from self.poll(execution_id, send))
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
        raw_status = document.get("status")
        if request.operation == "run" and raw_status is None:
            raw_status = ""  # the id is what a start must not lose; the first poll tells the status
        elif not isinstance(raw_status, str) or not raw_status.strip() or len(raw_status) > 64:
            raise InvalidAnswer(
                f"The service answered {request.operation} of execution {identifier} without a usable status.",
                execution_id=identifier,
                status_code=response.status,
            )
        expires_at = read_time(document.get("expiresAt"))
        return Execution(
            id=identifier,
            status=meaning(raw_status, TRANSACTIONLINK_LITERALS, self.status_map),
            raw_status=raw_status,
            service=self.name,
            workflow_definition_id=_text(document, "workflowDefinitionId"),
            name=_text(document, "name"),
            revision=_text(document, "revision"),
            workspace_id=_text(document, "workspaceId"),
            record_id=_text(document, "recordId") or _text(document, "caseId"),
            expires_at=expires_at,
            link=_secret(document, "link"),
            token=_secret(document, "token"),
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


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) and value else None


def _secret(document: Mapping[str, Any], name: str) -> Secret | None:
    value = _text(document, name)
    return Secret(value) if value else None
