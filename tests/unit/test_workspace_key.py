"""Key and secret become a token: once for everybody, in time, and without being shown."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.authorizing import KEY, SECRET, URL, Service, one
from tests.builders import FakeClock
from tl_orchestration.credentials import B3osKey, B3osPublic, Credentials, OrganizationToken
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidSettings,
    NoAnswer,
    RateLimited,
    TransactionlinkError,
)
from tl_orchestration.workspace_key import WorkspaceKey

JSON = {"content-type": "application/json"}


def found_in(text: str) -> list[str]:
    """The planted values that are in the text."""
    return [value for value in (KEY, SECRET, "PLANTED", "token-") if value in text]


@pytest.fixture
def clock() -> FakeClock:
    """Time that passes when it is told to."""
    return FakeClock()


@pytest.fixture
def key(clock: FakeClock) -> WorkspaceKey:
    """A credential that lives in that time."""
    return WorkspaceKey(KEY, SECRET, monotonic=lambda: clock.now)


class TestAuthorization:
    def test_request_is_as_documented(self, key: WorkspaceKey) -> None:
        """Key and secret go in the body, to the service's own address, with the version of the vendor's samples."""
        service = Service()
        assert one(key.auth(), service, f"{URL}/gateway").status_code == 200
        (asked,) = service.asked
        assert ("POST", f"{URL}/gateway/auth/authorize") == (asked.method, str(asked.url))
        assert (
            asked.headers["accept"],
            asked.headers["content-type"],
            asked.headers["accept-encoding"],
        ) == ("application/json;version=2", "application/json", "identity")
        assert "authorization" not in asked.headers
        assert httpx.Response(200, content=asked.content).json() == {"key": KEY, "secret": SECRET}
        assert service.headers == ["Bearer token-1"]

    def test_token_is_kept_until_shortly_before_its_end(self, key: WorkspaceKey, clock: FakeClock) -> None:
        """expiryDuration is in seconds, and a minute is left of an hour."""
        service = Service(lifetime=3600)
        for step, given in ((0, 1), (3539, 1), (2, 2)):
            clock.advance(step)
            one(key.auth(), service)
            assert given == service.given

    def test_short_token_has_a_short_margin(self, key: WorkspaceKey, clock: FakeClock) -> None:
        """A tenth of its time."""
        service = Service(lifetime=10)
        for step, given in ((0, 1), (8.9, 1), (0.2, 2)):
            clock.advance(step)
            one(key.auth(), service)
            assert given == service.given

    @pytest.mark.parametrize("lifetime", [None, "3600", 0, -5, True, [1], 10**400])
    def test_token_of_unknown_lifetime_is_used_until_it_is_refused(
        self, key: WorkspaceKey, clock: FakeClock, lifetime: object
    ) -> None:
        """What cannot be read is not guessed."""
        service = Service(lifetime=lifetime)
        one(key.auth(), service)
        clock.advance(10_000_000)
        one(key.auth(), service)
        assert service.given == 1

    def test_clients_of_one_credential_share_the_token(self, key: WorkspaceKey) -> None:
        """Whoever has the same credential need not ask again."""
        service = Service()
        for _ in range(3):
            one(key.auth(), service)
        assert service.given == 1

    def test_token_is_shown_to_no_other_host(self, key: WorkspaceKey) -> None:
        """Each address has a token of its own."""
        service = Service()
        for url in (URL, "https://other.example", URL):
            one(key.auth(), service, url)
        assert service.headers == ["Bearer token-1", "Bearer token-2", "Bearer token-1"]


class TestRefusedToken:
    def test_is_replaced_once(self, key: WorkspaceKey) -> None:
        """A 401 leads to one new token and one more request."""
        service = Service()
        one(key.auth(), service)
        service.refused.add("Bearer token-1")
        assert one(key.auth(), service).status_code == 200
        assert service.headers == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]

    def test_second_refusal_stands(self, key: WorkspaceKey) -> None:
        """A token that is refused though it is new is no reason for a third one."""
        service = Service()
        service.refused.update({"Bearer token-1", "Bearer token-2"})
        answer = one(key.auth(), service)
        assert (answer.status_code, service.given, service.headers) == (401, 1, ["Bearer token-1"])
        assert {"from": f"{URL}/workflows/run"} == answer.json()

    def test_new_token_that_never_worked_is_tried_again_later(self, key: WorkspaceKey, clock: FakeClock) -> None:
        """At most one in some seconds."""
        service = Service()
        service.refused.add("Bearer token-1")
        assert one(key.auth(), service).status_code == 401
        clock.advance(2)
        assert one(key.auth(), service).status_code == 401
        clock.advance(2)
        assert one(key.auth(), service).status_code == 200
        assert service.given == 2

    @pytest.mark.parametrize("status", [403, 404, 429, 500])
    def test_other_refusals_are_not_about_the_token(self, key: WorkspaceKey, status: int) -> None:
        """Only a 401 is."""
        service = Service()

        def handler(request: httpx.Request) -> httpx.Response:
            return service(request) if "authorize" in request.url.path else httpx.Response(status)

        with httpx.Client(transport=httpx.MockTransport(handler), auth=key.auth()) as client:
            assert status == client.get(URL, extensions={"base_url": URL}).status_code
        assert service.given == 1

    def test_long_or_packed_answer_is_not_read_before_the_next_request(self, key: WorkspaceKey) -> None:
        """Only the last answer is the caller's to read, and his limits are to hold."""
        pieces: list[int] = []

        class Endless(httpx.SyncByteStream):
            def __iter__(self) -> Any:
                for number in range(1000):
                    pieces.append(number)
                    yield b"x" * 1024

        service = Service()
        one(key.auth(), service)

        def handler(request: httpx.Request) -> httpx.Response:
            if request.headers.get("Authorization") == "Bearer token-1":
                return httpx.Response(401, stream=Endless())
            return service(request)

        with httpx.Client(transport=httpx.MockTransport(handler), auth=key.auth()) as client:
            assert client.get(URL, extensions={"base_url": URL}).status_code == 200
        assert pieces == []


