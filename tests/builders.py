"""
Values to test with. Each function makes one, right in every field that the test does not name.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, TypeVar

from tl_orchestration.exchange import Clock, Response
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.ledger.entry import Entry, Event, State
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.status import Status

#: A moment, epoch seconds.
NOW = 1_790_000_000.0
EXECUTION_ID = "e3c23802-537d-4aa4-89f1-397c120f5565"
OTHER_ID = "11111111-2222-4333-8444-555555555555"
WORKSPACE_ID = "3f0c1d52-7a54-4a0e-9d0b-5f1f6a2f9c11"
JSON_TYPE = "application/json;charset=UTF-8"

T = TypeVar("T")

SAME = Fingerprint(digest="ab" * 32, key_id="cd" * 8)


class FakeClock:
    """
    Time that passes only when it is told to. The monotonic clock has another origin than the wall clock.
    """

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.passed = 0.0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.passed += seconds

    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, monotonic=lambda: 1000.0 + self.passed)


def travelled(value: T, protocol: int | None = None) -> T:
    """The value as another process gets it."""
    copy = pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 -- our own bytes
    assert isinstance(copy, type(value))
    return copy


def run_request(**fields: Any) -> RunRequest:
    """A request for a KYC check."""
    return RunRequest(**{"workflow_definition_id": "kyc-approve", "parameters": {"firstName": "Ada"}, **fields})


def response(status: int = 200, document: object = None, *, body: bytes | None = None, **headers: Any) -> Response:
    """An answer with a JSON document, or with a body as given. Header names have underscores here; None is none."""
    named = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    content = body if body is not None else b"" if document is None else json.dumps(document).encode()
    return Response(status, {"content-type": JSON_TYPE} | named, content)


def refusal_document(message: str = "no", code: str = "SOME_CODE", fingerprint: str = "f00d") -> dict[str, Any]:
    """The service's ErrorResponse."""
    return {"fingerprint": fingerprint, "errors": [{"code": code, "message": message}]}


def document(status: str | None = "RUNNING", **members: Any) -> dict[str, Any]:
    """An answer about an execution, as the current API gives it."""
    found: dict[str, Any] = {
        "id": EXECUTION_ID,
        "workspaceId": WORKSPACE_ID,
        "workflowDefinitionId": "kyc-approve",
        "parameters": {},
        "name": "kyc-approve",
        "revision": "r1",
        "locale": "en",
        "expiresAt": "2026-09-21T15:13:20.250000Z",
        "uiOptions": {},
        "executionType": "BACKGROUND",
        "executionVersion": 1,
        "origin": "API",
        **members,
    }
    return found if status is None else found | {"status": status}


def told(status: str | None = "RUNNING", **members: Any) -> Response:
    """The service's answer to a start or a poll, without an expiry unless one is given."""
    return response(200, document(status, **{"expiresAt": None, **members}))


def handle(**fields: Any) -> Handle:
    """A handle of an execution that the holder has started."""
    return Handle(**{"execution_id": EXECUTION_ID, "owned": True, **fields})


def execution(status: Status = Status.RUNNING, **fields: Any) -> Execution:
    """What is known of an execution."""
    return Execution(**{"id": EXECUTION_ID, "status": status, "raw_status": status.value, "handle": handle(), **fields})


def event(state: State, **fields: Any) -> Event:
    """An event that happened now."""
    return Event(**{"state": state, "at": NOW, **fields})


def entry(state: State, **fields: Any) -> Entry:
    """An entry of the first attempt, for the request of which ``SAME`` is the fingerprint."""
    return Entry(
        **{
            "version": 3,
            "state": state,
            "generation": "0",
            "intended_at": NOW,
            "changed_at": NOW,
            "fingerprint": SAME.digest,
            "fingerprint_key_id": SAME.key_id,
            "deadline": NOW + 3600,
            "expires_at": NOW + 1805,
            **fields,
        }
    )
