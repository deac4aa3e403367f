"""
A service on a network that fails a tenth of all requests, and its own ledger of what it has committed.

Which request meets which fault follows from the seed, from what the request is about, and from how often it came; not
from the order in which threads are scheduled.
"""

from __future__ import annotations

import gzip
import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen

from tests.wire.fault_server import Conversation, http

#: Polls that find an execution running before one finds it ended.
_POLLS = 2
_HTML = b"<html><body>Down for maintenance</body></html>"


@frozen
class Visit:
    """
    One request, as the service sees it.

    Args:
        operation: ``run`` or ``poll``.
        subject: The step's key, or the execution's id.
        final: Whether the client wants the connection closed after it.
    """

    operation: str
    subject: str
    final: bool


Strike = Callable[[Conversation, bytes], None]


def _reset(conversation: Conversation, answer: bytes) -> None:
    conversation.reset()


def _close(conversation: Conversation, answer: bytes) -> None:
    conversation.close()


def _hang(conversation: Conversation, answer: bytes) -> None:
    while conversation.read_some():
        pass  # until the other side has had enough


def _drip(conversation: Conversation, answer: bytes) -> None:
    conversation.drip(answer)


def _continue_then_hang(conversation: Conversation, answer: bytes) -> None:
    conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    _hang(conversation, answer)


def _sends(data: bytes) -> Strike:
    """Send this and close."""

    def strike(conversation: Conversation, answer: bytes) -> None:
        conversation.send(data)
        conversation.close()

    return strike


def _truncated(conversation: Conversation, answer: bytes) -> None:
    conversation.send(answer[:-7])
    conversation.close()


def _with_body(change: Callable[[bytes], bytes], *headers: str, content_type: str = "application/json") -> Strike:
    """Answer 200 with the right document, spoiled."""

    def strike(conversation: Conversation, answer: bytes) -> None:
        body = answer.partition(b"\r\n\r\n")[2]
        conversation.send(http("200 OK", change(body), *headers, content_type=content_type))

    return strike


def _answers(status: str, *headers: str) -> Strike:
    def strike(conversation: Conversation, answer: bytes) -> None:
        body = b'{"errors": [{"code": "CHAOS", "message": "no"}]}'
        conversation.send(http(status, body, *headers))

    return strike


