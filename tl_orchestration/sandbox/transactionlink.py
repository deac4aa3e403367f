"""
The current Transactionlink API: `/workflows` and what is under it.

Where the public documentation says nothing, this copy has to choose: error codes begin with `SANDBOX_`,
`origin` is `API`, `executionType` is `BACKGROUND` also for interactive executions, and the statuses beyond
`RUNNING` and `COMPLETED` have their likely spelling. A client must rely on none of these.
"""

from typing import Any

import attrs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.sandbox.answers import JsonAnswer, RefusedError
from tl_orchestration.sandbox.checks import is_object, is_text, read_object, require
from tl_orchestration.sandbox.clock import to_epoch, to_text
from tl_orchestration.sandbox.endpoints import step_route
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.hosted import hosted_link
from tl_orchestration.sandbox.settings import UUID
from tl_orchestration.sandbox.store import Store, UnknownDefinitionError, UnknownExecutionError

SHORTEST_LIFETIME = 30 * 60
LONGEST_LIFETIME = 30 * 24 * 3600
"""Bounds of `expiresAt`, in seconds from now."""

_HEADERS_OF_INTEREST = ("accept", "content-type", "traceparent", "user-agent", "x-request-id")


def routes(store: Store) -> list[Route]:
    """The routes of this API over one store."""
    api = _Api(store)
    one = "/workflows/{id}"
    return [
        step_route(store, "POST", "/workflows", "start", api.start, _definition_in_body),
        step_route(store, "GET", one, "status", api.status, api.definition_of),
        step_route(store, "GET", f"{one}/result", "result", api.result, api.definition_of),
        step_route(store, "POST", f"{one}/cancel", "cancel", api.cancel, api.definition_of),
    ]


@attrs.frozen(kw_only=True)
class _StartBody:
    definition: str
    locale: str
    parameters: dict[str, Any]
    expires_at: float | None
    record_id: str | None


class _Api:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def start(self, request: Request) -> Response:
        self._authorize(request, "can_run")
        try:
            body = _read_start(await request.body(), self._store.clock.now())
        except ValueError as error:
            raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
        try:
            execution = self._store.start(
                body.definition,
                parameters=body.parameters,
                locale=body.locale,
                expires_at=body.expires_at,
                record_id=body.record_id,
                headers={name: request.headers[name] for name in _HEADERS_OF_INTEREST if name in request.headers},
                request=request.state.number,
            )
        except UnknownDefinitionError as error:
            message = f"Workflow definition {body.definition} not found"
            raise RefusedError(404, "NOT_FOUND", message) from error
        return JsonAnswer(self._described(execution, request, with_link=True))

    async def status(self, request: Request) -> Response:
        self._authorize(request, "can_view")
        execution = self._find(request)
        return JsonAnswer(self._described(execution, request, with_link=self._store.settings.link_in_status))

    async def result(self, request: Request) -> Response:
        self._authorize(request, "can_view")
        result = self._find(request).result_at(self._store.clock.now())
        if result is None:
            raise RefusedError(404, "NOT_FOUND", "Workflow result not available")
        return JsonAnswer(result)

    async def cancel(self, request: Request) -> Response:
        self._authorize(request, "can_view")
        execution = self._find(request)
        took_effect = self._store.cancel(execution.id, request.state.number)
        if not took_effect and self._store.settings.cancel_finished != 200:
            raise RefusedError(self._store.settings.cancel_finished, "FINISHED", "Workflow is already finished")
        return Response(status_code=200)

    async def definition_of(self, request: Request) -> str | None:
        try:
            return self._store.find(request.path_params["id"]).definition_name
        except UnknownExecutionError:
            return None

    def _authorize(self, request: Request, permission: str) -> None:
        given = request.headers.get("authorization")
        for token in self._store.settings.tokens:
            if token.header == given:
                if getattr(token, permission):
                    return
                raise RefusedError(403, "FORBIDDEN", "Missing permission for this operation")
        raise RefusedError(401, "UNAUTHORIZED", "JWT token missing or invalid")

    def _find(self, request: Request) -> Execution:
        execution_id = request.path_params["id"]
        try:
            return self._store.find(execution_id)
        except UnknownExecutionError as error:
            raise RefusedError(404, "NOT_FOUND", f"Workflow {execution_id} not found") from error

    def _described(self, execution: Execution, request: Request, *, with_link: bool) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "id": execution.id,
            "workspaceId": self._store.settings.workspace_id,
            "workflowDefinitionId": execution.definition_name,
            "parameters": execution.parameters,
            "name": execution.definition_name,
            "revision": execution.definition.revision,
            "status": execution.status_at(self._store.clock.now()),
            "locale": execution.locale,
            "expiresAt": to_text(execution.expires_at),
            "uiOptions": {},
            "executionType": "BACKGROUND",
            "executionVersion": 1,
            "origin": "API",
        }
        if execution.record_id is not None:
            answer["recordId"] = execution.record_id
        if execution.token is not None and with_link:
            answer["link"] = hosted_link(self._store.settings, request, execution.token)
            answer["token"] = execution.token
        return answer


async def _definition_in_body(request: Request) -> str | None:
    try:
        definition = read_object(await request.body()).get("workflowDefinitionId")
    except ValueError:
        return None
    return definition if isinstance(definition, str) else None


def _read_start(raw: bytes, now: float) -> _StartBody:
    """
    Check the body of a start. Raises `ValueError` with the sentence for the answer.

    Absent `parameters` are taken as none: the vendor's own sample leaves them out.
    """
    body = read_object(raw)
    definition: Any = body.get("workflowDefinitionId")
    locale: Any = body.get("locale")
    parameters: Any = body.get("parameters", {})
    record_id: Any = body.get("recordId")
    require(is_text(definition), "workflowDefinitionId must be a non-empty string", definition)
    require(is_text(locale), "locale must be a non-empty string", locale)
    require(is_object(parameters), "parameters must be an object", parameters)
    require(
        record_id is None or (isinstance(record_id, str) and UUID.fullmatch(record_id) is not None),
        "recordId must be a uuid",
        record_id,
    )
    try:
        expires_at = None if body.get("expiresAt") is None else to_epoch(body["expiresAt"])
    except ValueError as error:
        raise ValueError(f"expiresAt is {error}") from error
    require(
        expires_at is None or SHORTEST_LIFETIME <= expires_at - now <= LONGEST_LIFETIME,
        "expiresAt must be between 30 minutes and 30 days from now",
        body.get("expiresAt"),
    )
    return _StartBody(
        definition=definition,
        locale=locale,
        parameters=parameters,
        expires_at=expires_at,
        record_id=record_id,
    )
