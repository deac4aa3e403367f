"""
B3OS runs: started by themselves or within an execution session, cancelled, repeated, resumed.

A workflow with `interactive` waits to be resumed at its node; what the resume says as `decision`, or else approve,
is its decision. `simulate` and `dustTest` change nothing here.
"""

import math
import re
from collections.abc import Mapping
from secrets import compare_digest
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.sandbox.answers import JsonAnswer, RefusedError
from tl_orchestration.sandbox.b3os.access import admit
from tl_orchestration.sandbox.b3os.book import Run
from tl_orchestration.sandbox.b3os.envelope import refusal, success
from tl_orchestration.sandbox.b3os.finding import Finder
from tl_orchestration.sandbox.b3os.forms import NODE, Teller
from tl_orchestration.sandbox.checks import is_flag, is_object, read_object, require
from tl_orchestration.sandbox.definitions import DECISIONS
from tl_orchestration.sandbox.endpoints import Steps
from tl_orchestration.sandbox.evidence import headers_of_interest
from tl_orchestration.sandbox.services import B3OS
from tl_orchestration.sandbox.store import Store

_RUN_ID = re.compile(r"run_\w+", re.ASCII)


def routes(store: Store) -> list[Route]:
    """The routes of runs over one store."""
    api, finder = _Api(store), Finder(store)
    steps = Steps(store, lambda refused, request: refusal(refused, request, store.variants))
    one, run = "/v1/runs/{id}", finder.subject_of_run
    return [
        steps.route("POST", "/v1/workflows/{id}/run", "start", api.start, finder.subject_of_workflow),
        steps.route("GET", one, "status", api.show, run),
        steps.route("GET", "/v1/public/runs/{id}", "status", api.show_publicly, run),
        steps.route("POST", f"{one}/cancel", "cancel", api.cancel, run),
        steps.route("POST", f"{one}/retry", "retry", api.retry, run),
        steps.route("POST", f"{one}/nodes/{{node}}/resume", "resume", api.resume, run),
    ]


class _Api:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._finder = Finder(store)
        self._teller = Teller(store)

    async def start(self, request: Request) -> Response:
        admit(self._store, request, write=True)
        name = request.path_params["id"]
        definition = self._store.definitions.get(name)
        if definition is None:
            raise RefusedError(404, "NOT_FOUND", f"Workflow {name} not found")
        inactive = definition.state != "active" and self._store.variants["run_needs_active"]
        if definition.state == "archived" or inactive:
            raise RefusedError(400, "INVALID_REQUEST", f"This workflow is {definition.state}")
        body = await _read(request)
        given, payload = body.get("runId"), body.get("payload") or {}
        book = self._store.b3os
        if given is not None and (not isinstance(given, str) or _RUN_ID.fullmatch(given) is None):
            raise RefusedError(400, "INVALID_REQUEST", "runId must be run_ and word characters", 400078)
        with book.lock:
            if given is not None and book.run(given) is not None:
                raise RefusedError(400, "INVALID_REQUEST", "This runId was used before", 400079)
            run_id = given or book.new_run_id()
            self._begin(name, payload, Run(id=run_id, execution_id=run_id), request)
        return success({"runId": run_id}, request, self._store.variants)

    async def show(self, request: Request) -> Response:
        admit(self._store, request, write=False)
        run, execution = self._finder.run(request.path_params["id"])
        summary = request.query_params.get("summary") == "true"
        return success(self._teller.run(run, execution, summary=summary), request, self._store.variants)

    async def show_publicly(self, request: Request) -> Response:
        run, execution = self._finder.run(request.path_params["id"])
        if not execution.definition.visibility.startswith("public_"):
            raise RefusedError(404, "NOT_FOUND", f"Run {run.id} not found")
        return success(self._teller.public_run(run, execution), request, self._store.variants)

    async def cancel(self, request: Request) -> Response:
        admit(self._store, request, write=True)
        run, execution = self._finder.run(request.path_params["id"])
        if not self._store.cancel(execution.id, request.state.number):
            raise RefusedError(409, "CONFLICT", "This run is over")
        run, execution = self._finder.run(run.id)
        return success(self._teller.run(run, execution), request, self._store.variants)

    async def retry(self, request: Request) -> Response:
        admit(self._store, request, write=True)
        run, execution = self._finder.run(request.path_params["id"])
        if execution.status_at(self._store.clock.now()) not in {"FAILED", "CANCELLED", "EXPIRED"}:
            raise RefusedError(409, "CONFLICT", "Only a failed or cancelled run can be repeated")
        book, reading = self._store.b3os, self._store.variants["retry_answer"]
        with book.lock:
            run_id = book.new_run_id()
            again = Run(id=run_id, execution_id=run_id, source_run_id=run.id)
            self._begin(execution.definition_name, execution.parameters, again, request)
        told = {} if reading == "run-id" else self._teller.run(again, self._store.find(again.execution_id))
        if reading != "run":
            told |= {"runId": run_id}
        return success(told, request, self._store.variants)

    async def resume(self, request: Request) -> Response:
        _, execution = self._finder.run(request.path_params["id"])
        given, secret = request.query_params.get("secret", ""), self._store.settings.resume_secret
        if not compare_digest(given.encode(), secret.encode()):
            raise RefusedError(401, "UNAUTHORIZED", "Missing or invalid secret")
        if request.path_params["node"] != NODE:
            raise RefusedError(404, "NOT_FOUND", f"Node {request.path_params['node']} not found")
        decision = ((await _read(request)).get("data") or {}).get("decision", "approve")
        if decision not in DECISIONS:
            raise RefusedError(400, "INVALID_REQUEST", "decision must be approve or reject")
        answer = {"action": "skipped", "reason": "This node does not wait"}
        if execution.token is not None and execution.waits_for_person_at(self._store.clock.now()):
            self._store.decide(execution.token, decision)
            answer = {"action": "resumed", "reason": ""}
        if self._store.variants["resume_answer"] == "bare":
            return JsonAnswer(answer)
        return success(answer, request, self._store.variants)

    def _begin(self, name: str, payload: Mapping[str, Any], run: Run, request: Request) -> None:
        self._store.start(
            name,
            service=B3OS,
            execution_id=run.execution_id,
            parameters=payload,
            lifetime=math.inf,
            details={"run_id": run.id, "source_run_id": run.source_run_id},
            headers=headers_of_interest(request.headers),
            request=request.state.number,
        )
        self._store.b3os.enter_run(run)


async def _read(request: Request) -> dict[str, Any]:
    """The checked body, which may be absent; raises `RefusedError`, 400."""
    try:
        raw = await request.body()
        body = read_object(raw) if raw else {}
        for name in ("payload", "data"):
            require(body.get(name) is None or is_object(body[name]), f"{name} must be an object", body.get(name))
        for name in ("simulate", "dustTest"):
            require(is_flag(body.get(name, False)), f"{name} must be true or false", body.get(name))
        both = body.get("simulate", False) and body.get("dustTest", False)
        require(not both, "simulate and dustTest exclude each other", both)
    except ValueError as error:
        raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
    return body