#: What may happen instead of the right answer. Of all of these a client cannot know whether a start was carried out.
SILENCES: Mapping[str, Strike] = {
    "reset before reading": _reset,
    "reset after reading": _reset,
    "close without an answer": _close,
    "garbage status line": _sends(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "drip": _drip,
    "hang": _hang,
    "100 Continue, then hang": _continue_then_hang,
    "truncated body": _truncated,
    "compressed body": _with_body(gzip.compress, "Content-Encoding: gzip"),
    "badly compressed body": _with_body(lambda body: gzip.compress(body)[:-9], "Content-Encoding: gzip"),
    "redirect": _sends(http("307 Temporary Redirect", b"", "Location: http://127.0.0.1:9/workflows")),
    "HTML": _with_body(lambda body: _HTML, content_type="text/html"),
    "wrong content type": _with_body(lambda body: body, content_type="text/plain"),
    "500": _answers("500 Internal Server Error"),
    "502": _answers("502 Bad Gateway"),
    "503": _answers("503 Service Unavailable", "Retry-After: 0"),
}
#: Forms of Retry-After. Those that name a long time are for starts only: a poll's would stop all polls of a client.
_SHORT_WAITS = (
    "",
    "0",
    "-5",
    "nan",
    "soon",
    "9" * 35,
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "Wednesday, 21-Oct-15 07:28:00",
)
_LONG_WAITS = ("120", "inf", "1e3", "Fri, 31 Dec 2100 23:59:59 GMT")
#: Refusals: the service has not taken the request up and says so, and nobody may call that unknown.
REFUSALS: Mapping[str, Strike] = {
    "400": _answers("400 Bad Request"),
    "403": _answers("403 Forbidden"),
    "404": _answers("404 Not Found"),
}
WAIT = "429"
_HIDDEN = frozenset({"reset before reading"})


@define
class Account:
    """
    What really happened; the oracle.

    Args:
        commits: Executions by the key of the step that asked for them.
        unanswered: Keys with a start that got no answer from which its outcome could be known.
        requests: All of them.
        faults: Those that met a fault, by its name.
    """

    commits: dict[str, list[str]] = field(factory=dict)
    unanswered: set[str] = field(factory=set)
    requests: int = 0
    faults: Counter[str] = field(factory=Counter)


class ChaoticService:
    """
    A behaviour of the fault server: serves executions over each connection.

    Args:
        seed: Decides about every fault.
        share: Of requests that meet one.
    """

    def __init__(self, seed: int, share: float = 0.1) -> None:
        self._seed = seed
        self._share = share
        self._lock = threading.Lock()
        self._visits: Counter[Visit] = Counter()
        self._polls: Counter[str] = Counter()
        self.account = Account()

    def __call__(self, conversation: Conversation) -> None:
        while request := conversation.peek_request():
            if not self._serve(conversation, request):
                break
            conversation.received = b""
        conversation.close()

    def _serve(self, conversation: Conversation, request: bytes) -> bool:
        """Answer one request, or fail to. Whether the connection can be used again."""
        visit = _understood(request)
        fate, chance = self._fate(visit)
        if fate not in _HIDDEN:
            conversation.read_request()
        if fate is None:
            conversation.send(self._answer(visit))
        elif fate in REFUSALS:
            REFUSALS[fate](conversation, b"")
        elif fate == WAIT:
            waits = _SHORT_WAITS + (_LONG_WAITS if visit.operation == "run" else ())
            wait = chance.choice(waits)
            _answers("429 Too Many Requests", *([f"Retry-After: {wait}"] if wait else []))(conversation, b"")
        else:
            self._leave_open(conversation, visit, fate, chance)
            return False
        return not visit.final

    def _leave_open(self, conversation: Conversation, visit: Visit, fate: str, chance: random.Random) -> None:
        # Half of the starts that get no usable answer were carried out. A request that was never read was not.
        carried_out = visit.operation == "poll" or (fate not in _HIDDEN and chance.random() < 0.5)
        answer = self._answer(visit) if carried_out else http()
        if visit.operation == "run":
            with self._lock:
                self.account.unanswered.add(visit.subject)
        SILENCES[fate](conversation, answer)

    def _fate(self, visit: Visit) -> tuple[str | None, random.Random]:
        with self._lock:
            self._visits[visit] += 1
            self.account.requests += 1
            chance = random.Random(f"{self._seed}/{visit.operation}/{visit.subject}/{self._visits[visit]}")
            if chance.random() >= self._share:
                return None, chance
            fate = chance.choice([*SILENCES, *REFUSALS, WAIT])
            self.account.faults[fate] += 1
            return fate, chance

    def _answer(self, visit: Visit) -> bytes:
        with self._lock:
            if visit.operation == "poll":
                self._polls[visit.subject] += 1
                ended = self._polls[visit.subject] >= _POLLS
                return _document(visit.subject, "COMPLETED" if ended else "RUNNING")
            made = self.account.commits.setdefault(visit.subject, [])
            # The ids follow from the keys, so that what happens to the polls follows from the seed as well.
            execution_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{visit.subject}/{len(made)}"))
            made.append(execution_id)
            return _document(execution_id, "RUNNING")


def _understood(request: bytes) -> Visit:
    head, _, body = request.partition(b"\r\n\r\n")
    method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
    final = b"connection: close" in head.lower()
    if method == "POST":
        parameters: dict[str, Any] = json.loads(body)["parameters"]
        return Visit("run", parameters["step"], final)
    return Visit("poll", path.rpartition("/")[2], final)


def _document(execution_id: str, status: str) -> bytes:
    return http("200 OK", json.dumps({"id": execution_id, "status": status}).encode())
