"""
What a network does to the exchange of key and secret for a token, and what that means for the request that needs it.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.builders import EXECUTION_ID, run_request
from tests.wire.conftest import OpenDoor
from tests.wire.doors import Door
from tests.wire.fault_server import Behaviour, Conversation, FaultServer, close_read, closed_port, hang, http, then
from tl_orchestration import B3osOptions, B3osPublic, Client, LegacyOptions, Settings, WorkspaceKey
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidSettings,
    NoAnswer,
    RateLimited,
    StartOutcomeUnknown,
    TransactionlinkError,
    WaitInterrupted,
)
from tl_orchestration.ledger import MemoryLedger, State
from tl_orchestration.retry import RetryPolicy

SECRET = "secret-PLANTED-2"
#: The total deadline of one request that nothing else ends, and what an exchange may take beyond it on a busy machine.
DEADLINE = 1.0
SLACK = 10.0
SETTINGS = Settings(request_timeout=DEADLINE, max_answer_bytes=100_000)
#: Where something else ends it.
PATIENT = Settings(max_answer_bytes=100_000)
ONCE = RetryPolicy(attempts=1)
TOKEN = http("200 OK", b'{"accessToken": "ey.1", "expiryDuration": 3600, "tokenType": "Bearer"}')
NEXT_TOKEN = http("200 OK", b'{"accessToken": "ey.2", "expiryDuration": 3600, "tokenType": "Bearer"}')
REFUSED = http("401 Unauthorized", b"{}")
REQUEST = run_request(options=LegacyOptions(case_id=EXECUTION_ID), parameters={})
KEY = "step"


class Dispatch:
    """
    One behaviour after another for authorizations, and for everything else; the last of each stays.
    """

    def __init__(self, authorize: list[Behaviour], rest: list[Behaviour] | None = None) -> None:
        self._queues = {True: authorize, False: rest or [then(http())]}
        self._lock = threading.Lock()
        self.seen: list[str] = []
        self.heads: list[bytes] = []

    def __call__(self, conversation: Conversation) -> None:
        while request := conversation.read_request():
            path = request.split(b" ", 2)[1].decode()
            with self._lock:
                self.seen.append(path)
                self.heads.append(request.partition(b"\r\n\r\n")[0])
                queue = self._queues[path == "/auth/authorize"]
                behaviour = queue.pop(0) if len(queue) > 1 else queue[0]
            conversation.read_request = lambda: request  # type: ignore[method-assign]  # it has been read
            behaviour(conversation)
            del conversation.read_request
            if b"connection: close" in request.lower():
                break
        conversation.close()


def opened(open_door: OpenDoor, url: str, **options: object) -> Door:
    """A client of the legacy service."""
    return open_door(
        url, WorkspaceKey("key", SECRET), **{"service": "transactionlink-legacy", "settings": PATIENT, **options}
    )


FAILURES: dict[str, tuple[Behaviour, type[TransactionlinkError]]] = {
    "no answer": (hang, NoAnswer),
    "closed": (close_read, NoAnswer),
    "half an answer": (then(TOKEN[:-5], "close"), NoAnswer),
    "a body that never ends": (then(TOKEN[:-5], "hang"), NoAnswer),
    "garbage": (then(b"SSH-2.0\r\n\r\n", "close"), NoAnswer),
    "500": (then(http("500 Oops", b"{}")), NoAnswer),
    "a redirect": (then(http("307 Temporary Redirect", b"", "Location: https://evil.example/")), NoAnswer),
    "a huge answer": (then(http("200 OK", b" " * 1_000_000)), NoAnswer),
    "a page": (then(http("200 OK", b"<html>", content_type="text/html")), NoAnswer),
    "400": (then(http("400 Bad Request", b"{}")), AuthenticationError),
    "401": (then(REFUSED), AuthenticationError),
    "429": (then(http("429 Too Many", b"{}")), RateLimited),
}

#: Those that nothing ends but the deadline.
LASTING = {"no answer", "a body that never ends"}


def settings_for(failure: str) -> Settings:
    """With a deadline that only those meet that last."""
    return SETTINGS if failure in LASTING else PATIENT


@pytest.mark.parametrize("failure", FAILURES)
class TestFailing:
    def test_start_has_not_happened(self, open_door: OpenDoor, failure: str) -> None:
        """Whatever breaks while the token is asked for, nothing of the start was sent: rejected, never unknown."""
        behaviour, error = FAILURES[failure]
        dispatch, ledger = Dispatch([behaviour]), MemoryLedger().for_namespace("tests")
        with FaultServer(dispatch) as server:
            client = opened(open_door, server.url, ledger=ledger, settings=settings_for(failure), retry=ONCE)
            began = time.monotonic()
            with pytest.raises(error) as caught:
                client.run(REQUEST, KEY)
            assert time.monotonic() - began < DEADLINE + SLACK
        assert {"/auth/authorize"} == set(dispatch.seen)
        assert False is getattr(caught.value, "sent", False)
        assert SECRET not in str(caught.value)
        entry = ledger.read(KEY)
        assert entry is not None
        assert State.REJECTED is entry.state

    def test_after_a_refused_token_too(self, open_door: OpenDoor, failure: str) -> None:
        """A start that was answered 401 was not processed, whatever comes of asking for another token."""
        behaviour, error = FAILURES[failure]
        dispatch = Dispatch([then(TOKEN), behaviour], [then(http("404 Not Found", b"{}")), then(REFUSED)])
        with FaultServer(dispatch) as server:
            client = opened(open_door, server.url, settings=settings_for(failure), retry=ONCE)
            client.check()  # the token is accepted: only then a refusal is worth a new one
            with pytest.raises(error) as caught:
                client.run(REQUEST)
        assert [path for path in dispatch.seen if not path.startswith("/workflows/") or path == "/workflows/run"] == [
            "/auth/authorize",
            "/workflows/run",
            "/auth/authorize",
        ]
        assert False is getattr(caught.value, "sent", False)


class TestClassification:
    def test_lost_answer_of_the_start_is_an_unknown_fate(self, open_door: OpenDoor) -> None:
        """The token came, the start went out: now nobody knows."""
        dispatch = Dispatch([then(TOKEN)], [close_read])
        with FaultServer(dispatch) as server:
            client = opened(open_door, server.url, ledger=MemoryLedger(), retry=ONCE)
            with pytest.raises(StartOutcomeUnknown):
                client.run(REQUEST, KEY)
        assert dispatch.seen == ["/auth/authorize", "/workflows/run"]

    def test_lost_answer_of_the_repeated_start_is_an_unknown_fate(self, open_door: OpenDoor) -> None:
        """Refused, authorized anew, sent again, lost."""
        rest = [then(http("404 Not Found", b"{}")), then(REFUSED), close_read]
        dispatch = Dispatch([then(TOKEN), then(NEXT_TOKEN)], rest)
        with FaultServer(dispatch) as server:
            client = opened(open_door, server.url, retry=ONCE)
            client.check()
            with pytest.raises(StartOutcomeUnknown):
                client.run(REQUEST)
        assert dispatch.seen[-3:] == ["/workflows/run", "/auth/authorize", "/workflows/run"]

    def test_start_has_a_connection_of_its_own(self, open_door: OpenDoor) -> None:
        """That of the authorization is closed before, so a stale one cannot make a clean failure ambiguous."""
        dispatch = Dispatch([then(TOKEN)])
        with FaultServer(dispatch) as server:
            opened(open_door, server.url).run(REQUEST)
            assert server.accepted == 2
        assert all(b"connection: close" in head.lower() for head in dispatch.heads)

    def test_service_that_is_not_there(self, open_door: OpenDoor) -> None:
        """No connection, nothing sent."""
        with closed_port() as url, pytest.raises(NoAnswer) as caught:
            opened(open_door, url, retry=ONCE).run(REQUEST)
        assert not caught.value.sent

    def test_refused_authorization_is_never_sent_elsewhere(self, open_door: OpenDoor) -> None:
        """Key and secret follow no redirect, to wherever it points."""
        with FaultServer(then(TOKEN)) as elsewhere:
            redirect = http("307 Temporary Redirect", b"", f"Location: {elsewhere.url}/auth/authorize")
            with FaultServer(Dispatch([then(redirect)])) as server, pytest.raises(NoAnswer, match="HTTP 307"):
                opened(open_door, server.url, retry=ONCE).run(REQUEST)
            assert elsewhere.accepted == 0


class TestWaitingForAToken:
    def test_flag_ends_it(self) -> None:
        """A thread that waits for another's token sees its flag within a slice; whoever asks goes on."""
        asked, waits, stop, let_go = (threading.Event() for _ in range(4))
        looks = iter(range(1_000))

        def held(conversation: Conversation) -> None:
            conversation.read_request()
            asked.set()
            let_go.wait(60)
            conversation.close()

        def stops() -> bool:
            if next(looks) > 3:  # not only before it waits
                waits.set()
            return stop.is_set()

        with FaultServer(Dispatch([held])) as server:
            key, settings = WorkspaceKey("key", SECRET), Settings(request_timeout=60)
            with (
                Client(key, server.url, "transactionlink-legacy", settings=settings, retry=ONCE) as client,
                ThreadPoolExecutor(2) as pool,
            ):
                try:
                    asking = pool.submit(client.poll, EXECUTION_ID)
                    assert asked.wait(30)
                    waiting = pool.submit(client.wait, EXECUTION_ID, 120, stop=stops)
                    assert waits.wait(30)
                    stop.set()
                    assert isinstance(waiting.exception(20), WaitInterrupted)
                    assert not asking.done()
                finally:
                    let_go.set()
                assert isinstance(asking.exception(30), NoAnswer)

    def test_deadline_ends_it(self) -> None:
        """And its own request's deadline."""
        with FaultServer(Dispatch([hang])) as server:
            key = WorkspaceKey("key", SECRET)
            with (
                Client(key, server.url, "transactionlink-legacy", settings=SETTINGS, retry=ONCE) as client,
                ThreadPoolExecutor(4) as pool,
            ):
                began = time.monotonic()
                for poll in [pool.submit(client.poll, EXECUTION_ID) for _ in range(4)]:
                    error = poll.exception(30)
                    assert isinstance(error, NoAnswer)
                    assert not error.sent
                assert time.monotonic() - began < DEADLINE + SLACK


