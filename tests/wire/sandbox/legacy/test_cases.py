"""
What comes before a start of the legacy API: a case, and a set of parameters.
"""

import re
from typing import Any

import pytest

from tests.wire.sandbox.legacy.user import CUSTOMER, V2, Legacy
from tests.wire.sandbox.users import DATE, NOBODY, UUID4, assert_refused


class TestCases:
    def test_answer(self, legacy: Legacy) -> None:
        """A case is 201 and tells what it was given, by person, business and documents."""
        phone = {"countryCode": "+371", "number": "2000000"}
        document = {"resourceId": "1", "resourceName": "passport", "resourcePath": "/1"}
        case = legacy.make_case(**CUSTOMER, companyName="Quux", phone=phone, documents=[document], other=1)
        assert UUID4.fullmatch(case.pop("caseId"))
        assert UUID4.fullmatch(case.pop("partyId"))
        assert case == {
            "createdDate": DATE,
            "partyDetails": {
                "personal": {**CUSTOMER, "personalNumber": None, "phone": phone},
                "business": {"companyNumber": None, "companyName": "Quux", "companyAddress": None},
                "documents": [document],
            },
        }

    def test_is_read_again(self, legacy: Legacy) -> None:
        """A case is read by its id in either version; an unknown one is 404."""
        case = legacy.make_case(**CUSTOMER)
        for headers in ({}, V2):
            assert legacy.http.get(f"/cases/{case['caseId']}", headers=headers).json() == case
        assert_refused(legacy.http.get(f"/cases/{NOBODY}"), 404)

    @pytest.mark.parametrize(("reading", "found"), [("cases", [200, 404]), ("case", [404, 200]), ("both", [200, 200])])
    def test_path(self, legacy: Legacy, reading: str, found: list[int]) -> None:
        """By variant a case is at /cases/{id}, /case/{id} or both."""
        legacy.vary(case_path=reading)
        case_id = legacy.make_case()["caseId"]
        assert [legacy.http.get(f"/{place}/{case_id}").status_code for place in ("cases", "case")] == found

    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({"firstName": 1}, "firstName"),
            ({"companyNumber": 40003}, "companyNumber"),
            ({"personalNumber": True}, "personalNumber"),
            ({"phone": "+371"}, "phone"),
            ({"phone": {"number": []}}, r"phone\.number"),
            ({"documents": {}}, "documents"),
            ({"documents": ["x"]}, "documents"),
        ],
    )
    def test_fields_are_checked(self, legacy: Legacy, fields: dict[str, Any], names: str) -> None:
        """A field of the wrong type is 400, is named and makes no case."""
        assert re.search(names, assert_refused(legacy.http.post("/cases", json=fields), 400))
        assert_refused(legacy.http.post("/cases", content=b"[]"), 400)
        assert legacy.control("GET", "/cases").json() == []

    @pytest.mark.parametrize("fields", [{"personalNumber": 1234}, {"phone": {"countryCode": 371, "number": 20}}])
    def test_numbers(self, legacy: Legacy, fields: dict[str, Any]) -> None:
        """Samples give numbers where the schema says text: taken or, by variant, 400."""
        case = legacy.make_case(**fields)
        assert case["partyDetails"]["personal"].items() >= fields.items()
        legacy.vary(case_numbers=400)
        assert_refused(legacy.http.post("/cases", json=fields), 400)

    def test_evidence(self, legacy: Legacy) -> None:
        """Every case is on record with the executions started for it, so that orphans show."""
        orphan, used = legacy.make_case(firstName="Bo"), legacy.make_case()
        runs = [legacy.run(caseId=used["caseId"]) for _ in range(2)]
        first, second = legacy.control("GET", "/cases").json()
        assert first == {
            "id": orphan["caseId"],
            "party_id": orphan["partyId"],
            "fields": {"firstName": "Bo"},
            "time": DATE,
            "request": 1,
            "execution_ids": [],
        }
        assert second["execution_ids"] == [run["id"] for run in runs]


class TestParameters:
    @pytest.mark.parametrize(("name", "status"), [("parametersId", 201), ("id", 200)])
    def test_answer(self, legacy: Legacy, name: str, status: int) -> None:
        """The answer names the set parametersId or id, and is 201 or 200: undocumented."""
        legacy.vary(parameters_id=name, parameters_status=status)
        answer = legacy.keep({"a": 1})
        assert answer.status_code == status
        assert list(answer.json()) == [name]
        assert UUID4.fullmatch(answer.json()[name])

    @pytest.mark.parametrize("value", [[1, 2.5, True, "x"], "text", None, {"a": {"b": 1}}])
    def test_any_value(self, legacy: Legacy, value: Any) -> None:
        """The parameters may be any JSON value."""
        assert legacy.keep(value).status_code == 201
        (made,) = legacy.control("GET", "/parameters").json()
        assert made["parameters"] == value

    def test_mistakes(self, legacy: Legacy) -> None:
        """No definition or no parameters is 400; an unknown definition 404 in the documented words."""
        for content in (b'{"parameters": {}}', b'{"workflowDefinitionId": "kyc-approve"}', b"[]"):
            assert_refused(legacy.http.post("/parameters", content=content), 400)
        assert assert_refused(legacy.keep({}, "kyc-nothing"), 404) == "Workflow Definition Not Found"
        assert legacy.control("GET", "/parameters").json() == []

    def test_evidence(self, legacy: Legacy) -> None:
        """Every set is on record with the executions that used it."""
        made = legacy.keep({"a": 1}).json()["parametersId"]
        execution = legacy.run(parametersId=made)
        assert legacy.control("GET", "/parameters").json() == [
            {
                "id": made,
                "definition": "kyc-approve",
                "parameters": {"a": 1},
                "time": DATE,
                "request": 1,
                "execution_ids": [execution["id"]],
            }
        ]
