"""
The rest of the legacy API: cases, parameters sets, starts of a case or record, and widget tokens.

Status and result are beside those of the current API (see `transactionlink`). A legacy execution is not known to
expire by itself, and does not. A widget token opens nothing here, and a start is what `/workflows/run` did only.
"""

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.sandbox.access import admit_legacy
from tl_orchestration.sandbox.answers import JsonAnswer, RefusedError
from tl_orchestration.sandbox.checks import read_object
from tl_orchestration.sandbox.clock import to_text
from tl_orchestration.sandbox.endpoints import Steps, Subject, member_of_body
from tl_orchestration.sandbox.evidence import headers_of_interest
from tl_orchestration.sandbox.legacy.bodies import RunBody, read_case, read_parameters, read_run
from tl_orchestration.sandbox.legacy.cases import Case
from tl_orchestration.sandbox.legacy.forms import legacy_status
from tl_orchestration.sandbox.services import LEGACY
from tl_orchestration.sandbox.store import Store
from tl_orchestration.sandbox.versions import legacy_version

TOKEN_LIFETIME = 3600
"""Seconds that a widget token lasts."""


def routes(store: Store) -> list[Route]:
    """The routes of the legacy API over one store, without those of authorization."""
    api, steps = _Api(store), Steps(store)
    return [
        steps.route("POST", "/cases", "cases", api.make_case, _subject),
        steps.route("GET", "/cases/{id}", "case", api.show_case, _subject),
        steps.route("GET", "/case/{id}", "case", api.show_case, _subject),
        steps.route("POST", "/parameters", "parameters", api.keep_parameters, _subject),
        steps.route("POST", "/workflows/run", "start", api.run, _subject),
        steps.route("POST", "/token", "token", api.make_token, _subject),
    ]


async def _subject(request: Request) -> Subject:
    return Subject(LEGACY, await member_of_body(request, "workflowDefinitionId"))


class _Api:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def make_case(self, request: Request) -> Response:
        admit_legacy(self._store, request, "can_run")
        try:
            fields = read_case(read_object(await request.body()), self._store.variants)
        except ValueError as error:
            raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
        case = self._store.cases.open(fields, self._store.clock.now(), request.state.number)
        return JsonAnswer(self._described(case), 201)

    async def show_case(self, request: Request) -> Response:
        admit_legacy(self._store, request, "can_view")
        place, case_id = request.url.path.split("/")[1], request.path_params["id"]
        case = self._store.cases.cases.get(case_id)
        if case is None or self._store.variants["case_path"] not in {place, "both"}:
            raise RefusedError(404, "NOT_FOUND", f"No case {case_id} here")
        return JsonAnswer(self._described(case))

    async def keep_parameters(self, request: Request) -> Response:
        admit_legacy(self._store, request, "can_run")
        try:
            definition, parameters = read_parameters(read_object(await request.body()))
        except ValueError as error:
            raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
        self._require_definition(definition)
        made = self._store.cases.keep(definition, parameters, self._store.clock.now(), request.state.number)
        variants = self._store.variants
        return JsonAnswer({variants["parameters_id"]: made.id}, variants["parameters_status"])

    async def run(self, request: Request) -> Response:
        admit_legacy(self._store, request, "can_run")
        body, version = await self._read_run(request)
        if self._store.definitions[body.definition].interactive:
            raise RefusedError(400, "INVALID_REQUEST", "This workflow needs a person: it cannot run by itself")
        made = self._store.cases.parameter_sets.get(body.parameters_id or "")
        details = {"version": version, "case_id": body.case_id, "parameters_id": body.parameters_id}
        execution = self._store.start(
            body.definition,
            service=LEGACY,
            parameters=made.parameters if made is not None and isinstance(made.parameters, dict) else {},
            lifetime=math.inf,
            case_id=body.case_id,
            record_id=body.record_id,
            details=details,
            headers=headers_of_interest(request.headers),
            request=request.state.number,
        )
        return JsonAnswer(legacy_status(self._store, execution, version))

    async def make_token(self, request: Request) -> Response:
        admit_legacy(self._store, request, "can_run")
        await self._read_run(request)
        token = self._store.ids.hex("widget tokens", 48)
        return JsonAnswer({"token": token, "expiryDuration": TOKEN_LIFETIME, "tokenType": "Bearer"}, 201)

    async def _read_run(self, request: Request) -> tuple[RunBody, Any]:
        version = legacy_version(request)
        try:
            body = read_run(read_object(await request.body()), version)
        except ValueError as error:
            raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
        self._require_definition(body.definition)
        cases, variants = self._store.cases, self._store.variants
        self._require_known("case", body.case_id, cases.cases, variants["unknown_reference"])
        self._require_known("parameters", body.parameters_id, cases.parameter_sets, variants["unknown_reference"])
        self._require_known("record", body.record_id, cases.cases, variants["unknown_record"])
        return body, version

    def _require_definition(self, name: str) -> None:
        if name not in self._store.definitions:
            raise RefusedError(404, "NOT_FOUND", "Workflow Definition Not Found")

    def _require_known(self, what: str, given: str | None, known: dict[str, Any], refusal: int | str) -> None:
        if given is not None and given not in known and isinstance(refusal, int):
            raise RefusedError(refusal, "NOT_FOUND", f"No {what} {given} here")

    def _described(self, case: Case) -> dict[str, Any]:
        return {
            "createdDate": to_text(case.time, self._store.variants["timestamps"]),
            "caseId": case.id,
            "partyId": case.party_id,
            "partyDetails": case.party_details,
        }
