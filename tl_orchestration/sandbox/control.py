"""
The `/_sandbox` endpoints: look into the sandbox, change definitions, order faults, move its clock.

They need no token and are part of no remote service. Errors are `{"error": "<one sentence>"}`.

    GET    /_sandbox                      what there is, in numbers; definitions; waiting faults
    GET    /_sandbox/health
    GET    /_sandbox/starts               every committed start of every service, oldest first
    GET    /_sandbox/cancels              every cancel of an execution that exists
    GET    /_sandbox/cases                every legacy case, with the executions that were started for it
    GET    /_sandbox/parameters           every legacy parameters set, likewise
    GET    /_sandbox/requests             counts by method and path template
    GET    /_sandbox/requests/definitions the same by definition and step: start, status, result, cancel
    GET    /_sandbox/variants             name, value, allowed values, row of the contract, meaning
    PATCH  /_sandbox/variants             {name: value, ...}
    PUT    /_sandbox/definitions/{name}   a new definition: fields of `Definition`, and `like`
    PATCH  /_sandbox/definitions/{name}   fields to change, for later starts
    POST   /_sandbox/faults               one fault or a list: members of `Fault`
    DELETE /_sandbox/faults
    POST   /_sandbox/advance              {"seconds": n}
    POST   /_sandbox/executions/{id}      {"status": ..., "result": ...}, whichever are to be forced; a run
                                          that has no execution of its own goes by its run id
    POST   /_sandbox/reset                back to the first day
    ...    /_sandbox/webhooks             see `webhooks.routes`
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tl_orchestration.sandbox.answers import can_drop
from tl_orchestration.sandbox.checks import (
    is_object,
    is_seconds,
    is_text,
    read_json,
    read_object,
    require,
    require_known,
)
from tl_orchestration.sandbox.clock import to_text
from tl_orchestration.sandbox.faults import Fault
from tl_orchestration.sandbox.store import Store, UnknownExecutionError
from tl_orchestration.sandbox.words import own_word

Handler = Callable[[Request], Awaitable[Response]]


def routes(store: Store) -> list[Route]:
    """The control routes over one store."""
    control = _Control(store)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "", control.overview),
        ("GET", "/health", control.health),
        ("GET", "/starts", control.starts),
        ("GET", "/cancels", control.cancels),
        ("GET", "/cases", control.cases),
        ("GET", "/parameters", control.parameters),
        ("GET", "/requests", control.requests),
        ("GET", "/requests/definitions", control.requests_by_definition),
        ("GET", "/variants", control.variants),
        ("PATCH", "/variants", control.change_variants),
        ("PATCH", "/definitions/{name}", control.change_definition),
        ("PUT", "/definitions/{name}", control.put_definition),
        ("POST", "/faults", control.add_faults),
        ("DELETE", "/faults", control.clear_faults),
        ("POST", "/advance", control.advance),
        ("POST", "/executions/{id}", control.force),
        ("POST", "/reset", control.reset),
    ]
    return [Route(f"/_sandbox{path}", answering(handler), methods=[verb]) for verb, path, handler in table]


def answering(handler: Handler) -> Handler:
    """The handler, with its errors as answers."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        except LookupError as error:
            return JSONResponse({"error": str(error)}, 404)

    return endpoint


class _Control:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def overview(self, _: Request) -> Response:
        now = self._store.clock.now()
        executions = self._store.executions
        return JSONResponse(
            {
                "version": _version(),
                "time": to_text(now),
                "offset": self._store.clock.offset,
                "definitions": {name: one.described() for name, one in self._store.definitions.items()},
                "executions": {
                    "total": len(executions),
                    "by_status": Counter(execution.status_at(now) for execution in executions),
                },
                "starts": len(self._store.starts),
                "cancels": len(self._store.cancels),
                "requests": sum(self._store.requests.values()),
                "faults": [fault.described() for fault in self._store.faults.pending],
            }
        )

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def starts(self, _: Request) -> Response:
        return JSONResponse([start.described() for start in self._store.starts])

    async def cancels(self, _: Request) -> Response:
        return JSONResponse([cancel.described() for cancel in self._store.cancels])

    async def cases(self, _: Request) -> Response:
        cases = self._store.cases.cases.values()
        return JSONResponse([case.described() | self._used("case_id", case.id) for case in cases])

    async def parameters(self, _: Request) -> Response:
        made = self._store.cases.parameter_sets.values()
        return JSONResponse([one.described() | self._used("parameters_id", one.id) for one in made])

    def _used(self, name: str, value: str) -> dict[str, list[str]]:
        starts = self._store.starts
        return {"execution_ids": [start.execution_id for start in starts if start.details.get(name) == value]}

    async def variants(self, _: Request) -> Response:
        return JSONResponse(self._store.variants.described())

    async def change_variants(self, request: Request) -> Response:
        self._store.variants.change(read_object(await request.body()))
        return JSONResponse(self._store.variants.described())

    async def requests(self, _: Request) -> Response:
        return JSONResponse(self._store.requests)

    async def requests_by_definition(self, _: Request) -> Response:
        return JSONResponse(self._store.requests_by_definition)

    async def change_definition(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._store.definitions:
            raise LookupError(f"no definition {name!r}; PUT makes a new one")
        fields = read_object(await request.body())
        require("like" not in fields, "like is for PUT", fields.get("like"))
        return JSONResponse(self._store.define(name, fields).described())

    async def put_definition(self, request: Request) -> Response:
        name = request.path_params["name"]
        fields = {"like": "kyc-approve", **read_object(await request.body())}
        status = 200 if name in self._store.definitions else 201
        return JSONResponse(self._store.define(name, fields).described(), status)

    async def add_faults(self, request: Request) -> Response:
        given = read_json(await request.body())
        faults = [Fault.from_json(one) for one in (given if isinstance(given, list) else [given])]
        if not can_drop(request) and any(fault.kind in {"drop", "lose"} for fault in faults):
            return JSONResponse({"error": "only SandboxServer and serve can close a connection"}, 501)
        self._store.faults.add(*faults)
        return JSONResponse([fault.described() for fault in self._store.faults.pending], 201)

    async def clear_faults(self, _: Request) -> Response:
        self._store.faults.clear()
        return JSONResponse([])

    async def advance(self, request: Request) -> Response:
        body = read_object(await request.body())
        require_known(body, ("seconds",))
        seconds = body.get("seconds")
        if not is_seconds(seconds):
            raise ValueError(f"seconds must be a number from 0, not {seconds!r}")
        self._store.clock.advance(seconds)
        return JSONResponse({"time": to_text(self._store.clock.now()), "offset": self._store.clock.offset})

    async def force(self, request: Request) -> Response:
        changes = read_object(await request.body())
        require_known(changes, ("status", "result"))
        require(is_text(changes.get("status", "-")), "status must be a non-empty text", changes.get("status"))
        result = changes.get("result")
        require(result is None or is_object(result), "result must be an object or null", result)
        try:
            if "status" in changes:
                changes["status"] = own_word(changes["status"])
            execution = self._store.force(request.path_params["id"], changes)
        except UnknownExecutionError as error:
            raise LookupError(f"no execution {error}") from error
        now = self._store.clock.now()
        return JSONResponse(
            {"id": execution.id, "status": execution.status_at(now), "result": execution.result_at(now)}
        )

    async def reset(self, _: Request) -> Response:
        self._store.reset()
        return JSONResponse({"status": "reset"})


def _version() -> str:
    try:
        return version("tl-orchestration")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