class TestClientToken:
    ANSWER = (
        b'{"code": 200, "requestId": "r", "data": {"clientToken": "ct_PLANTED 7&x", "execution": '
        b'{"id": "' + EXECUTION_ID.encode() + b'", "status": "workflow_queued"}}}'
    )
    REQUEST = run_request(options=B3osOptions(source_system="s", source_entity_type="t"))

    def test_is_on_the_wire_and_in_no_log(self, open_door: OpenDoor, caplog: pytest.LogCaptureFixture) -> None:
        """The service gets it as a query; neither we nor what sends for us says so in any log."""
        dispatch = Dispatch([], [then(http("200 OK", self.ANSWER))])
        caplog.set_level(logging.DEBUG)
        for name in ("httpx", "httpcore", "tl_orchestration"):
            caplog.set_level(logging.DEBUG, name)  # other tests may have quietened them
        with FaultServer(dispatch) as server:
            client = open_door(server.url, B3osPublic(), service="b3os")
            execution = client.run(self.REQUEST)
            again = client.poll(execution)
            client.poll(again)
        path = f"/v1/public/executions/{EXECUTION_ID}?token=ct_PLANTED%207%26x"
        assert ["/v1/public/workflows/kyc-approve/executions", path, path] == [
            seen.replace("+", "%20") for seen in dispatch.seen
        ]
        assert "PLANTED" not in caplog.text
        assert "httpcore" in caplog.text
        assert "PLANTED" not in f"{execution!r} {execution.handle.to_dict()}"
        assert all(b"authorization" not in head.lower() for head in dispatch.heads)

    def test_is_in_no_error(self, open_door: OpenDoor) -> None:
        """Nor is it where the network fails."""
        dispatch = Dispatch([], [then(http("200 OK", self.ANSWER)), close_read])
        with FaultServer(dispatch) as server:
            client = open_door(server.url, B3osPublic(), service="b3os", retry=ONCE)
            execution = client.run(self.REQUEST)
            with pytest.raises(NoAnswer) as caught:
                client.poll(execution)
        assert "PLANTED" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


@pytest.mark.parametrize(
    ("service", "credential"),
    [
        ("transactionlink", B3osPublic()),
        ("transactionlink-legacy", B3osPublic()),
        ("b3os", WorkspaceKey("k", "s")),
    ],
)
def test_credential_of_another_service_is_refused(open_door: OpenDoor, service: str, credential: object) -> None:
    """A client is not built over a credential that cannot fit."""
    with pytest.raises(InvalidSettings, match=f"is no credential of {service}; give it"):
        open_door("http://127.0.0.1:1", credential, service=service)
