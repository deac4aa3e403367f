"""
Starts of the legacy API, in both versions.
"""

from typing import Any

import pytest

from tests.wire.sandbox.legacy.user import CUSTOMER, V2, Legacy
from tests.wire.sandbox.users import NOBODY, UUID4, Sandbox, assert_refused


class TestRun:
    def test_version_1(self, legacy: Legacy) -> None:
        """Version 1 runs a case: 200 with id, caseId and status, and nothing else."""
        case = legacy.make_case(**CUSTOMER)
        answer = legacy.post_run(caseId=case["caseId"])
        assert answer.status_code == 200
        body = answer.json()
        assert UUID4.fullmatch(body.pop("id"))
        assert body == {"caseId": case["caseId"], "status": "RUNNING"}

    @pytest.mark.parametrize("record", [None, NOBODY])
    def test_version_2(self, legacy: Legacy, record: str | None) -> None:
        """Version 2 runs a record, or none; a caseId means nothing to it."""
        body = legacy.run(version=2, recordId=record, caseId="x")
        assert body == {"id": body["id"], "recordId": record, "status": "RUNNING"}

    def test_finished_in_its_own_start(self, legacy: Legacy) -> None:
        """A definition of duration 0 is COMPLETED in the start answer, and its result is there."""
        legacy.change("kyc-approve", duration=0)
        execution = legacy.run()
        assert execution["status"] == "COMPLETED"
        assert legacy.result(execution).json()["decision"] == "approve"

    @pytest.mark.parametrize(
        ("version", "fields", "names"),
        [
            (1, {}, "caseId"),
            (1, {"caseId": None}, "caseId"),
            (1, {"caseId": "7"}, "caseId"),
            (1, {"recordId": NOBODY}, "caseId"),
            (2, {"recordId": 7}, "recordId"),
            (2, {"parametersId": 7}, "parametersId"),
            (2, {"workflowDefinitionId": None}, "workflowDefinitionId"),
            (2, {"workflowDefinitionId": "kyc-review"}, "person"),
        ],
    )
    def test_mistakes(self, legacy: Legacy, version: int, fields: dict[str, Any], names: str) -> None:
        """A missing or wrong member, or a definition that needs a person, is 400 and starts nothing."""
        assert names in assert_refused(legacy.post_run(**{"version": version, **fields}), 400)
        assert_refused(legacy.http.post("/workflows/run", content=b"{"), 400)
        assert legacy.server.store.starts == []

    def test_unknown_definition(self, legacy: Legacy) -> None:
        """An unknown definition is 404 in the documented words."""
        answer = legacy.post_run("kyc-nothing", version=2)
        assert assert_refused(answer, 404) == "Workflow Definition Not Found"

    @pytest.mark.parametrize("reading", [404, 400, "taken"])
    @pytest.mark.parametrize(("version", "name"), [(1, "caseId"), (2, "parametersId")])
    def test_unknown_reference(self, legacy: Legacy, reading: int | str, version: int, name: str) -> None:
        """A case or set that was never made is 404 or, by variant, 400 or taken."""
        legacy.vary(unknown_reference=reading)
        answer = legacy.post_run(version=version, **{name: NOBODY})
        assert answer.status_code == (200 if reading == "taken" else reading)
        assert len(legacy.server.store.starts) == (reading == "taken")

    def test_unknown_record(self, legacy: Legacy, current: Sandbox) -> None:
        """A record that nobody knows is taken or, by variant, 404, in both APIs; a case is known as a record."""
        assert legacy.post_run(version=2, recordId=NOBODY).status_code == 200
        legacy.vary(unknown_record=404)
        assert_refused(legacy.post_run(version=2, recordId=NOBODY), 404)
        assert_refused(current.post_start(recordId=NOBODY), 404)
        case_id = legacy.make_case()["caseId"]
        assert legacy.post_run(version=2, recordId=case_id).status_code == 200
        assert current.post_start(recordId=case_id).status_code == 200

    def test_evidence(self, legacy: Legacy, current: Sandbox) -> None:
        """Every start is on record with its service, case, set and version."""
        made = legacy.keep({"firstName": "Bo"}).json()["parametersId"]
        execution = legacy.run(parametersId=made)
        legacy.run(version=2, recordId=NOBODY)
        current.start()
        first, second, third = legacy.control("GET", "/starts").json()
        assert first["execution_id"] == execution["id"]
        assert first["parameters"] == {"firstName": "Bo"}
        assert first["details"] == {"version": 1, "case_id": execution["caseId"], "parameters_id": made}
        assert [first["locale"], first["expires_at"], first["record_id"], first["request"]] == [None, None, None, 3]
        assert second["details"] == {"version": 2, "case_id": None, "parameters_id": None}
        assert second["record_id"] == NOBODY
        assert second["headers"]["accept"] == V2["accept"]
        assert [one["service"] for one in (first, second, third)] == [
            "transactionlink-legacy",
            "transactionlink-legacy",
            "transactionlink",
        ]

    def test_widget_token(self, legacy: Legacy) -> None:
        """POST /token takes what a start takes, and starts nothing."""
        body = {"workflowDefinitionId": "kyc-review", "lang": "en"}
        answer = legacy.http.post("/token", json=body, headers=V2)
        assert answer.status_code == 201
        assert answer.json().items() >= {"expiryDuration": 3600, "tokenType": "Bearer"}.items()
        assert answer.json()["token"]
        assert_refused(legacy.http.post("/token", json=body), 400)
        assert legacy.server.store.starts == []