class TestRotatedPair:
    REFUSED = httpx.Response(401, json={})

    def test_refused_pair_is_read_again_once(self) -> None:
        """Key and secret that have changed since are sent in the same breath; the caller notices nothing."""
        pairs = iter([(KEY, SECRET), ("key-2", "secret-2")])
        service = Service()
        service.answers = [self.REFUSED]
        assert one(WorkspaceKey.from_source(lambda: next(pairs)).auth(), service).status_code == 200
        assert [httpx.Response(200, content=asked.content).json() for asked in service.asked] == [
            {"key": KEY, "secret": SECRET},
            {"key": "key-2", "secret": "secret-2"},
        ]

    def test_unchanged_pair_is_not_sent_twice(self) -> None:
        """A refusal of a pair that has not changed stands."""
        service = Service()
        service.answers = [self.REFUSED]
        with pytest.raises(AuthenticationError, match="does not accept key and secret"):
            one(WorkspaceKey.from_source(lambda: (KEY, SECRET)).auth(), service)
        assert len(service.asked) == 1

    def test_failing_source_changes_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        """A source that cannot be read leaves the refusal as the outcome, and says so without a value."""
        pairs = iter([(KEY, SECRET), (KEY, "")])
        service = Service()
        service.answers = [self.REFUSED]
        with pytest.raises(AuthenticationError):
            one(WorkspaceKey.from_source(lambda: next(pairs)).auth(), service)
        assert "could not be read again (InvalidSettings)" in caplog.text
        assert found_in(caplog.text) == []

    @pytest.mark.parametrize("answer", [httpx.Response(429), httpx.Response(503), httpx.Response(404)])
    def test_only_a_refusal_of_the_pair_is_a_reason_to_read_it(self, answer: httpx.Response) -> None:
        """What is not about key and secret leaves them alone, or finds them unchanged."""
        service = Service()
        service.answers = [answer]
        with pytest.raises(TransactionlinkError):
            one(WorkspaceKey.from_source(lambda: (KEY, SECRET)).auth(), service)
        assert len(service.asked) == 1


