"""
The legacy Transactionlink API: ``/cases``, ``/parameters``, ``/workflows/run`` (contract A3, A6).

Version 1 runs a definition about a case, version 2 about a record or nothing; the ``Accept`` header tells them apart.
Status and result have the paths and the shapes that the current API has too. There is no cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, NoReturn, Self

from attrs import evolve, frozen

from tl_orchestration.answers import json_object, safe_id
from tl_orchestration.credentials import Credentials
from tl_orchestration.errors import InvalidAnswer, InvalidRequest, NotSupported
from tl_orchestration.exchange import Flow, Request, Response, Send
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.options import LegacyOptions
from tl_orchestration.secret import Secret
from tl_orchestration.services.reading import in_workspace
from tl_orchestration.services.service import NOTHING, refuse_expiry
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.settings import Settings

#: Names of the ids that a start may have to make first.
CASE_ID = "case_id"
PARAMETERS_ID = "parameters_id"

_ACCEPT: Mapping[int, str] = {1: "application/json;version=1", 2: "application/json;version=2"}
_RIGHT = "a permission that the vendor does not name"
_CASE_MEMBERS: Mapping[str, str] = {
    "firstName": "first_name",
    "lastName": "last_name",
    "personalNumber": "personal_number",
    "email": "email",
    "companyName": "company_name",
    "companyNumber": "company_number",
    "companyAddress": "company_address",
}
_DOCUMENT_MEMBERS: Mapping[str, str] = {
    "resourceId": "resource_id",
    "resourceName": "resource_name",
    "resourcePath": "resource_path",
}


@frozen
class Legacy(Transactionlink):
    """
    Verbs of the legacy API. Poll, result and check are those of the current one.

    Args:
        accept: ``Accept`` header; one of the two versions' own follows ``api_version``, any other one stays.
        api_version: Version 1 for an execution about a case, else 2.
    """

    name: ClassVar[str] = "transactionlink-legacy"
    holds_parameters: ClassVar[frozenset[str]] = frozenset({PARAMETERS_ID})

    accept: str = _ACCEPT[2]
    api_version: int = 2

    @classmethod
    def configured(cls, credentials: Credentials, settings: Settings, now: Callable[[], float]) -> Self:
        return cls(
            now=now,
            accept=_ACCEPT[2] if settings.accept == Settings().accept else settings.accept,
            status_map=settings.status_map,
            workspace_id=settings.workspace_id,
        )

    @property
    def can_cancel(self) -> bool:
        return False

    def for_request(self, request: RunRequest) -> Self:
        refuse_expiry(request, self.name)
        options = _options(request)
        if options.has_case and request.record_id is not None:
            raise InvalidRequest("Give a case (version 1 of the legacy API) or a record_id (version 2), not both.")
        return self._at(1 if options.has_case else 2)

    def for_execution(self, handle: Handle, client_token: Secret | None) -> Self:
        version = handle.api_version
        return self._at(version) if version is not None and version in _ACCEPT else self

    def handle_of(self, execution_id: str) -> Handle:
        return Handle(execution_id=execution_id, service=self.name, api_version=self.api_version)

    def expiry(self, request: RunRequest, now: float, timeout: float) -> datetime | None:
        return None

    def needs(self, request: RunRequest, known: Mapping[str, str]) -> tuple[str, ...]:
        wanted = {CASE_ID: _options(request).describes_case, PARAMETERS_ID: bool(request.parameters)}
        return tuple(name for name, needed in wanted.items() if needed and name not in known)

    def make(self, name: str, request: RunRequest, send: Send) -> Flow[str]:
        """
        POST /cases or POST /parameters. A lost answer leaves something behind at the service, but nothing that runs.
        """
        if name == CASE_ID:
            path, body, members = "/cases", _case(_options(request)), ("caseId", "id")
        else:
            path, members = "/parameters", ("parametersId", "id")  # contract C18: the answer was never seen
            body = {"workflowDefinitionId": request.workflow_definition_id, "parameters": request.parameters}
        post = Request("prepare", "POST", path, json=body, accept=self.accept, repeatable=False)
        response = yield from send(post)
        if not response.is_success:
            what = "the case" if name == CASE_ID else "the parameters"
            raise self._refusal(response, post, f"{what} for definition {request.workflow_definition_id}", _RIGHT)
        return _made_id(response, post, members)

    def run(
        self, request: RunRequest, expires_at: datetime | None, send: Send, known: Mapping[str, str] = NOTHING
    ) -> Flow[Execution]:
        """
        POST /workflows/run. The answer may already be of an execution that has ended.
        """
        options = _options(request)
        references = {
            "caseId": options.case_id or known.get(CASE_ID),
            "recordId": request.record_id,
            "parametersId": known.get(PARAMETERS_ID),
        }
        body = {"workflowDefinitionId": request.workflow_definition_id}
        body |= {member: identifier for member, identifier in references.items() if identifier is not None}
        post = Request(
            "run",
            "POST",
            "/workflows/run",
            json=body,
            accept=self.accept,
            repeatable=False,
            earlier=[_case(options), request.parameters],
        )
        response = yield from send(post)
        if not response.is_success:
            raise self._refusal(response, post, f"workflow definition {request.workflow_definition_id}", _RIGHT)
        return in_workspace(self._execution(response, post), self.workspace_id, response)

    def cancel(self, execution_id: str, send: Send) -> NoReturn:
        """
        There is no such endpoint.

        Raises:
            NotSupported: Always.
        """
        raise NotSupported(
            f"The legacy API cannot cancel: execution {execution_id} goes on until it ends by itself. End it in the"
            " vendor's dashboard if it must not.",
            execution_id=execution_id,
        )

    def _at(self, version: int) -> Self:
        accept = _ACCEPT[version] if self.accept in _ACCEPT.values() else self.accept
        return evolve(self, accept=accept, api_version=version)

    def _execution(self, response: Response, request: Request) -> Execution:
        # super() has no cell to find the class in once attrs has rebuilt it with slots; and no link exists here.
        execution = Transactionlink._execution(self, response, request)
        return evolve(execution, link=None, token=None, handle=evolve(execution.handle, api_version=self.api_version))


def _options(request: RunRequest) -> LegacyOptions:
    if request.options is None:
        return LegacyOptions()
    if not isinstance(request.options, LegacyOptions):
        raise InvalidRequest(f"The service {Legacy.name} takes LegacyOptions, not {type(request.options).__name__}.")
    return request.options


def _case(options: LegacyOptions) -> dict[str, Any]:
    body: dict[str, Any] = _members(options, _CASE_MEMBERS)
    if options.phone is not None:
        body["phone"] = {"countryCode": options.phone[0], "number": options.phone[1]}
    if options.documents:
        body["documents"] = [_members(document, _DOCUMENT_MEMBERS) for document in options.documents]
    return body


def _members(value: object, names: Mapping[str, str]) -> dict[str, Any]:
    return {member: found for member, name in names.items() if (found := getattr(value, name)) is not None}


def _made_id(response: Response, request: Request, members: tuple[str, ...]) -> str:
    document = json_object(response, request)
    for member in members:
        if (identifier := safe_id(document.get(member))) is not None:
            return identifier
    raise InvalidAnswer(
        f"The service answered POST {request.path} without a usable {members[0]} (HTTP {response.status}).",
        status_code=response.status,
    )
