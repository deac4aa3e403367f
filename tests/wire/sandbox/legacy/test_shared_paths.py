"""
Status, result and cancel of a legacy execution, at paths that both APIs share.
"""

import pytest

from tests.wire.sandbox.legacy.user import CUSTOMER, V2, Legacy
from tests.wire.sandbox.users import DATE, NOBODY, Sandbox, assert_refused


class TestSharedPaths:
    def test_status(self, legacy: Legacy) -> None:
        """A legacy execution answers id, caseId or recordId by version, and status."""
        legacy.change("kyc-approve", duration=5)
        execution = legacy.run()
        assert legacy.get(execution).json() == execution
        for accept in ("application/json", "application/json;version=1", "application/json, text/plain, */*"):
            answer = legacy.http.get(f"/workflows/{execution['id']}", headers={"accept": accept})
            assert answer.json() == execution
        answer = legacy.http.get(f"/workflows/{execution['id']}", headers=V2)
        assert answer.json() == {"id": execution["id"], "recordId": execution["caseId"], "status": "RUNNING"}
        legacy.advance(5)
        assert legacy.status(execution) == "COMPLETED"

    def test_result(self, legacy: Legacy) -> None:
        """The result has date, case, party and, in version 1 only, the party's details beside it."""
        case = legacy.make_case(**CUSTOMER)
        execution = legacy.run(caseId=case["caseId"])
        assert_refused(legacy.result(execution), 404)
        legacy.advance(1)
        result = legacy.result(execution).json()
        assert result.pop("partyDetails") == case["partyDetails"]
        assert result == {
            "createdDate": DATE,
            "caseId": case["caseId"],
            "partyId": case["partyId"],
            "decision": "approve",
            "riskScore": 12,
            "checks": result["checks"],
        }
        second = legacy.http.get(f"/workflows/{execution['id']}/result", headers=V2).json()
        renamed = {"recordId" if name == "caseId" else name: value for name, value in result.items()}
        assert second == renamed

    def test_result_of_a_record(self, legacy: Legacy) -> None:
        """Without a case there is no party."""
        execution = legacy.run(version=2)
        legacy.advance(1)
        result = legacy.http.get(f"/workflows/{execution['id']}/result", headers=V2).json()
        assert result["recordId"] is None
        assert not {"partyId", "partyDetails", "caseId"} & set(result)

    @pytest.mark.parametrize("reading", ["status", "status-nested"])
    def test_result_members(self, legacy: Legacy, reading: str) -> None:
        """The other reading of a legacy result: id, caseId and status beside it, or it under custom."""
        legacy.vary(legacy_result=reading)
        execution = legacy.run()
        legacy.advance(1)
        result = legacy.result(execution).json()
        assert {name: result.pop(name) for name in execution} == execution | {"status": "COMPLETED"}
        custom = result if reading == "status" else result.pop("custom")
        assert custom["decision"] == "approve"
        assert reading == "status" or result == {}

    @pytest.mark.parametrize(("definition", "status"), [("kyc-fail", "FAILED"), ("kyc-expire", "EXPIRED")])
    def test_failures(self, legacy: Legacy, definition: str, status: str) -> None:
        """Failed and expired executions say so, and have no result."""
        execution = legacy.run(definition)
        legacy.advance(3)
        assert legacy.status(execution) == status
        assert_refused(legacy.result(execution), 404)

    def test_failure_by_outcome(self, legacy: Legacy) -> None:
        """A definition that would approve, but fails, has no result."""
        legacy.change("kyc-approve", outcome="FAILED")
        execution = legacy.run()
        legacy.advance(1)
        assert_refused(legacy.result(execution), 404)

    def test_does_not_expire_by_itself(self, legacy: Legacy) -> None:
        """A legacy execution outlives the hour that current ones have."""
        legacy.change("kyc-slow", duration=86_400)
        execution = legacy.run("kyc-slow")
        legacy.advance(86_399)
        assert legacy.status(execution) == "RUNNING"
        legacy.advance(1)
        assert legacy.status(execution) == "COMPLETED"

    def test_partly_good_is_completed(self, legacy: Legacy, current: Sandbox) -> None:
        """kyc-partial is COMPLETED here, with a result that says which check had an error."""
        executions = [legacy.run("kyc-partial"), current.start("kyc-partial")]
        legacy.advance(1)
        for execution in executions:
            assert legacy.status(execution) == "COMPLETED"
            assert {"name": "document", "outcome": "error"} in legacy.result(execution).json()["checks"]

    @pytest.mark.parametrize("reading", ["absent", "cancels"])
    def test_cancel(self, legacy: Legacy, reading: str) -> None:
        """There is no cancel for a legacy execution; by variant the current one works for it too."""
        legacy.vary(legacy_cancel=reading)
        execution = legacy.run("kyc-slow")
        if reading == "absent":
            assert_refused(legacy.cancel(execution), 404)
            assert legacy.server.store.cancels == []
            assert legacy.status(execution) == "RUNNING"
        else:
            assert legacy.cancel(execution).status_code == 200
            assert legacy.status(execution) == "CANCELLED"

    @pytest.mark.parametrize(
        ("reading", "accept", "legacy_form", "current_form"),
        [
            ("by-start", "*/*", 1, None),
            ("by-start", "application/json;version=2", 2, None),
            ("by-accept", "*/*", None, None),
            ("by-accept", "application/json", 1, 1),
            ("by-accept", "application/json;version=1", 1, 1),
            ("by-accept", "text/html, application/json ; Version=2", 2, 2),
            ("by-accept", "application/json;version=two", 1, 1),
            ("by-accept", "application/json;version=3", None, None),
            ("by-accept", "application/json, text/plain, */*", 1, 1),
            ("legacy", "*/*", 1, 1),
            ("legacy", "application/json;version=2", 2, 2),
            ("legacy", "application/json;version=3", 2, 2),
            ("full", "application/json;version=1", None, None),
        ],
    )
    def test_shapes(
        self,
        legacy: Legacy,
        current: Sandbox,
        reading: str,
        accept: str,
        legacy_form: int | None,
        current_form: int | None,
    ) -> None:
        """Which form an answer has depends, by variant, on who started it, on Accept, or on nothing."""
        pairs = ((legacy.run(version=2, recordId=NOBODY), legacy_form), (current.start(recordId=NOBODY), current_form))
        legacy.advance(1)
        legacy.vary(status_shape=reading)
        legacy.http.headers["accept"] = accept
        for execution, form in pairs:
            status, result = legacy.get(execution).json(), legacy.result(execution).json()
            assert status["id"] == execution["id"]
            assert status["status"] == "COMPLETED"
            if form is None:
                assert "revision" in status
                assert set(result) == {"decision", "riskScore", "checks"}
            else:
                name = "caseId" if form == 1 else "recordId"
                assert set(status) == {"id", name, "status"}
                assert result[name] == status[name] == NOBODY

    def test_full_shape_of_a_legacy_execution(self, legacy: Legacy) -> None:
        """What a legacy execution does not have is left out of the full form."""
        legacy.vary(status_shape="full")
        assert not {"locale", "expiresAt", "recordId"} & set(legacy.get(legacy.run()).json())

    def test_version_3(self, legacy: Legacy, current: Sandbox) -> None:
        """Version 3 is taken as the newest or, by variant, refused on every endpoint."""
        for sandbox in (legacy, current):
            sandbox.http.headers["accept"] = "application/json;version=3"
        answer = legacy.http.post("/workflows/run", json={"workflowDefinitionId": "kyc-approve"})
        execution = answer.json()
        assert set(execution) == {"id", "recordId", "status"}
        assert "origin" in current.start()
        legacy.vary(version_3=406)
        for answer in (legacy.get(execution), legacy.http.post("/cases", json={}), current.post_start()):
            assert_refused(answer, 406)
        assert legacy.http.get(f"/workflows/{execution['id']}", headers=V2).status_code == 200
