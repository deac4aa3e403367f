"""The sandbox over real sockets: it answers as documented, behaves as scripted, fails as ordered."""

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

import tl_orchestration.sandbox
from tl_orchestration.sandbox import SandboxServer, SandboxSettings, create_app
from tl_orchestration.sandbox.definitions import SCRIPTED, Definition
from tl_orchestration.sandbox.faults import Fault
from tl_orchestration.sandbox.settings import SANDBOX_JWT
from tl_orchestration.sandbox.store import Store

NOW = 1_790_000_000.25
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NOBODY = "00000000-0000-4000-8000-000000000000"
JSON_TYPE = "application/json;charset=UTF-8"
# A client makes a TLS context even for plain http, which takes longer than most of these tests.
UNUSED_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Sandbox:
    """A user of a running sandbox: says the endpoints' names, and nothing about what to expect."""

    def __init__(self, server: SandboxServer, credential: str | None = "tot_sandbox") -> None:
        headers = {} if credential is None else {"authorization": credential}
        self.server = server
        self.http = httpx.Client(base_url=server.url, headers=headers, trust_env=False, verify=UNUSED_TLS, timeout=5)

    def post_start(self, definition: str = "kyc-approve", **fields: Any) -> httpx.Response:
        body = {"workflowDefinitionId": definition, "locale": "en", "parameters": {}, **fields}
        return self.http.post("/workflows", json=body)

    def start(self, definition: str = "kyc-approve", **fields: Any) -> dict[str, Any]:
        answer = self.post_start(definition, **fields)
        assert answer.status_code == 200, answer.text
        return _object(answer)

    def get(self, execution: dict[str, Any]) -> httpx.Response:
        return self.http.get(f"/workflows/{execution['id']}")

    def status(self, execution: dict[str, Any]) -> str:
        return str(self.get(execution).json()["status"])

    def result(self, execution: dict[str, Any]) -> httpx.Response:
        return self.http.get(f"/workflows/{execution['id']}/result")

    def cancel(self, execution: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"/workflows/{execution['id']}/cancel")

    def decide(self, execution: dict[str, Any], decision: str) -> httpx.Response:
        return self.http.post("/hosted", data={"token": execution["token"], "decision": decision})

    def control(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.http.request(method, f"/_sandbox{path}", json=body, headers={"authorization": ""})

    def advance(self, seconds: float) -> None:
        assert self.control("POST", "/advance", {"seconds": seconds}).status_code == 200

    def order(self, *faults: dict[str, Any]) -> None:
        answer = self.control("POST", "/faults", list(faults))
        assert answer.status_code == 201, answer.text

    def change(self, name: str, **fields: Any) -> None:
        answer = self.control("PATCH", f"/definitions/{name}", fields)
        assert answer.status_code == 200, answer.text


def _object(answer: httpx.Response) -> dict[str, Any]:
    value = answer.json()
    assert isinstance(value, dict)
    return value


@contextmanager
def running(credential: str | None = "tot_sandbox", **settings: Any) -> Iterator[Sandbox]:
    """A sandbox of one's own, for what cannot be reset."""
    with SandboxServer(SandboxSettings(**{"clock": lambda: NOW, "seed": 7, **settings})) as server:
        sandbox = Sandbox(server, credential)
        with sandbox.http:
            yield sandbox


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxSettings(clock=lambda: NOW, seed=7)) as server:
        yield server


@pytest.fixture
def sandbox(server: SandboxServer) -> Iterator[Sandbox]:
    server.store.reset()
    sandbox = Sandbox(server)
    with sandbox.http:
        yield sandbox


def at(**since_now: float) -> str:
    """The time so long after the sandbox's now, as a client would write it."""
    moment = datetime.fromtimestamp(NOW, UTC) + timedelta(**since_now)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def assert_refused(answer: httpx.Response, status: int) -> str:
    """The answer is an ErrorResponse with this status. Returns its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON_TYPE
    body = answer.json()
    assert set(body) == {"fingerprint", "errors"}
    assert isinstance(body["fingerprint"], str)
    assert body["fingerprint"]
    (error,) = body["errors"]
    assert set(error) == {"code", "message"}
    assert error["code"].startswith("SANDBOX_")
    return str(error["message"])


class TestStart:
    def test_answer_has_the_documented_fields(self, sandbox: Sandbox) -> None:
        """A background start answers with exactly the documented members, in their documented types."""
        answer = sandbox.post_start(parameters={"firstName": "Zoë"}, locale="uk")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == JSON_TYPE
        body = answer.json()
        assert UUID4.fullmatch(body.pop("id"))
        assert body.pop("workspaceId") == SandboxSettings().workspace_id
        assert isinstance(body.pop("origin"), str)
        assert body == {
            "workflowDefinitionId": "kyc-approve",
            "parameters": {"firstName": "Zoë"},
            "name": "kyc-approve",
            "revision": "r1",
            "status": "RUNNING",
            "locale": "uk",
            "expiresAt": "2026-09-21T15:13:20.250000Z",
            "uiOptions": {},
            "executionType": "BACKGROUND",
            "executionVersion": 1,
        }
        assert "Zoë".encode() in answer.content

    def test_expiry_is_an_hour_after_the_start(self, sandbox: Sandbox) -> None:
        """Without expiresAt an execution lives one hour."""
        expires = datetime.fromisoformat(sandbox.start()["expiresAt"])
        assert expires.timestamp() == NOW + 3600

    def test_record_id_is_echoed_only_if_given(self, sandbox: Sandbox) -> None:
        """recordId appears in start and status answers of executions that have one."""
        record = "E3C23802-537d-4aa4-89f1-397c120f5565"
        execution = sandbox.start(recordId=record)
        assert execution["recordId"] == record
        assert sandbox.get(execution).json()["recordId"] == record
        assert "recordId" not in sandbox.start(recordId=None)

    def test_parameters_may_be_absent(self, sandbox: Sandbox) -> None:
        """The vendor's own sample omits parameters: that starts with none."""
        answer = sandbox.http.post("/workflows", json={"workflowDefinitionId": "kyc-approve", "locale": "en"})
        assert answer.json()["parameters"] == {}

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (at(minutes=30), "2026-09-21T14:43:20.250000Z"),
            (at(days=30), "2026-10-21T14:13:20.250000Z"),
            ("2026-09-21T17:00:00+02:00", "2026-09-21T15:00:00.000000Z"),
            (None, "2026-09-21T15:13:20.250000Z"),
        ],
    )
    def test_expires_at_is_told_in_utc(self, sandbox: Sandbox, given: str | None, told: str) -> None:
        """Any ISO 8601 time with an offset from 30 minutes to 30 days ahead is taken, null as none."""
        assert sandbox.start(expiresAt=given)["expiresAt"] == told

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff{}",
            b'{"workflowDefinitionId": "kyc-approve", "locale": "en", "parameters": {"a": NaN}}',
            b"[" * 100_000,
            b"[]",
            b'"kyc-approve"',
            b"null",
        ],
    )
    def test_body_must_be_a_json_object(self, sandbox: Sandbox, content: bytes) -> None:
        """Anything but a JSON object is refused with 400 and starts nothing."""
        assert_refused(sandbox.http.post("/workflows", content=content), 400)
        assert sandbox.server.store.starts == []

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("workflowDefinitionId", None),
            ("workflowDefinitionId", ""),
            ("workflowDefinitionId", 7),
            ("locale", None),
            ("locale", ""),
            ("locale", ["en"]),
            ("parameters", None),
            ("parameters", []),
            ("parameters", "text"),
            ("expiresAt", "tomorrow"),
            ("expiresAt", 1_790_003_600),
            ("expiresAt", "2026-09-21T15:00:00"),
            ("expiresAt", at(minutes=29, seconds=59)),
            ("expiresAt", at(days=30, seconds=1)),
            ("expiresAt", at(hours=-1)),
            ("recordId", "7"),
            ("recordId", 7),
            ("recordId", "e3c23802537d4aa489f1397c120f5565"),
        ],
    )
    def test_fields_are_checked(self, sandbox: Sandbox, field: str, value: Any) -> None:
        """A field of the wrong type or range is refused with 400, names the field and starts nothing."""
        message = assert_refused(sandbox.post_start(**{field: value}), 400)
        assert field in message
        assert sandbox.server.store.starts == []

    @pytest.mark.parametrize("field", ["workflowDefinitionId", "locale"])
    def test_required_fields(self, sandbox: Sandbox, field: str) -> None:
        """A body without a required field is refused with 400."""
        body = {"workflowDefinitionId": "kyc-approve", "locale": "en", "parameters": {}}
        del body[field]
        assert field in assert_refused(sandbox.http.post("/workflows", json=body), 400)

    def test_unknown_definition(self, sandbox: Sandbox) -> None:
        """An unknown workflow definition is 404 and starts nothing."""
        assert "kyc-nothing" in assert_refused(sandbox.post_start("kyc-nothing"), 404)
        assert sandbox.server.store.starts == []

    def test_nothing_is_deduplicated(self, sandbox: Sandbox) -> None:
        """The same request twice starts two executions, as the service has no idempotency key."""
        assert sandbox.start()["id"] != sandbox.start()["id"]
        assert len(sandbox.server.store.starts) == 2