class TestFailingAuthorization:
    @pytest.mark.parametrize(
        ("answer", "error", "says"),
        [
            (httpx.Response(400, json={}), AuthenticationError, "does not accept key and secret"),
            (httpx.Response(401, json={}), AuthenticationError, "does not accept key and secret"),
            (httpx.Response(403), AuthenticationError, "gives no token"),
            (httpx.Response(404), AuthenticationError, "gives no token. Check the base URL"),
            (httpx.Response(429), RateLimited, "429"),
            (httpx.Response(408), NoAnswer, "HTTP 408"),
            (httpx.Response(500), NoAnswer, "HTTP 500"),
            (httpx.Response(502, text="<html>"), NoAnswer, "HTTP 502"),
            (httpx.Response(302, headers={"location": "https://evil.example"}), NoAnswer, "HTTP 302"),
            (httpx.Response(307, headers={"location": f"{URL}/elsewhere"}), NoAnswer, "HTTP 307"),
            (httpx.Response(200, text="<html>"), NoAnswer, "something else than a token"),
            (httpx.Response(200, json=[]), NoAnswer, "something else than a token"),
            (httpx.Response(200, json={}), NoAnswer, "something else than a token"),
            (httpx.Response(200, json={"accessToken": ""}), NoAnswer, "something else than a token"),
            (httpx.Response(200, json={"accessToken": "a\r\nX: y"}), NoAnswer, "something else than a token"),
            (httpx.Response(200, headers=JSON, content=b'{"accessToken":"a","accessToken":"b"}'), NoAnswer, "else"),
            (httpx.Response(200, headers=JSON, content=b'{"accessToken":"' + b"a" * 70_000 + b'"}'), NoAnswer, "long"),
            (httpx.Response(200, headers=JSON | {"content-encoding": "x-odd"}, content=b"{}"), NoAnswer, "compressed"),
        ],
    )
    def test_nothing_else_is_sent(
        self, key: WorkspaceKey, answer: httpx.Response, error: type[TransactionlinkError], says: str
    ) -> None:
        """Bad credentials are 400 or 401 (contract C7); whatever it is, the request itself did not go out."""
        service = Service()
        service.answers.append(answer)
        with pytest.raises(error, match=says) as caught:
            one(key.auth(), service)
        assert (len(service.asked), service.headers) == (1, [])
        assert False is getattr(caught.value, "sent", False)
        assert found_in(str(caught.value)) == []

    def test_codes_are_kept_and_texts_are_scrubbed(self, key: WorkspaceKey) -> None:
        """Support needs the codes; nobody needs the key."""
        service = Service()
        items = [{"code": "BAD_CREDENTIALS", "message": f"{KEY} {SECRET}"}, {"code": SECRET, "message": ""}]
        service.answers.append(httpx.Response(401, json={"fingerprint": "f00d", "errors": items}))
        with pytest.raises(AuthenticationError) as caught:
            one(key.auth(), service)
        assert (
            caught.value.codes,
            caught.value.fingerprint,
            caught.value.status_code,
        ) == (("BAD_CREDENTIALS",), "f00d", 401)

    @pytest.mark.parametrize(
        ("answer", "error", "pause"),
        [
            (httpx.Response(401), AuthenticationError, 3),
            (httpx.Response(429), RateLimited, 3),
            (httpx.Response(429, headers={"retry-after": "20"}), RateLimited, 20),
            (httpx.Response(429, headers={"retry-after": "9999"}), RateLimited, 60),
        ],
    )
    def test_refusal_is_not_asked_for_again_at_once(
        self, key: WorkspaceKey, clock: FakeClock, answer: httpx.Response, error: type[TransactionlinkError], pause: int
    ) -> None:
        """For some seconds, or as long as the service says, everybody gets the same refusal."""
        service = Service()
        service.answers.append(answer)
        for _ in range(3):
            with pytest.raises(error):
                one(key.auth(), service)
        clock.advance(pause - 0.1)
        with pytest.raises(error):
            one(key.auth(), service)
        assert len(service.asked) == 1
        clock.advance(0.2)
        assert one(key.auth(), service).status_code == 200

    def test_failure_that_is_no_refusal_is_asked_again_at_once(self, key: WorkspaceKey) -> None:
        """A broken answer says nothing about the next one."""
        service = Service()
        service.answers.append(httpx.Response(500))
        with pytest.raises(NoAnswer):
            one(key.auth(), service)
        assert one(key.auth(), service).status_code == 200


class TestSecrecy:
    def test_is_not_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither by repr nor in any log, nor its token."""
        key, service = WorkspaceKey(KEY, SECRET), Service()
        with caplog.at_level(logging.DEBUG):
            one(key.auth(), service)
        session = key.session(URL)
        assert found_in(f"{key} {key!r} {vars(key)} {key.auth()!r} {vars(key.auth())} {vars(session)}") == []
        assert found_in(caplog.text) == []

    @pytest.mark.parametrize("travel", [pickle.dumps, copy.copy, copy.deepcopy])
    @pytest.mark.parametrize("credential", [WorkspaceKey(KEY, SECRET), B3osKey(KEY), B3osPublic()])
    def test_does_not_travel(self, travel: Callable[[object], object], credential: object) -> None:
        """A credential is neither pickled nor copied."""
        with pytest.raises(TypeError, match="not pickled") as caught:
            travel(credential)
        assert found_in(str(caught.value)) == []

    @pytest.mark.parametrize(("key", "secret"), [("", SECRET), (KEY, " \n"), (None, SECRET), (KEY, 7), (KEY, "\ud800")])
    def test_what_is_none_is_refused(self, key: Any, secret: Any) -> None:
        """Both are needed, as text."""
        with pytest.raises(InvalidSettings) as caught:
            WorkspaceKey(key, secret)
        assert found_in(str(caught.value)) == []

    def test_key_material(self) -> None:
        """The secret keys the fingerprints, so that a new one makes another key; white space around it is none."""
        assert SECRET.encode() == WorkspaceKey(KEY, f" {SECRET}\n").fingerprint_secret()
        assert b3os_material(KEY) != b3os_material("other")
        assert B3osPublic().fingerprint_secret() != B3osPublic().fingerprint_secret()

    def test_fulfil_the_protocol(self) -> None:
        """All of them are credentials, and say for which services."""
        for credential in (WorkspaceKey(KEY, SECRET), B3osKey(KEY), B3osPublic(), OrganizationToken("tot_a")):
            assert isinstance(credential, Credentials)
            assert credential.services


def b3os_material(key: str) -> bytes:
    """Key material of a B3OS key."""
    return B3osKey(key).fingerprint_secret()
