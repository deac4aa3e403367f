"""
Executions of the current API go the way that their definition says, until they end or are cancelled.
"""

from tests.wire.sandbox.users import JSON_TYPE, Sandbox, assert_refused, at, running
from tl_orchestration.sandbox import SandboxSettings
from tl_orchestration.sandbox.store import Store


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