class TestAuthorization:
    @pytest.mark.parametrize("header", ["tot_sandbox", f"Bearer {SANDBOX_JWT}"])
    def test_accepted_forms(self, server: SandboxServer, header: str) -> None:
        """An organization token is sent raw, a JWT as Bearer."""
        sandbox = Sandbox(server, header)
        with sandbox.http:
            assert sandbox.post_start().status_code == 200

    @pytest.mark.parametrize(
        "header",
        [None, "", "Bearer tot_sandbox", SANDBOX_JWT, "tot_other", "Bearer other", "Basic dG90X3NhbmRib3g="],
    )
    def test_anything_else_is_unauthorized(self, server: SandboxServer, header: str | None) -> None:
        """A missing, unknown or wrongly presented credential is 401 on every endpoint, before all checks."""
        sandbox = Sandbox(server, header)
        with sandbox.http:
            nobody = {"id": NOBODY}
            answers = [sandbox.http.post("/workflows", content=b"{"), sandbox.get(nobody)]
            answers += [sandbox.result(nobody), sandbox.cancel(nobody)]
        for answer in answers:
            assert_refused(answer, 401)

    def test_permission_to_run(self, sandbox: Sandbox) -> None:
        """Without can_run a start is 403, and reading and cancelling still work."""
        execution = sandbox.start()
        sandbox.http.headers["authorization"] = "tot_sandbox_no_run"
        assert_refused(sandbox.post_start(), 403)
        assert sandbox.get(execution).status_code == 200
        assert sandbox.cancel(execution).status_code == 200
        assert len(sandbox.server.store.starts) == 1

    def test_permission_to_view(self, sandbox: Sandbox) -> None:
        """Without can_view_workspace only a start works; cancelling needs it too."""
        sandbox.http.headers["authorization"] = "tot_sandbox_no_view"
        execution = sandbox.start()
        for answer in (sandbox.get(execution), sandbox.result(execution), sandbox.cancel(execution)):
            assert_refused(answer, 403)
        assert sandbox.server.store.cancels == []

    def test_tokens_are_a_setting(self) -> None:
        """Given tokens replace the default ones."""
        with running("tot_mine", tokens=[{"value": "tot_mine", "can_view": False}]) as sandbox:
            assert_refused(sandbox.get(sandbox.start()), 403)
            sandbox.http.headers["authorization"] = "tot_sandbox"
            assert_refused(sandbox.post_start(), 401)


class TestUnknownPlaces:
    def test_unknown_execution(self, sandbox: Sandbox) -> None:
        """Status, result and cancel of an unknown execution are 404."""
        for nobody in ({"id": NOBODY}, {"id": "not-a-uuid"}):
            for answer in (sandbox.get(nobody), sandbox.result(nobody), sandbox.cancel(nobody)):
                assert_refused(answer, 404)
        assert sandbox.server.store.cancels == []

    def test_unknown_path(self, sandbox: Sandbox) -> None:
        """A path that the service does not have is 404 in its error form, and is counted; no redirects."""
        assert_refused(sandbox.http.get("/nothing"), 404)
        assert_refused(sandbox.http.post("/workflows/"), 404)
        assert sandbox.server.store.requests == {"GET *": 1, "POST *": 1}

    def test_wrong_method(self, sandbox: Sandbox) -> None:
        """A wrong method is 405 in the service's error form."""
        answer = sandbox.http.get("/workflows")
        assert_refused(answer, 405)
        assert "POST" in answer.headers["allow"]


