"""
`POST /auth/authorize` and `/auth/refresh`: JWTs for a key and secret.

The JWTs open both Transactionlink APIs until they expire. A refresh token can be used more than once, and the
access tokens before it stay good: whether the service does so is not known.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tl_orchestration.sandbox.answers import JsonAnswer, RefusedError
from tl_orchestration.sandbox.checks import is_text, read_object, require
from tl_orchestration.sandbox.credentials import Key
from tl_orchestration.sandbox.endpoints import Steps, Subject
from tl_orchestration.sandbox.services import LEGACY
from tl_orchestration.sandbox.store import Store


def routes(store: Store) -> list[Route]:
    """The routes of authorization over one store."""
    auth, steps = _Auth(store), Steps(store)
    return [
        steps.route("POST", "/auth/authorize", "authorize", auth.authorize, _subject),
        steps.route("POST", "/auth/refresh", "refresh", auth.refresh, _subject),
    ]


async def _subject(_: Request) -> Subject:
    return Subject(LEGACY)


class _Auth:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def authorize(self, request: Request) -> Response:
        body = await _read(request, "key", "secret")
        for key in self._store.settings.keys:
            if (key.key, key.secret) == (body["key"], body["secret"]):
                return self._answer(key, with_refresh=True)
        raise self._bad_credentials()

    async def refresh(self, request: Request) -> Response:
        reading = self._store.variants["refresh_answer"]
        if reading == "absent":
            raise RefusedError(404, "NOT_FOUND", "No POST /auth/refresh here")
        body = await _read(request, "refreshToken")
        key = self._store.sessions.key_of_refresh(body["refreshToken"], self._store.clock.now())
        if key is None:
            raise self._bad_credentials()
        return self._answer(key, with_refresh=reading == "full")

    def _answer(self, key: Key, *, with_refresh: bool) -> Response:
        lifetime = self._store.settings.token_lifetime
        session = self._store.sessions.open(key, self._store.clock.now(), lifetime)
        answer: dict[str, Any] = {"accessToken": session.access_token}
        if with_refresh:
            answer["refreshToken"] = session.refresh_token
        return JsonAnswer(answer | {"expiryDuration": lifetime, "tokenType": "Bearer"})

    def _bad_credentials(self) -> RefusedError:
        status = self._store.variants["bad_credentials_status"]
        return RefusedError(status, "INVALID_CREDENTIALS", "Invalid credentials")


async def _read(request: Request, *names: str) -> dict[str, Any]:
    try:
        body = read_object(await request.body())
        for name in names:
            # The value is kept out of the sentence: it may be half of a real credential.
            require(is_text(body.get(name)), f"{name} must be a non-empty string", type(body.get(name)).__name__)
    except ValueError as error:
        raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
    return body
