"""
`GET /auth/webhooks/key/{kid}`, and the levers under `/_sandbox/webhooks`.

    GET  /_sandbox/webhooks             targets, published keys, attempts to come
    PUT  /_sandbox/webhooks             a list of targets: members of `Target`
    GET  /_sandbox/webhooks/deliveries  every attempt that was made
    POST /_sandbox/webhooks/rotate      {"withdraw": bool}: a new key; whether the former ones are published no more
    POST /_sandbox/webhooks/replay      {"number": n}, or {} for every delivery, byte for byte
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tl_orchestration.sandbox.answers import RefusedError
from tl_orchestration.sandbox.checks import is_flag, is_whole, read_json, read_object, require, require_known
from tl_orchestration.sandbox.control import answering
from tl_orchestration.sandbox.endpoints import Steps, Subject
from tl_orchestration.sandbox.services import CURRENT
from tl_orchestration.sandbox.settings import UUID
from tl_orchestration.sandbox.store import Store
from tl_orchestration.sandbox.webhooks.scripts import targets


def routes(store: Store) -> list[Route]:
    """The routes of keys and levers over one store."""
    levers = _Levers(store)
    table = [
        ("GET", "", levers.overview),
        ("PUT", "", levers.deliver_to),
        ("GET", "/deliveries", levers.deliveries),
        ("POST", "/rotate", levers.rotate),
        ("POST", "/replay", levers.replay),
    ]
    return [
        Steps(store).route("GET", "/auth/webhooks/key/{kid}", "key", levers.key, _subject),
        *(Route(f"/_sandbox/webhooks{path}", answering(handler), methods=[verb]) for verb, path, handler in table),
    ]


async def _subject(_: Request) -> Subject:
    return Subject(CURRENT)


class _Levers:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def key(self, request: Request) -> Response:
        kid, form = request.path_params["kid"], request.query_params.get("pem", "true")
        if not UUID.fullmatch(kid) or form not in {"true", "false"}:
            raise RefusedError(400, "INVALID_REQUEST", "keyId must be a uuid, and pem a boolean")
        found = self._store.webhook_keys.public(kid, pem=form == "true")
        if found is None:
            raise RefusedError(404, "NOT_FOUND", "No such key")
        return PlainTextResponse(found)

    async def overview(self, _: Request) -> Response:
        courier = self._store.courier
        return JSONResponse(
            {
                "targets": [{"url": one.url, "service": one.service} for one in courier.targets],
                "keys": self._store.webhook_keys.published,
                "waiting": courier.waiting,
            }
        )

    async def deliver_to(self, request: Request) -> Response:
        self._store.courier.deliver_to(targets(read_json(await request.body())))
        return await self.overview(request)

    async def deliveries(self, _: Request) -> Response:
        return JSONResponse([attempt.described() for attempt in self._store.courier.attempts])

    async def rotate(self, request: Request) -> Response:
        body = read_object(await request.body())
        require_known(body, ("withdraw",))
        withdraw = body.get("withdraw", False)
        require(is_flag(withdraw), "withdraw must be true or false", withdraw)
        return JSONResponse({"kid": self._store.webhook_keys.rotate(withdraw=withdraw)})

    async def replay(self, request: Request) -> Response:
        body = read_object(await request.body())
        require_known(body, ("number",))
        number = body.get("number")
        require(number is None or is_whole(number), "number must be a whole number", number)
        return JSONResponse({"replayed": self._store.courier.replay(number)})