class TestDefinitions:
    def test_approve(self, sandbox: Sandbox) -> None:
        """kyc-approve runs, then is COMPLETED with the decision approve and the customer's names."""
        customer = {"firstName": "Ada", "lastName": "Quux"}
        execution = sandbox.start("kyc-approve", parameters={**customer, "other": 1})
        assert sandbox.status(execution) == "RUNNING"
        assert_refused(sandbox.result(execution), 404)
        sandbox.advance(1)
        assert sandbox.status(execution) == "COMPLETED"
        answer = sandbox.result(execution)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == JSON_TYPE
        result = answer.json()
        assert result["decision"] == "approve"
        assert result["riskScore"] == 12
        assert {"name": "sanctions", "outcome": "clear"} in result["checks"]
        assert result["customer"] == customer

    def test_status_answer_is_the_start_answer(self, sandbox: Sandbox) -> None:
        """The status answer has the members of the start answer, the status apart."""
        execution = sandbox.start(parameters={"a": [1, {"b": None}]})
        sandbox.advance(1)
        assert sandbox.get(execution).json() == execution | {"status": "COMPLETED"}

    def test_reject(self, sandbox: Sandbox) -> None:
        """kyc-reject is COMPLETED, and its result says reject and why; no names given, none echoed."""
        execution = sandbox.start("kyc-reject")
        sandbox.advance(1)
        assert sandbox.status(execution) == "COMPLETED"
        result = sandbox.result(execution).json()
        assert result["decision"] == "reject"
        assert result["reasons"]
        assert "customer" not in result

    def test_fail(self, sandbox: Sandbox) -> None:
        """kyc-fail is FAILED and has no result."""
        execution = sandbox.start("kyc-fail")
        assert sandbox.status(execution) == "RUNNING"
        sandbox.advance(1)
        assert sandbox.status(execution) == "FAILED"
        assert_refused(sandbox.result(execution), 404)

    def test_slow(self, sandbox: Sandbox) -> None:
        """kyc-slow takes ten minutes, then approves."""
        execution = sandbox.start("kyc-slow")
        sandbox.advance(599)
        assert sandbox.status(execution) == "RUNNING"
        sandbox.advance(1)
        assert sandbox.status(execution) == "COMPLETED"
        assert sandbox.result(execution).json()["decision"] == "approve"

    def test_expire_after_its_duration(self, sandbox: Sandbox) -> None:
        """kyc-expire is EXPIRED after three seconds, and has no result."""
        execution = sandbox.start("kyc-expire")
        sandbox.advance(2.9)
        assert sandbox.status(execution) == "RUNNING"
        sandbox.advance(0.2)
        assert sandbox.status(execution) == "EXPIRED"
        assert_refused(sandbox.result(execution), 404)

    def test_expire_at_its_expiry(self, sandbox: Sandbox) -> None:
        """Without a duration, kyc-expire is EXPIRED at its expiresAt and no earlier."""
        sandbox.change("kyc-expire", duration=None)
        execution = sandbox.start("kyc-expire", expiresAt=at(minutes=45))
        sandbox.advance(45 * 60 - 1)
        assert sandbox.status(execution) == "RUNNING"
        sandbox.advance(1)
        assert sandbox.status(execution) == "EXPIRED"

    def test_any_running_execution_expires(self, sandbox: Sandbox) -> None:
        """What would finish after its expiresAt is EXPIRED instead, for good and without a result."""
        sandbox.change("kyc-slow", duration=7200)
        execution = sandbox.start("kyc-slow")
        sandbox.advance(3600)
        assert sandbox.status(execution) == "EXPIRED"
        sandbox.advance(7200)
        assert sandbox.status(execution) == "EXPIRED"
        assert_refused(sandbox.result(execution), 404)

    def test_finished_before_expiry_stays_finished(self, sandbox: Sandbox) -> None:
        """The expiry of a finished execution changes nothing."""
        execution = sandbox.start()
        sandbox.advance(86_400)
        assert sandbox.status(execution) == "COMPLETED"
        assert sandbox.result(execution).status_code == 200

    def test_a_clock_that_begins_at_zero(self) -> None:
        """Times are numbers, not truths: an execution that ends at second 0 has ended."""
        store = Store(SandboxSettings(clock=lambda: 0.0, definitions={"kyc-approve": {"duration": 0}}))
        execution = store.start("kyc-approve", parameters={}, locale="en")
        assert execution.is_finished_at(0)
        assert execution.status_at(0) == "COMPLETED"


class TestCancel:
    def test_cancels_a_running_execution(self, sandbox: Sandbox) -> None:
        """A cancel is 200 with an empty body, and the execution CANCELLED for good, without a result."""
        execution = sandbox.start()
        answer = sandbox.cancel(execution)
        assert answer.status_code == 200
        assert answer.content == b""
        sandbox.advance(86_400)
        assert sandbox.status(execution) == "CANCELLED"
        assert_refused(sandbox.result(execution), 404)

    def test_of_a_finished_execution(self, sandbox: Sandbox) -> None:
        """By default a cancel that comes too late is 200 and changes nothing."""
        execution = sandbox.start()
        sandbox.advance(1)
        assert sandbox.cancel(execution).status_code == 200
        assert sandbox.status(execution) == "COMPLETED"

    def test_of_a_finished_execution_may_be_400(self) -> None:
        """The other variant of the undocumented case: 400."""
        with running(cancel_finished=400) as sandbox:
            execution = sandbox.start()
            assert sandbox.cancel(execution).status_code == 200
            assert_refused(sandbox.cancel(execution), 400)
            assert sandbox.status(execution) == "CANCELLED"

    def test_is_remembered(self, sandbox: Sandbox) -> None:
        """Every cancel of a known execution is on record, with what it found and whether it took effect."""
        execution = sandbox.start("kyc-slow")
        sandbox.cancel(execution)
        sandbox.cancel(execution)
        first, second = sandbox.control("GET", "/cancels").json()
        assert first == {
            "execution_id": execution["id"],
            "definition": "kyc-slow",
            "time": "2026-09-21T14:13:20.250000Z",
            "status_before": "RUNNING",
            "took_effect": True,
            "request": 2,
        }
        assert second == first | {"status_before": "CANCELLED", "took_effect": False, "request": 3}


