"""
Key and secret of a workspace: asks ``POST /auth/authorize`` for a token, and again once the token has had its time.
"""

from __future__ import annotations

import concurrent.futures
import copy
import logging
import math
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, ClassVar

import httpx
from attrs import field, frozen

from tl_orchestration.answers import json_object, refusal
from tl_orchestration.authorization import (
    LONGEST_ANSWER,
    RENEWAL_INTERVAL,
    Body,
    InThread,
    Landed,
    Step,
    SteppedAuth,
    Steps,
    leave_unread,
)
from tl_orchestration.credentials import Confined, header_value
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidSettings,
    NoAnswer,
    RateLimited,
    TransactionlinkError,
)
from tl_orchestration.exchange import Request, Response
from tl_orchestration.secret import Secret

log = logging.getLogger(__name__)

_PATH = "/auth/authorize"
#: A token is given up before its end: by this share of its time, and at most so many seconds.
_MARGIN_SHARE, _LONGEST_MARGIN = 0.1, 60.0
#: A longer time than this is none, seconds: such a token is used until it is refused.
_LONGEST_LIFETIME = 1e9
#: For how long a Retry-After keeps everybody from asking again, seconds.
_LONGEST_PAUSE = 60.0


class WorkspaceKey(Confined):
    """
    Key and secret of a workspace (contract A2.2), for the legacy API and, while the vendor still supports it, for the
    current one. They are exchanged for a token, which all clients with this credential share until shortly before its
    end; a token that is refused with 401 is replaced once. However many threads and event loops need a token at the
    same moment, one of them asks for it.

    A failing exchange means that nothing was started: it raises AuthenticationError where key and secret are refused
    (400 or 401; contract C7), RateLimited, or NoAnswer with ``sent`` False.

    Args:
        key: The key.
        secret: Its secret.
        monotonic: For tests.

    Raises:
        InvalidSettings: One of them is empty or not text.
    """

    services: ClassVar[frozenset[str]] = frozenset({"transactionlink", "transactionlink-legacy"})

    def __init__(self, key: str, secret: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pair = _Pair.of(key, secret)
        self._source: Callable[[], tuple[str, str]] | None = None
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}

    @classmethod
    def from_source(
        cls, source: Callable[[], tuple[str, str]], *, monotonic: Callable[[], float] = time.monotonic
    ) -> WorkspaceKey:
        """
        Take key and secret from a callable, and again when the service refuses them, so that a rotated pair takes
        effect without a restart. The callable may block for a moment, not for seconds; from an
        :class:`~tl_orchestration.AsyncClient` it is called again in another thread than the event loop's.
        """
        credential = cls(*source(), monotonic=monotonic)
        credential._source = source
        return credential

    def auth(self) -> httpx.Auth:
        return _WorkspaceAuth(self)

    def fingerprint_secret(self) -> bytes:
        return self._pair.secret.reveal().encode()

    def session(self, base_url: str) -> _Session:
        """
        The token for one address: one that is got from a host is never shown to another.
        """
        with self._lock:
            return self._sessions.setdefault(base_url, _Session(self._monotonic))

    def body(self) -> dict[str, str]:
        """
        What is sent to get a token.
        """
        pair = self._pair
        return {"key": pair.key.reveal(), "secret": pair.secret.reveal()}

    def renew(self, refused: dict[str, str]) -> bool:
        """
        Read key and secret again after the service refused this body. True if there are others now.

        A source that fails for a moment changes nothing: the refusal stands.
        """
        if self._source is not None:
            try:
                self._pair = _Pair.of(*self._source())
            except Exception as error:  # the source is the caller's
                log.warning("Key and secret were refused and could not be read again (%s).", type(error).__name__)
        return self.body() != refused


@frozen
class _Pair:
    key: Secret
    secret: Secret

    @classmethod
    def of(cls, key: str, secret: str) -> _Pair:
        return cls(Secret(_given(key, "key")), Secret(_given(secret, "secret")))


