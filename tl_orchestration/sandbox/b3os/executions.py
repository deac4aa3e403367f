"""
B3OS execution sessions: started with a key or, where the workflow is public, without.

Here a second start with an `idempotencyKey` is one for the same workflow, whatever else it says; what comes of it
is the variant `idempotency`. A key also reads what was started without one, and a client token what was started
with a key.
"""

import math
from secrets import compare_digest
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.sandbox.answers import RefusedError
from tl_orchestration.sandbox.b3os.access import admit
from tl_orchestration.sandbox.b3os.book import Session
from tl_orchestration.sandbox.b3os.envelope import refusal, success
from tl_orchestration.sandbox.b3os.finding import Finder
from tl_orchestration.sandbox.b3os.forms import Teller
from tl_orchestration.sandbox.checks import is_object, is_text, read_object, require
from tl_orchestration.sandbox.definitions import Definition
from tl_orchestration.sandbox.endpoints import Steps
from tl_orchestration.sandbox.evidence import headers_of_interest
from tl_orchestration.sandbox.services import B3OS
from tl_orchestration.sandbox.store import Store

_REQUIRED = ("sourceEntityType", "sourceSystem")
_OPTIONAL = ("externalRef", "idempotencyKey", "sourceEntityId")


def routes(store: Store) -> list[Route]:
    """The routes of execution sessions over one store."""
    api, finder = _Api(store), Finder(store)
    steps = Steps(store, lambda refused, request: refusal(refused, request, store.variants))
    workflow, execution = finder.subject_of_workflow, finder.subject_of_execution
    return [
        steps.route("POST", "/v1/executions", "start", api.start, workflow),
        steps.route("POST", "/v1/public/workflows/{id}/executions", "start", api.start_publicly, workflow),
        steps.route("GET", "/v1/executions/{id}", "status", api.show, execution),
        steps.route("GET", "/v1/public/executions/{id}", "status", api.show_publicly, execution),
    ]


class _Api:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._finder = Finder(store)
        self._teller = Teller(store)

    async def start(self, request: Request) -> Response:
        admit(self._store, request, write=True)
        body = await _read(request)
        name = body.get("workflowId")
        if not isinstance(name, str) or not name:
            raise RefusedError(400, "INVALID_REQUEST", "workflowId must be a non-empty string")
        return self._started(name, body, request, public=False)

    async def start_publicly(self, request: Request) -> Response:
        name = request.path_params["id"]
        if self._definition(name).visibility != "public_execute":
            raise RefusedError(403, "FORBIDDEN", "This workflow cannot be executed publicly")
        return self._started(name, await _read(request), request, public=True)

    async def show(self, request: Request) -> Response:
        admit(self._store, request, write=False)
        execution, session = self._finder.execution(request.path_params["id"])
        told = self._teller.execution(execution, session) | self._teller.payload(execution)
        events = self._teller.events(execution, public=False)
        answer = {"execution": told, "events": events, "message": self._teller.message(execution)}
        return success(answer, request, self._store.variants)

    async def show_publicly(self, request: Request) -> Response:
        execution, session = self._finder.execution(request.path_params["id"])
        token = request.query_params.get("token", "")
        if not compare_digest(token.encode(), session.client_token.encode()):
            raise RefusedError(401, "UNAUTHORIZED", "Missing or invalid client token")
        variants = self._store.variants
        told = self._teller.public_execution(execution, session)
        if variants["public_response_payload"]:
            told |= self._teller.payload(execution)
        beside = {"events": self._teller.events(execution, public=True), "message": self._teller.message(execution)}
        nested = variants["public_execution_shape"] == "nested"
        return success({"execution": told, **beside} if nested else told | beside, request, variants)

    def _definition(self, name: str) -> Definition:
        definition = self._store.definitions.get(name)
        if definition is None:
            raise RefusedError(404, "NOT_FOUND", f"Workflow {name} not found")
        return definition

    def _started(self, name: str, body: dict[str, Any], request: Request, *, public: bool) -> Response:
        book, reading = self._store.b3os, self._store.variants["idempotency"]
        with book.lock:
            session = book.with_key(name, body.get("idempotencyKey"))
            if session is not None and reading == "conflict":
                raise RefusedError(409, "CONFLICT", "This idempotencyKey was used before")
            if session is None or reading == "second":
                session = self._begin(name, body, request, public=public)
        execution = self._store.find(session.execution_id)
        told = self._teller.execution(execution, session)
        return success({"clientToken": session.client_token, "execution": told}, request, self._store.variants)

    def _begin(self, name: str, body: dict[str, Any], request: Request, *, public: bool) -> Session:
        book = self._store.b3os
        named = {member: body[member] for member in (*_REQUIRED, *_OPTIONAL) if body.get(member) is not None}
        metadata = body.get("clientSafeMetadata")
        run_id = book.new_run_id()
        execution = self._store.start(
            name,
            service=B3OS,
            parameters=body.get("requestPayload") or {},
            lifetime=math.inf,
            phases=self._definition(name).before_run,
            details={"run_id": run_id, "public": public, **named},
            headers=headers_of_interest(request.headers),
            request=request.state.number,
        )
        session = Session(
            execution_id=execution.id,
            run_id=run_id,
            client_token=book.new_client_token(),
            asked=named if metadata is None else {**named, "clientSafeMetadata": metadata},
            public=public,
        )
        book.enter(session, name)
        return session


async def _read(request: Request) -> dict[str, Any]:
    """The checked body of a start; raises `RefusedError`, 400."""
    try:
        body = read_object(await request.body())
        for name in _REQUIRED:
            require(is_text(body.get(name)), f"{name} must be a non-empty string", body.get(name))
        for name in _OPTIONAL:
            require(body.get(name) is None or is_text(body[name]), f"{name} must be a string", body.get(name))
        for name in ("clientSafeMetadata", "requestPayload"):
            require(body.get(name) is None or is_object(body[name]), f"{name} must be an object", body.get(name))
    except ValueError as error:
        raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
    return body