class TestReview:
    @pytest.mark.parametrize("decision", ["approve", "reject"])
    def test_waits_for_a_person(self, sandbox: Sandbox, decision: str) -> None:
        """kyc-review runs until a person decides on the page behind its link; the result says the decision."""
        execution = sandbox.start("kyc-review", parameters={"firstName": "Ada"})
        assert parse_qs(urlsplit(execution["link"]).query) == {"token": [execution["token"]]}
        assert execution["link"].startswith(f"{sandbox.server.url}/hosted?")
        sandbox.advance(1799)
        assert sandbox.status(execution) == "RUNNING"
        assert sandbox.get(execution).json() == execution

        page = sandbox.http.get(execution["link"])
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert '<html lang="en">' in page.text
        assert "kyc-review" in page.text
        assert "RUNNING" in page.text
        assert 'method="post"' in page.text
        assert re.findall(r'name="decision" value="(\w+)"', page.text) == ["approve", "reject"]
        assert not re.search(r"(src|href)\s*=|url\(|@import", page.text)

        outcome = sandbox.decide(execution, decision)
        assert outcome.status_code == 200
        assert {"approve": "approved", "reject": "rejected"}[decision] in outcome.text
        assert "<form" not in outcome.text
        assert sandbox.status(execution) == "COMPLETED"
        result = sandbox.result(execution).json()
        assert result["decision"] == decision
        assert result["customer"] == {"firstName": "Ada"}

    def test_is_decided_once(self, sandbox: Sandbox) -> None:
        """Page and form of a finished review say so, and the first decision stands."""
        execution = sandbox.start("kyc-review")
        sandbox.decide(execution, "reject")
        page = sandbox.http.get(execution["link"])
        assert page.status_code == 200
        assert "already finished" in page.text
        assert "<form" not in page.text
        again = sandbox.decide(execution, "approve")
        assert again.status_code == 409
        assert "already finished" in again.text
        assert sandbox.result(execution).json()["decision"] == "reject"

    @pytest.mark.parametrize("end", ["cancel", "expiry"])
    def test_cannot_be_decided_after_its_end(self, sandbox: Sandbox, end: str) -> None:
        """A cancelled or expired review takes no decision."""
        execution = sandbox.start("kyc-review")
        if end == "cancel":
            sandbox.cancel(execution)
        else:
            sandbox.advance(3600)
        before = sandbox.status(execution)
        assert "already finished" in sandbox.http.get(execution["link"]).text
        assert sandbox.decide(execution, "approve").status_code == 409
        assert sandbox.status(execution) == before == ("CANCELLED" if end == "cancel" else "EXPIRED")

    def test_wrong_token(self, sandbox: Sandbox) -> None:
        """A token that opens nothing is a 404 page, and is not repeated in it."""
        sandbox.start("kyc-review")
        sandbox.start("kyc-approve")
        for answer in (
            sandbox.http.get("/hosted"),
            sandbox.http.get("/hosted", params={"token": "<b>"}),
            sandbox.http.post("/hosted", data={"token": "<b>", "decision": "approve"}),
            sandbox.http.post("/hosted", content=b"\xff"),
        ):
            assert answer.status_code == 404
            assert answer.headers["content-type"].startswith("text/html")
            assert "<b>" not in answer.text

    @pytest.mark.parametrize("data", [{}, {"decision": ""}, {"decision": "maybe"}])
    def test_wrong_decision(self, sandbox: Sandbox, data: dict[str, str]) -> None:
        """Anything but approve or reject is a 400 page and decides nothing."""
        execution = sandbox.start("kyc-review")
        assert sandbox.http.post("/hosted", data={"token": execution["token"], **data}).status_code == 400
        assert sandbox.status(execution) == "RUNNING"

    def test_page_is_escaped(self, sandbox: Sandbox) -> None:
        """Markup in a definition's name or status stays text."""
        sandbox.control("PUT", "/definitions/<script>&", {"like": "kyc-review", "active_status": "<img src=x>"})
        page = sandbox.http.get(sandbox.start("<script>&")["link"])
        assert "&lt;script&gt;&amp;" in page.text
        assert "&lt;img src=x&gt;" in page.text
        assert "<script" not in page.text
        assert "<img" not in page.text

    def test_work_after_the_decision(self, sandbox: Sandbox) -> None:
        """A duration of an interactive definition counts from the decision, and only from there."""
        sandbox.change("kyc-review", duration=60, active_status="AWAITING")
        execution = sandbox.start("kyc-review")
        sandbox.advance(600)
        sandbox.decide(execution, "approve")
        assert sandbox.decide(execution, "reject").status_code == 409
        sandbox.advance(59)
        assert sandbox.status(execution) == "AWAITING"
        assert_refused(sandbox.result(execution), 404)
        sandbox.advance(1)
        assert sandbox.status(execution) == "COMPLETED"

    def test_link_may_be_told_only_once(self) -> None:
        """The other variant of the undocumented case: the status answer repeats neither link nor token."""
        with running(link_in_status=False) as sandbox:
            execution = sandbox.start("kyc-review")
            status = sandbox.get(execution).json()
            assert execution == status | {"link": execution["link"], "token": execution["token"]}
            assert not {"link", "token"} & set(status)

    def test_public_url(self) -> None:
        """The link is under public_url where that is set."""
        with running(public_url="https://sandbox.example/base/") as sandbox:
            execution = sandbox.start("kyc-review")
            assert execution["link"] == f"https://sandbox.example/base/hosted?token={execution['token']}"


