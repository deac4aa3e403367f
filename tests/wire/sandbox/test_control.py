"""
The control API: what it shows, and what it changes.
"""

from typing import Any

import pytest

from tests.wire.sandbox.users import NOBODY, Sandbox, assert_refused, at
from tl_orchestration.sandbox.definitions import SCRIPTED, Definition


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
