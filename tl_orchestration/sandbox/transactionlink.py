"""
The current Transactionlink API: `/workflows` and what is under it.

Status and result have the same paths in the legacy API: an execution that was started there answers in its form
(see the variant `status_shape`). B3OS executions are not found here.

Where the public documentation says nothing, this copy has to choose: error codes begin with `SANDBOX_`,
`origin` is `API`, and the statuses beyond `RUNNING` and `COMPLETED` have their likely spelling. What it leaves
open in more than one way is a variant (see `variants`). A client must rely on none of these.
"""

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.sandbox.access import admit
from tl_orchestration.sandbox.answers import JsonAnswer, RefusedError
from tl_orchestration.sandbox.clock import to_text
from tl_orchestration.sandbox.endpoints import Steps, Subject, member_of_body
from tl_orchestration.sandbox.evidence import headers_of_interest
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.hosted import hosted_link
from tl_orchestration.sandbox.legacy.forms import legacy_result, legacy_status
from tl_orchestration.sandbox.services import B3OS, CURRENT, LEGACY
from tl_orchestration.sandbox.store import Store, UnknownDefinitionError, UnknownExecutionError
from tl_orchestration.sandbox.transactionlink_body import read_start
from tl_orchestration.sandbox.versions import form_of
from tl_orchestration.sandbox.words import transactionlink_word


def routes(store: Store) -> list[Route]:
    """The routes of this API over one store."""
    api, steps = _Api(store), Steps(store)
    one = "/workflows/{id}"
    return [
        steps.route("POST", "/workflows", "start", api.start, _subject_of_start),
        steps.route("GET", one, "status", api.status, api.subject_of),
        steps.route("GET", f"{one}/result", "result", api.result, api.subject_of),
        steps.route("POST", f"{one}/cancel", "cancel", api.cancel, api.subject_of),
    ]


async def _subject_of_start(request: Request) -> Subject:
    return Subject(CURRENT, await member_of_body(request, "workflowDefinitionId"))


class _Api:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def start(self, request: Request) -> Response:
        store = self._store
        admit(store, request, "can_run")
        try:
            body = read_start(await request.body(), store.clock.now(), store.variants)
        except ValueError as error:
            raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
        refusal = store.variants["unknown_record"]
        if body.record_id is not None and refusal != "taken" and body.record_id not in store.cases.cases:
            raise RefusedError(refusal, "NOT_FOUND", f"Record {body.record_id} not found")
        try:
            execution = store.start(
                body.definition,
                parameters=body.parameters,
                locale=body.locale,
                expires_at=body.expires_at,
                record_id=body.record_id,
                headers=headers_of_interest(request.headers),
                request=request.state.number,
            )
        except UnknownDefinitionError as error:
            message = f"Workflow definition {body.definition} not found"
            raise RefusedError(404, "NOT_FOUND", message) from error
        return JsonAnswer(self._described(execution, request, with_link=True))

    async def status(self, request: Request) -> Response:
        admit(self._store, request, "can_view")
        execution = self._find(request)
        form = form_of(self._store, request, execution)
        if form != "current":
            return JsonAnswer(legacy_status(self._store, execution, form))
        return JsonAnswer(self._described(execution, request, with_link=self._store.variants["link_in_status"]))

    async def result(self, request: Request) -> Response:
        admit(self._store, request, "can_view")
        execution, now = self._find(request), self._store.clock.now()
        result = execution.result_at(now)
        if result is None:
            name = "result_of_failed" if execution.is_finished_at(now) else "result_not_ready"
            status = self._store.variants[name]
            if status != 200:
                raise RefusedError(status, "NOT_FOUND", "Workflow result not available")
            result = {}
        form = form_of(self._store, request, execution)
        return JsonAnswer(result if form == "current" else legacy_result(self._store, execution, form, result))

    async def cancel(self, request: Request) -> Response:
        admit(self._store, request, "can_view")
        execution = self._find(request)
        variants = self._store.variants
        if execution.service == LEGACY and variants["legacy_cancel"] == "absent":
            raise RefusedError(404, "NOT_FOUND", f"Workflow {execution.id} not found")
        took_effect = self._store.cancel(execution.id, request.state.number)
        if not took_effect and variants["cancel_finished"] != 200:
            raise RefusedError(variants["cancel_finished"], "FINISHED", "Workflow is already finished")
        if variants["cancel_answer"] == "200-json":
            return JsonAnswer(self._described(self._find(request), request, with_link=False))
        return Response(status_code=204 if variants["cancel_answer"] == "204-empty" else 200)

    async def subject_of(self, request: Request) -> Subject:
        try:
            execution = self._find(request)
        except RefusedError:
            return Subject(CURRENT)
        return Subject(execution.service, execution.definition_name)

    def _find(self, request: Request) -> Execution:
        execution_id = request.path_params["id"]
        try:
            execution = self._store.find(execution_id)
        except UnknownExecutionError:
            execution = None
        if execution is None or execution.service == B3OS:
            raise RefusedError(404, "NOT_FOUND", f"Workflow {execution_id} not found")
        return execution

    def _described(self, execution: Execution, request: Request, *, with_link: bool) -> dict[str, Any]:
        variants = self._store.variants
        answer: dict[str, Any] = {
            "id": execution.id,
            "workspaceId": self._store.settings.workspace_id,
            "workflowDefinitionId": execution.definition_name,
            "parameters": execution.parameters,
            "name": execution.definition_name,
            "revision": execution.definition.revision,
            "status": transactionlink_word(execution.status_at(self._store.clock.now()), variants),
            "uiOptions": {},
            "executionVersion": 1,
        }
        kind = "BACKGROUND" if execution.token is None else variants["interactive_execution_type"]
        if kind != "absent":
            answer["executionType"] = kind
        if variants["origin_in_answer"]:
            answer["origin"] = "API"
        if execution.locale is not None:
            answer["locale"] = execution.locale
        if math.isfinite(execution.expires_at):
            answer["expiresAt"] = to_text(execution.expires_at, variants["timestamps"])
        if execution.record_id is not None:
            answer["recordId"] = execution.record_id
        if execution.token is not None and with_link:
            answer["link"] = hosted_link(self._store, request, execution)
            answer["token"] = execution.token
        return answer