class TestControl:
    def test_overview(self, sandbox: Sandbox) -> None:
        """The overview tells version, time, definitions with their settings, counts and waiting faults."""
        sandbox.start()
        sandbox.advance(1)
        sandbox.cancel(sandbox.start("kyc-slow"))
        sandbox.order({"on": "result", "kind": "drop"})
        overview = sandbox.control("GET", "").json()
        assert overview.pop("version")
        definitions = overview.pop("definitions")
        assert set(definitions) == set(SCRIPTED)
        assert definitions["kyc-slow"] == {
            "duration": 600,
            "outcome": "COMPLETED",
            "active_status": "RUNNING",
            "decision": "approve",
            "result": None,
            "interactive": False,
            "revision": "r1",
            "visibility": "public_execute",
            "state": "active",
            "before_run": {},
            "webhooks": {"copies": 1, "drop": 0.0, "delay": 0.0, "spread": 0.0, "forge": None},
        }
        faults = overview.pop("faults")
        assert faults == [{"on": "result", "kind": "drop", "times": 1, "content_type": "text/plain;charset=UTF-8"}]
        assert overview == {
            "time": "2026-09-21T14:13:21.250000Z",
            "offset": 1,
            "executions": {"total": 2, "by_status": {"COMPLETED": 1, "CANCELLED": 1}},
            "starts": 2,
            "cancels": 1,
            "requests": 3,
        }

    def test_health(self, sandbox: Sandbox) -> None:
        """Health answers without a token and is not counted."""
        assert sandbox.control("GET", "/health").json() == {"status": "ok"}
        assert sandbox.server.store.requests == {}

    def test_starts(self, sandbox: Sandbox) -> None:
        """Every committed start is on record with its request's number, and without its credential."""
        sandbox.http.headers["user-agent"] = "test/1"
        sandbox.post_start("kyc-nothing")
        execution = sandbox.start("kyc-slow", parameters={"n": 1}, recordId=NOBODY, expiresAt=at(hours=2))
        sandbox.start()
        answer = sandbox.control("GET", "/starts")
        first, second = answer.json()
        assert first == {
            "execution_id": execution["id"],
            "definition": "kyc-slow",
            "time": "2026-09-21T14:13:20.250000Z",
            "service": "transactionlink",
            "record_id": NOBODY,
            "locale": "en",
            "expires_at": "2026-09-21T16:13:20.250000Z",
            "parameters": {"n": 1},
            "details": {},
            "headers": {"accept": "*/*", "content-type": "application/json", "user-agent": "test/1"},
            "request": 2,
        }
        assert second["request"] == 3
        assert second["record_id"] is None
        assert second["expires_at"] is None
        assert "tot_" not in answer.text

    def test_requests(self, sandbox: Sandbox) -> None:
        """Requests are counted by method and path template, whatever their answer; control is not."""
        execution = sandbox.start("kyc-review")
        sandbox.get(execution)
        sandbox.get({"id": NOBODY})
        sandbox.result(execution)
        sandbox.http.get(execution["link"])
        sandbox.decide(execution, "approve")
        sandbox.cancel(execution)
        assert sandbox.control("GET", "/requests").json() == {
            "POST /workflows": 1,
            "GET /workflows/{id}": 2,
            "GET /workflows/{id}/result": 1,
            "GET /hosted": 1,
            "POST /hosted": 1,
            "POST /workflows/{id}/cancel": 1,
        }

    def test_change_of_a_definition(self, sandbox: Sandbox) -> None:
        """A change applies to later starts only; fields not named keep their value."""
        before = sandbox.start()
        changes = {"duration": 5, "outcome": "PUZZLED", "revision": "r2", "result": {"x": [1]}}
        answer = sandbox.control("PATCH", "/definitions/kyc-approve", changes)
        assert answer.json() == Definition().described() | changes
        after = sandbox.start()
        assert (before["revision"], after["revision"]) == ("r1", "r2")
        sandbox.advance(1)
        assert (sandbox.status(before), sandbox.status(after)) == ("COMPLETED", "RUNNING")
        sandbox.advance(4)
        assert sandbox.status(after) == "PUZZLED"
        assert sandbox.result(after).json() == {"x": [1]}
        assert sandbox.result(before).json()["decision"] == "approve"

    def test_made_interactive(self, sandbox: Sandbox) -> None:
        """A definition made interactive waits for a person."""
        sandbox.change("kyc-approve", interactive=True)
        execution = sandbox.start()
        sandbox.advance(600)
        assert sandbox.status(execution) == "RUNNING"
        assert "link" in execution

    def test_new_definition(self, sandbox: Sandbox) -> None:
        """PUT makes a definition like another, with changes; on a known name it begins afresh."""
        answer = sandbox.control("PUT", "/definitions/kyb", {"like": "kyc-reject", "duration": 0})
        assert answer.status_code == 201
        assert sandbox.result(sandbox.start("kyb")).json()["decision"] == "reject"
        again = sandbox.control("PUT", "/definitions/kyb", {})
        assert again.status_code == 200
        assert again.json() == Definition().described()

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "says"),
        [
            ("PATCH", "/definitions/none", {}, 404, "none"),
            ("PATCH", "/definitions/kyc-fail", {"durations": 1}, 400, "durations"),
            ("PATCH", "/definitions/kyc-fail", {"like": "kyc-slow"}, 400, "like"),
            ("PATCH", "/definitions/kyc-fail", {"duration": -1}, 400, "duration"),
            ("PATCH", "/definitions/kyc-fail", {"duration": 10**400}, 400, "duration"),
            ("PATCH", "/definitions/kyc-fail", {"duration": True}, 400, "duration"),
            ("PATCH", "/definitions/kyc-fail", {"outcome": ""}, 400, "outcome"),
            ("PATCH", "/definitions/kyc-fail", {"active_status": 1}, 400, "active_status"),
            ("PATCH", "/definitions/kyc-fail", {"decision": "maybe"}, 400, "decision"),
            ("PATCH", "/definitions/kyc-fail", {"result": []}, 400, "result"),
            ("PATCH", "/definitions/kyc-fail", {"interactive": 1}, 400, "interactive"),
            ("PATCH", "/definitions/kyc-fail", {"revision": None}, 400, "revision"),
            ("PATCH", "/definitions/kyc-fail", [], 400, "object"),
            ("PUT", "/definitions/new", {"like": "none"}, 400, "like"),
            ("PUT", "/definitions/new", {"like": ["kyc-fail"]}, 400, "like"),
            ("POST", "/advance", {}, 400, "seconds"),
            ("POST", "/advance", {"seconds": -1}, 400, "seconds"),
            ("POST", "/advance", {"minutes": 1}, 400, "minutes"),
            ("POST", f"/executions/{NOBODY}", {}, 404, NOBODY),
            ("POST", f"/executions/{NOBODY}", {"status": None}, 400, "status"),
            ("POST", f"/executions/{NOBODY}", {"result": 1}, 400, "result"),
            ("POST", f"/executions/{NOBODY}", {"state": 1}, 400, "state"),
            ("POST", "/faults", {"on": "start"}, 400, "kind"),
            ("POST", "/faults", ["drop"], 400, "object"),
            ("POST", "/faults", {"on": "poll", "kind": "drop"}, 400, "on"),
            ("POST", "/faults", {"on": "start", "kind": "explode"}, 400, "kind"),
            ("POST", "/faults", {"on": ["start"], "kind": "drop"}, 400, "on"),
            ("POST", "/faults", {"on": "start", "kind": "drop", "times": 0}, 400, "times"),
            ("POST", "/faults", {"on": "start", "kind": "drop", "often": 1}, 400, "often"),
            ("POST", "/faults", {"on": "start", "kind": "drop", "definition": 1}, 400, "definition"),
            ("POST", "/faults", {"on": "start", "kind": "drop", "seconds": 1}, 400, "seconds"),
            ("POST", "/faults", {"on": "start", "kind": "drop", "status": 500}, 400, "status"),
            ("POST", "/faults", {"on": "start", "kind": "hold"}, 400, "seconds"),
            ("POST", "/faults", {"on": "start", "kind": "hold", "seconds": "1"}, 400, "seconds"),
            ("POST", "/faults", {"on": "start", "kind": "status"}, 400, "status"),
            ("POST", "/faults", {"on": "start", "kind": "status", "status": 99}, 400, "status"),
            ("POST", "/faults", {"on": "start", "kind": "status", "status": 204, "body": ""}, 400, "body"),
            ("POST", "/faults", {"on": "start", "kind": "status", "status": 500, "body": 1}, 400, "body"),
            (
                "POST",
                "/faults",
                {"on": "start", "kind": "status", "status": 500, "content_type": "a\nb"},
                400,
                "content_type",
            ),
            (
                "POST",
                "/faults",
                {"on": "start", "kind": "status", "status": 500, "headers": {"a": "b\r\nc: d"}},
                400,
                "headers",
            ),
            (
                "POST",
                "/faults",
                {"on": "start", "kind": "status", "status": 500, "headers": {"Content-Length": "1"}},
                400,
                "Content-Length",
            ),
        ],
    )
    def test_mistakes(self, sandbox: Sandbox, method: str, path: str, body: Any, status: int, says: str) -> None:
        """A mistake is answered with one sentence that names it, and changes nothing."""
        before = sandbox.control("GET", "").json()
        answer = sandbox.control(method, path, body)
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error"}
        assert says in answer.json()["error"]
        assert sandbox.control("GET", "").json() == before

    def test_body_that_is_not_json(self, sandbox: Sandbox) -> None:
        """Control bodies that are not JSON are 400."""
        assert sandbox.http.post("/_sandbox/advance", content=b"{").status_code == 400
        assert sandbox.http.post("/_sandbox/faults", content=b"").status_code == 400

    def test_forced_final_status(self, sandbox: Sandbox) -> None:
        """A final status set by force stands; a result set by force is given with any status."""
        execution = sandbox.start("kyc-slow")
        answer = sandbox.control("POST", f"/executions/{execution['id']}", {"status": "FAILED", "result": {"why": "x"}})
        assert answer.json() == {"id": execution["id"], "status": "FAILED", "result": {"why": "x"}}
        sandbox.advance(86_400)
        assert sandbox.status(execution) == "FAILED"
        assert sandbox.result(execution).json() == {"why": "x"}

    def test_forced_completion_has_the_scripted_result(self, sandbox: Sandbox) -> None:
        """COMPLETED by force gives the scripted result; a null result takes it away."""
        execution = sandbox.start("kyc-slow")
        path = f"/executions/{execution['id']}"
        sandbox.control("POST", path, {"status": "COMPLETED"})
        assert sandbox.result(execution).json()["decision"] == "approve"
        sandbox.control("POST", path, {"result": None})
        assert_refused(sandbox.result(execution), 404)

    def test_forced_unknown_status(self, sandbox: Sandbox) -> None:
        """A status that is not final holds until a cancel, the expiry or more force."""
        execution = sandbox.start()
        path = f"/executions/{execution['id']}"
        sandbox.control("POST", path, {"status": "PONDERING"})
        sandbox.advance(1800)
        assert sandbox.status(execution) == "PONDERING"
        assert_refused(sandbox.result(execution), 404)
        sandbox.advance(1800)
        assert sandbox.status(execution) == "EXPIRED"

        other = sandbox.start()
        sandbox.control("POST", f"/executions/{other['id']}", {"status": "PONDERING"})
        sandbox.cancel(other)
        assert sandbox.status(other) == "CANCELLED"

    def test_reset(self, sandbox: Sandbox) -> None:
        """A reset brings back the first day: nothing committed or ordered, own definitions, own time."""
        before = sandbox.control("GET", "").json()
        execution = sandbox.start("kyc-review")
        sandbox.cancel(execution)
        sandbox.change("kyc-approve", duration=99)
        sandbox.control("PUT", "/definitions/new", {})
        sandbox.order({"on": "start", "kind": "drop"})
        sandbox.advance(5)
        assert sandbox.control("POST", "/reset").json() == {"status": "reset"}
        assert sandbox.control("GET", "").json() == before
        assert sandbox.control("GET", "/starts").json() == []
        assert sandbox.control("GET", "/cancels").json() == []
        assert sandbox.control("GET", "/requests").json() == {}
        assert_refused(sandbox.get(execution), 404)
        assert sandbox.http.get(execution["link"]).status_code == 404
        assert sandbox.start("kyc-review")["id"] == execution["id"]