def _given(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidSettings(f"The {name} of the workspace is empty.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidSettings(f"The {name} of the workspace is text that no encoding can hold.") from None
    return value.strip()


@frozen
class _Token:
    header: Secret
    asked_at: float
    until: float


_Outcome = _Token | TransactionlinkError | None
_Future = concurrent.futures.Future[_Outcome]


@frozen
class _Place:
    """
    Where a caller stands who needs a token that is not there: he asks for it himself, or waits for who does.
    """

    future: _Future = field(repr=False)
    leads: bool


class _Session:
    """
    The token of one address, and who is asking for it.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self._lock = threading.Lock()
        self._token: _Token | None = None
        self._proven = False
        self._flight: _Future | None = None
        self._failure: tuple[TransactionlinkError, float] | None = None

    def board(self, refused: str | None) -> str | _Place:
        """
        A header that can be used, or the place in the queue for one.

        Args:
            refused: The header that the service has just refused. It is given back where a new one would be no better:
                the service has never accepted it, and it is only some seconds old.

        Raises:
            TransactionlinkError: The service has just refused to give a token.
        """
        with self._lock:
            now = self.monotonic()
            if (token := self._token) is not None:
                header = token.header.reveal()
                if header != refused and now < token.until:
                    return header
                if header == refused and not self._proven and now < token.asked_at + RENEWAL_INTERVAL:
                    return header
            if self._failure is not None and now < self._failure[1]:
                raise copy.copy(self._failure[0])
            if self._flight is not None:
                return _Place(self._flight, leads=False)
            self._flight = concurrent.futures.Future()
            self._flight.set_running_or_notify_cancel()  # so that nobody who waits can cancel it for the others
            return _Place(self._flight, leads=True)

    def land(self, outcome: _Outcome) -> None:
        """
        Tell everybody what came of asking; None if whoever asked was stopped, so that another one has to.
        """
        with self._lock:
            flight, self._flight = self._flight, None
            if isinstance(outcome, _Token):
                self._token, self._proven, self._failure = outcome, False, None
            elif isinstance(outcome, AuthenticationError | RateLimited):
                pause = getattr(outcome, "retry_after", None) or RENEWAL_INTERVAL
                self._failure = outcome, self.monotonic() + min(pause, _LONGEST_PAUSE)
        if flight is not None:
            flight.set_result(outcome)

    def accepted(self, header: str) -> None:
        """
        Take note that the service accepts this header: once it is refused, another one can be better.
        """
        if not self._proven and self._token is not None and self._token.header.reveal() == header:
            self._proven = True


class _WorkspaceAuth(SteppedAuth):
    def __init__(self, credential: WorkspaceKey) -> None:
        self._credential = credential

    def steps(self, request: httpx.Request) -> Steps:
        session = self._credential.session(request.extensions["base_url"])
        header = yield from self._obtain(session, request, refused=None, answer=None)
        request.headers["Authorization"] = header
        response = yield request
        if response.status_code != 401:
            session.accepted(header)
            return
        # A 401 means that the request was not processed, so repeating it is safe even for a start.
        fresh = yield from self._obtain(session, request, refused=header, answer=response)
        if fresh != header:
            leave_unread(response)
            request.headers["Authorization"] = fresh
            response = yield request
            if response.status_code != 401:
                session.accepted(fresh)

    def _obtain(
        self, session: _Session, request: httpx.Request, *, refused: str | None, answer: httpx.Response | None
    ) -> Generator[httpx.Request | Step, Any, str]:
        while not isinstance(place := session.board(refused), str):
            outcome: _Outcome = None
            if place.leads:
                if answer is not None:
                    leave_unread(answer)
                try:
                    outcome = yield from self._ask(session, request)
                finally:
                    session.land(outcome)
            else:
                outcome = yield Landed(place.future)
            if isinstance(outcome, _Token):
                return outcome.header.reveal()
            if outcome is not None:
                raise copy.copy(outcome)  # everybody who waits raises it
        return place

    def _ask(self, session: _Session, request: httpx.Request) -> Generator[httpx.Request | Step, Any, _Outcome]:
        body = self._credential.body()
        outcome = yield from self._ask_with(body, session, request)
        if isinstance(outcome, AuthenticationError) and (yield InThread(lambda: self._credential.renew(body))):
            outcome = yield from self._ask_with(self._credential.body(), session, request)
        return outcome

    def _ask_with(
        self, body: dict[str, str], session: _Session, request: httpx.Request
    ) -> Generator[httpx.Request | Step, Any, _Outcome]:
        asked_at = session.monotonic()
        answer: httpx.Response = yield httpx.Request(
            "POST",
            request.extensions["base_url"] + _PATH,
            headers={
                "Accept": "application/json;version=2",
                "Accept-Encoding": "identity",
                "User-Agent": "tl-orchestration",
                "Connection": "close",  # a start that follows has a connection of its own
            },
            json=body,
            extensions={"timeout": request.extensions.get("timeout", {})},
        )
        content: bytes = yield Body(answer)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        try:
            return _token(Response(answer.status_code, headers, content), body, asked_at)
        except TransactionlinkError as error:
            return error


def _token(response: Response, body: dict[str, str], asked_at: float) -> _Token:
    """
    The token in an answer.

    Raises:
        AuthenticationError, RateLimited, NoAnswer: There is none.
    """
    request = Request("authorize", "POST", _PATH, json=body)
    if not response.is_success:
        raise _refused(response, request)
    if response.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise _no_token("with a compressed body, which was not asked for", response)
    if len(response.body) > LONGEST_ANSWER:
        raise _no_token("with more than a token can be long", response)
    try:
        document = json_object(response, request)
        header = header_value(str(document["accessToken"]))
    except (InvalidAnswer, InvalidSettings, KeyError):
        raise _no_token("with something else than a token", response) from None
    lifetime = document.get("expiryDuration")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not 0 < lifetime <= _LONGEST_LIFETIME:
        lifetime = math.inf  # then it is used until it is refused
    margin = min(_MARGIN_SHARE * lifetime, _LONGEST_MARGIN)
    return _Token(Secret(header), asked_at=asked_at, until=asked_at + lifetime - margin)


def _refused(response: Response, request: Request) -> TransactionlinkError:
    error = refusal(response, request, subject="the workspace", permission="a permission", now=time.time())
    if isinstance(error, RateLimited):
        return error
    if not 400 <= response.status < 500 or response.status == 408:
        return _no_token(f"with HTTP {response.status}", response)
    why = (
        "does not accept key and secret. Check both, and that they belong to this service's workspace"
        if response.status in {400, 401}
        else "gives no token. Check the base URL"
    )
    return AuthenticationError(
        f"The service {why} (HTTP {response.status} at {_PATH}).",
        status_code=response.status,
        codes=error.codes,
        fingerprint=error.fingerprint,
    )


def _no_token(how: str, response: Response) -> NoAnswer:
    return NoAnswer(
        f"The service answered {_PATH} {how}; the request that needs the token was not sent.",
        sent=False,
        status_code=response.status,
    )