class TestFaults:
    def test_status(self, sandbox: Sandbox) -> None:
        """A status fault answers with headers and the error body, commits nothing and is used up."""
        sandbox.order({"on": "start", "kind": "status", "status": 429, "headers": {"Retry-After": "3"}, "times": 2})
        for _ in range(2):
            answer = sandbox.post_start()
            assert_refused(answer, 429)
            assert answer.headers["retry-after"] == "3"
        assert sandbox.server.store.starts == []
        assert sandbox.post_start().status_code == 200
        assert sandbox.server.store.requests == {"POST /workflows": 3}

    def test_status_with_a_body(self, sandbox: Sandbox) -> None:
        """A status fault may answer as a gateway does; it comes before the credential is looked at."""
        sandbox.order({"on": "start", "kind": "status", "status": 502, "body": "<h1>é", "content_type": "text/html"})
        sandbox.http.headers["authorization"] = "wrong"
        answer = sandbox.post_start()
        assert answer.status_code == 502
        assert answer.headers["content-type"] == "text/html"
        assert answer.content == "<h1>é".encode()

    @pytest.mark.parametrize(("status", "body"), [(204, b""), (599, None), (200, b"{broken")])
    def test_odd_statuses(self, sandbox: Sandbox, status: int, body: bytes | None) -> None:
        """Also an answer without a body, one with an unheard-of status, and a broken one with 200."""
        given = {"body": body.decode()} if body else {}
        sandbox.order({"on": "start", "kind": "status", "status": status, **given})
        answer = sandbox.post_start()
        assert answer.status_code == status
        assert body is None or answer.content == body

    @pytest.mark.parametrize(("kind", "committed"), [("drop", 0), ("lose", 1)])
    def test_no_answer_to_a_start(self, sandbox: Sandbox, kind: str, committed: int) -> None:
        """drop closes the connection before the commit, lose after it; the next request is answered."""
        sandbox.order({"on": "start", "kind": kind})
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            sandbox.post_start()
        assert len(sandbox.server.store.starts) == committed
        assert sandbox.post_start().status_code == 200
        assert len(sandbox.control("GET", "/starts").json()) == committed + 1

    @pytest.mark.parametrize(("kind", "committed"), [("drop", 0), ("lose", 1)])
    def test_closed_without_a_byte(self, sandbox: Sandbox, kind: str, committed: int) -> None:
        """On the wire: the connection ends quickly, and not one byte was sent before."""
        sandbox.order({"on": "start", "kind": kind})
        body = b'{"workflowDefinitionId": "kyc-approve", "locale": "en", "parameters": {}}'
        head = (
            b"POST /workflows HTTP/1.1\r\nHost: sandbox\r\nAuthorization: tot_sandbox\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        address = urlsplit(sandbox.server.url)
        with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
            connection.sendall(head)
            time.sleep(0.05)
            connection.sendall(body)
            assert connection.recv(1) == b""
        assert len(sandbox.server.store.starts) == committed

    def test_lost_cancel(self, sandbox: Sandbox) -> None:
        """A lost cancel has cancelled, a dropped one has not."""
        execution = sandbox.start("kyc-slow")
        sandbox.order({"on": "cancel", "kind": "drop"}, {"on": "cancel", "kind": "lose"})
        with pytest.raises(httpx.RemoteProtocolError):
            sandbox.cancel(execution)
        assert sandbox.status(execution) == "RUNNING"
        with pytest.raises(httpx.RemoteProtocolError):
            sandbox.cancel(execution)
        assert sandbox.status(execution) == "CANCELLED"

    def test_lost_refusal(self, sandbox: Sandbox) -> None:
        """A fault also strikes a request that would have been refused, which commits nothing."""
        sandbox.order({"on": "start", "kind": "lose"})
        with pytest.raises(httpx.RemoteProtocolError):
            sandbox.post_start(locale=None)
        assert sandbox.server.store.starts == []

    def test_hold(self, sandbox: Sandbox) -> None:
        """A held start is committed at once, though its answer comes later."""
        sandbox.order({"on": "start", "kind": "hold", "seconds": 0.3})
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            answer = pool.submit(sandbox.post_start)
            wait_until(lambda: len(sandbox.server.store.starts) == 1)
            assert not answer.done()
            assert answer.result().status_code == 200
            assert time.monotonic() - began >= 0.3

    def test_hold_past_the_client(self, sandbox: Sandbox) -> None:
        """A client that gives up on a held start has started an execution."""
        sandbox.order({"on": "start", "kind": "hold", "seconds": 60})
        with pytest.raises(httpx.ReadTimeout):
            sandbox.http.post("/workflows", json={"workflowDefinitionId": "kyc-slow", "locale": "en"}, timeout=0.1)
        assert [start.definition for start in sandbox.server.store.starts] == ["kyc-slow"]

    def test_strikes_its_step_and_definition_only(self, sandbox: Sandbox) -> None:
        """A fault leaves other steps and other definitions alone, and faults keep their order."""
        slow, fast = sandbox.start("kyc-slow"), sandbox.start("kyc-approve")
        sandbox.advance(1)
        sandbox.order(
            {"on": "status", "kind": "status", "status": 500, "definition": "kyc-slow"},
            {"on": "status", "kind": "status", "status": 503, "definition": "kyc-slow"},
            {"on": "result", "kind": "status", "status": 504},
            {"on": "start", "kind": "status", "status": 418, "definition": "kyc-fail"},
        )
        assert sandbox.get(fast).status_code == 200
        assert sandbox.get({"id": NOBODY}).status_code == 404
        assert [sandbox.get(slow).status_code for _ in range(3)] == [500, 503, 200]
        assert [sandbox.result(fast).status_code for _ in range(2)] == [504, 200]
        assert sandbox.http.post("/workflows", content=b"{").status_code == 400
        assert [sandbox.post_start(d).status_code for d in ("kyc-slow", "kyc-fail", "kyc-fail")] == [
            200,
            418,
            200,
        ]
        assert sandbox.server.store.faults.pending == []

    def test_one_alone_and_none(self, sandbox: Sandbox) -> None:
        """One fault may be posted without a list, and DELETE forgets them all."""
        fault = {"on": "start", "kind": "drop", "times": 9}
        assert sandbox.control("POST", "/faults", fault).json()[0]["times"] == 9
        assert sandbox.control("DELETE", "/faults").json() == []
        assert sandbox.post_start().status_code == 200

    def test_from_python(self, sandbox: Sandbox) -> None:
        """Faults can be ordered from the same process, through the store."""
        sandbox.server.store.faults.add(Fault(on="start", kind="status", status=503))
        assert_refused(sandbox.post_start(), 503)

    def test_other_servers_cannot_drop(self) -> None:
        """Where the server cannot close a connection, faults that need it are refused when ordered."""

        async def order(kind: str) -> httpx.Response:
            transport = httpx.ASGITransport(create_app())
            async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as http:
                fault = {"on": "start", "kind": kind, "seconds": 0 if kind == "hold" else None}
                return await http.post("/_sandbox/faults", json=fault)

        assert asyncio.run(order("lose")).status_code == 501
        assert asyncio.run(order("hold")).status_code == 201


class TestSettings:
    def test_from_toml(self, tmp_path: Path) -> None:
        """Every setting but the clock can come from a file; definitions are laid over the scripted ones."""
        path = tmp_path / "sandbox.toml"
        path.write_text(
            """
            seed = 3
            workspace_id = "e3c23802-537d-4aa4-89f1-397c120f5565"
            cancel_finished = 400
            link_in_status = false
            public_url = "http://sandbox.test:8321"

            [[tokens]]
            value = "tot_file"
            can_run = false

            [definitions.kyc-approve]
            duration = 0.5
            result = { decision = "approve", nested = { deep = [1, 2] } }

            [definitions.kyb]
            like = "kyc-review"
            revision = "v9"

            [definitions.kyb-forever]
            like = "kyb"
            duration = inf
            """,
            encoding="utf-8",
        )
        settings = SandboxSettings.from_toml(path)
        assert settings.seed == 3
        assert settings.workspace_id == "e3c23802-537d-4aa4-89f1-397c120f5565"
        assert settings.cancel_finished == 400
        assert settings.link_in_status is False
        assert settings.public_url == "http://sandbox.test:8321"
        assert [(token.value, token.can_run, token.can_view) for token in settings.tokens] == [
            ("tot_file", False, True)
        ]
        assert set(settings.definitions) == {*SCRIPTED, "kyb", "kyb-forever"}
        assert settings.definitions["kyc-approve"].duration == 0.5
        assert settings.definitions["kyc-approve"].result == {
            "decision": "approve",
            "nested": {"deep": [1, 2]},
        }
        assert settings.definitions["kyb"].interactive
        assert settings.definitions["kyb-forever"].duration is None
        assert settings.definitions["kyb-forever"].revision == "v9"
        assert SandboxSettings.from_toml(str(path)) == settings

    def test_empty_file(self, tmp_path: Path) -> None:
        """An empty file gives the defaults."""
        path = tmp_path / "empty.toml"
        path.touch()
        assert SandboxSettings.from_toml(path) == SandboxSettings()

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("seed =", "value"),
            ("seeds = 1", "unknown key 'seeds'"),
            ("clock = 1", "unknown key 'clock'"),
            ("seed = 'x'", "seed"),
            ("seed = true", "seed"),
            ("workspace_id = 'x'", "workspace_id"),
            ("cancel_finished = 500", "cancel_finished"),
            ("cancel_finished = '200'", "cancel_finished"),
            ("cancel_finished = [200]", "cancel_finished"),
            ("cancel_finished = 200.0", "cancel_finished"),
            ("link_in_status = 1", "link_in_status"),
            ("public_url = 'sandbox:1'", "public_url"),
            ("public_url = 7", "public_url"),
            ("tokens = 'tot_x'", "tokens"),
            ("tokens = ['tot_x']", "token"),
            ("[[tokens]]\ncan_run = true", "value"),
            ("[[tokens]]\nvalue = ''", "value"),
            ("[[tokens]]\nvalue = 'tot_x'\ncan_run = 1", "can_run"),
            ("[[tokens]]\nvalue = 'tot_x'\nscope = 1", "unknown key 'scope'"),
            ("definitions = []", "definitions"),
            ("[definitions.kyb]\nlike = 'none'", "definition 'kyb': like"),
            ("[definitions]\nkyb = 1", "definition 'kyb'"),
            ("[definitions.kyb]\nduration = 'long'", "definition 'kyb': duration"),
            ("[definitions.kyb]\nduration = nan", "definition 'kyb': duration"),
            ("[definitions.kyb]\nresult = { born = 2001-01-01 }", "definition 'kyb': result"),
        ],
    )
    def test_mistakes_in_toml(self, tmp_path: Path, text: str, says: str) -> None:
        """A mistake is one ValueError that begins with the path and names the setting."""
        path = tmp_path / "sandbox.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError) as caught:
            SandboxSettings.from_toml(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert says in str(caught.value)
        assert "tot_x" not in str(caught.value) or "tokens =" in text

    def test_file_that_is_not_there(self, tmp_path: Path) -> None:
        """A missing file is the operating system's error."""
        with pytest.raises(FileNotFoundError):
            SandboxSettings.from_toml(tmp_path / "none.toml")

    def test_definitions_in_python(self) -> None:
        """Definitions may be given whole."""
        mine = Definition(outcome="FAILED", duration=0, result={"why": "because"})
        with running(definitions={"mine": mine}) as sandbox:
            execution = sandbox.start("mine")
            assert execution["status"] == "FAILED"
            assert sandbox.result(execution).json() == {"why": "because"}

    def test_tokens_are_not_in_the_repr(self) -> None:
        """Somebody may have configured a real token."""
        assert "tot_" not in repr(SandboxSettings())


class TestDeterminism:
    def test_same_seed_same_ids(self) -> None:
        """Under one seed ids, tokens and fingerprints repeat, whatever errors came between."""

        def ids(seed: int | None, *, stumble: bool) -> list[str]:
            store = Store(SandboxSettings(seed=seed))
            names = ["kyc-approve", "kyc-review"]
            if stumble:
                store.fingerprint()
            return [store.start(name, parameters={}, locale="en").id for name in names]

        assert ids(1, stumble=False) == ids(1, stumble=True)
        assert not set(ids(1, stumble=False)) & set(ids(2, stumble=False))
        assert not set(ids(None, stumble=False)) & set(ids(None, stumble=False))
        assert all(UUID4.fullmatch(one) for one in ids(1, stumble=False))

    def test_same_seed_same_answers(self) -> None:
        """Two servers under one seed and clock give byte for byte the same answers, links apart."""

        def talk() -> list[bytes]:
            with running(seed=11, public_url="http://sandbox.test") as sandbox:
                review = sandbox.post_start("kyc-review")
                refusal = sandbox.post_start("kyc-nothing")
                return [review.content, refusal.content, sandbox.get(review.json()).content]

        assert talk() == talk()


class TestServer:
    def test_real_time(self) -> None:
        """Without a clock of its own the sandbox runs on real time."""
        settings = SandboxSettings(definitions={"kyc-approve": {"duration": 0.2}})
        with SandboxServer(settings) as server:
            sandbox = Sandbox(server)
            with sandbox.http:
                execution = sandbox.start()
                assert sandbox.status(execution) == "RUNNING"
                wait_until(lambda: sandbox.status(execution) == "COMPLETED")
                expires = datetime.fromisoformat(execution["expiresAt"])
                assert abs(expires.timestamp() - time.time() - 3600) < 60

    def test_stop_and_start_again(self) -> None:
        """A stop ends the thread and the listening; a second start serves the same state at the same URL."""
        server = SandboxServer()
        with pytest.raises(RuntimeError, match="no address"):
            _ = server.url
        before = threading.active_count()
        with server:
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
            url = server.url
            with pytest.raises(RuntimeError, match="running already"):
                server.start()
            sandbox = Sandbox(server)
            execution = sandbox.start()
        assert threading.active_count() == before
        with closing(sandbox.http):
            with pytest.raises(httpx.ConnectError):
                sandbox.get(execution)
            with server:
                assert server.url == url
                assert sandbox.get(execution).status_code == 200
        server.stop()

    def test_stop_does_not_wait_for_a_held_answer(self) -> None:
        """Stopping drops answers that a fault holds back."""
        with ThreadPoolExecutor(1) as pool, running() as sandbox:
            sandbox.order({"on": "start", "kind": "hold", "seconds": 60})
            answer = pool.submit(sandbox.post_start)
            wait_until(lambda: len(sandbox.server.store.starts) == 1)
            began = time.monotonic()
            sandbox.server.stop()
            assert time.monotonic() - began < 2
            with pytest.raises(httpx.RemoteProtocolError):
                answer.result()

    def test_port_in_use(self, server: SandboxServer) -> None:
        """A port that is taken raises in the caller's thread."""
        port = urlsplit(server.url).port
        assert port is not None
        with pytest.raises(OSError, match="in use"):
            SandboxServer(port=port).start()

    def test_server_that_does_not_come_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A failure in the server's thread raises at the start, with its cause."""

        async def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("uvicorn.Server.startup", fail)
        server = SandboxServer()
        with pytest.raises(RuntimeError, match="did not come up") as caught:
            server.start()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        server.stop()

    def test_many_at_once(self, sandbox: Sandbox) -> None:
        """Requests from many threads are all committed, each with its own number."""
        with ThreadPoolExecutor(16) as pool:
            executions = list(pool.map(lambda _: sandbox.start(), range(200)))
        starts = sandbox.server.store.starts
        assert len({execution["id"] for execution in executions}) == 200
        assert {start.execution_id for start in starts} == {execution["id"] for execution in executions}
        assert sorted(start.request for start in starts) == list(range(1, 201))

    def test_store_from_many_threads(self) -> None:
        """The store keeps its counts when used without a server between."""
        store = Store(SandboxSettings())
        store.faults.add(Fault(on="start", kind="drop", times=500))

        def work(_: int) -> bool:
            store.count_request("POST /workflows")
            execution = store.start("kyc-slow", parameters={}, locale="en")
            return store.cancel(execution.id) and store.faults.take("start", None) is not None

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(500)))
        assert store.requests == {"POST /workflows": 500}
        assert len(store.starts) == len(store.cancels) == 500
        assert store.faults.take("start", None) is None

    def test_serve_in_the_foreground(self) -> None:
        """serve says in one line where it listens and how to stop it, and Ctrl+C ends it in good order."""
        code = "from tl_orchestration.sandbox import serve; serve(port=0)"
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            try:
                found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", line)
                assert found, line
                assert "Ctrl+C" in line
                wait_until(lambda: _is_healthy(found[1]))
            finally:
                process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stderr.read() == ""


class TestPackage:
    def test_public_names(self) -> None:
        """The public names are sorted and there."""
        names = tl_orchestration.sandbox.__all__
        assert names == sorted(names)
        assert {"SandboxServer", "SandboxSettings", "create_app"} <= set(names)
        assert all(hasattr(tl_orchestration.sandbox, name) for name in names)

    @pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
    def test_missing_extra(self, missing: str) -> None:
        """Without the extra the import says which one to install."""
        code = f"import sys; sys.modules[{missing!r}] = None; import tl_orchestration.sandbox"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert run.returncode == 1
        last = run.stderr.strip().splitlines()[-1]
        assert last.startswith(f"ImportError: The sandbox needs {missing}")
        assert "pip install 'tl-orchestration[sandbox]'" in last

    def test_independence(self) -> None:
        """The sandbox imports nothing else of this project, so that it can be an oracle for it."""
        package = Path(tl_orchestration.sandbox.__file__).parent
        imported = {
            match
            for path in package.rglob("*.py")
            for match in re.findall(r"^\s*(?:from|import) (tl_orchestration[\w.]*)", path.read_text(), re.M)
        }
        assert imported
        assert all(name.startswith("tl_orchestration.sandbox") for name in imported)


def wait_until(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until something holds; fail if it does not in so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_sandbox/health", trust_env=False, verify=UNUSED_TLS).is_success
    except httpx.ConnectError:
        return False
