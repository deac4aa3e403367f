"""The legacy API of the sandbox, and the variants of what is undocumented in both Transactionlink APIs."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.wire.test_sandbox import NOBODY, NOW, UUID4, Sandbox, assert_refused, at, running
from tl_orchestration.sandbox import SandboxServer, SandboxSettings
from tl_orchestration.sandbox.ids import Streams
from tl_orchestration.sandbox.settings import SANDBOX_JWT
from tl_orchestration.sandbox.variants import TABLE

KEY = {"key": "sandbox-key", "secret": "sandbox-secret"}
CUSTOMER = {"firstName": "Ada", "lastName": "Quux", "email": "ada@example.com"}
V2 = {"accept": "application/json;version=2"}
DATE = "2026-09-21T14:13:20.250000Z"


class Legacy(Sandbox):
    """A user of the legacy API, authorized unless told otherwise."""

    def __init__(self, server: SandboxServer, credential: str | None = f"Bearer {SANDBOX_JWT}") -> None:
        super().__init__(server, credential)

    def authorize(self, **fields: Any) -> httpx.Response:
        return self.http.post("/auth/authorize", json=KEY | fields, headers={"authorization": ""})

    def refresh(self, token: object) -> httpx.Response:
        return self.http.post("/auth/refresh", json={"refreshToken": token}, headers={"authorization": ""})

    def make_case(self, **fields: Any) -> dict[str, Any]:
        answer = self.http.post("/cases", json=fields)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def keep(self, parameters: Any, definition: str = "kyc-approve") -> httpx.Response:
        return self.http.post("/parameters", json={"workflowDefinitionId": definition, "parameters": parameters})

    def post_run(self, definition: str = "kyc-approve", version: int = 1, **fields: Any) -> httpx.Response:
        body = {"workflowDefinitionId": definition, **fields}
        return self.http.post("/workflows/run", json=body, headers=V2 if version == 2 else {})

    def run(self, definition: str = "kyc-approve", version: int = 1, **fields: Any) -> dict[str, Any]:
        if version == 1 and "caseId" not in fields:
            fields["caseId"] = self.make_case(**CUSTOMER)["caseId"]
        answer = self.post_run(definition, version, **fields)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def vary(self, **readings: Any) -> None:
        answer = self.control("PATCH", "/variants", readings)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxSettings(clock=lambda: NOW, seed=7)) as server:
        yield server


@pytest.fixture
def legacy(server: SandboxServer) -> Iterator[Legacy]:
    server.store.reset()
    legacy = Legacy(server)
    with legacy.http:
        yield legacy


@pytest.fixture
def current(server: SandboxServer, legacy: Legacy) -> Iterator[Sandbox]:
    """A user of the current API on the same sandbox."""
    current = Sandbox(server)
    with current.http:
        yield current


def claims(token: str) -> dict[str, Any]:
    segment = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))))


class TestAuthorize:
    def test_answer(self, legacy: Legacy) -> None:
        """Key and secret give two JWTs, a lifetime in seconds and the type Bearer."""
        answer = legacy.authorize()
        assert answer.status_code == 200
        body = answer.json()
        access, refresh = body.pop("accessToken"), body.pop("refreshToken")
        assert body == {"expiryDuration": 3600, "tokenType": "Bearer"}
        told = claims(access)
        assert told["exp"] - told["iat"] == 3600
        assert told["workspaceId"] == SandboxSettings().workspace_id
        assert claims(refresh)["exp"] - told["iat"] == 90 * 24 * 3600
        assert access != refresh

    def test_opens_both_apis_until_it_expires(self, legacy: Legacy) -> None:
        """An access token is good for its lifetime and 401 afterwards, on every endpoint."""
        legacy.http.headers["authorization"] = f"Bearer {legacy.authorize().json()['accessToken']}"
        legacy.advance(3599.9)
        execution = legacy.run()
        assert legacy.start()["id"] != execution["id"]
        assert legacy.get(execution).status_code == 200
        legacy.advance(0.1)
        calls = [legacy.get(execution), legacy.result(execution), legacy.cancel(execution), legacy.post_start()]
        calls += [legacy.post_run(caseId=NOBODY), legacy.keep({}), legacy.http.post("/cases", json={})]
        calls += [legacy.http.get(f"/cases/{NOBODY}"), legacy.http.post("/token", json={})]
        for answer in calls:
            assert "JWT" in assert_refused(answer, 401)

    def test_lifetime_is_a_setting(self) -> None:
        """A lifetime of two seconds is told, and kept."""
        with running(token_lifetime=2) as sandbox:
            legacy = Legacy(sandbox.server)
            with legacy.http:
                body = legacy.authorize().json()
                assert body["expiryDuration"] == 2
                legacy.http.headers["authorization"] = f"Bearer {body['accessToken']}"
                legacy.advance(1.9)
                legacy.make_case()
                legacy.advance(0.2)
                assert_refused(legacy.http.post("/cases", json={}), 401)

    def test_every_authorization_stands_alone(self, legacy: Legacy) -> None:
        """A new authorization gives new tokens and leaves those before it good."""
        first, second = legacy.authorize().json(), legacy.authorize().json()
        assert len({first["accessToken"], second["accessToken"], first["refreshToken"], second["refreshToken"]}) == 4
        for body in (first, second):
            legacy.http.headers["authorization"] = f"Bearer {body['accessToken']}"
            legacy.make_case()

    @pytest.mark.parametrize("wrong", [{"key": "other"}, {"secret": "other"}, {"key": "sandbox-secret"}])
    @pytest.mark.parametrize("status", [401, 400])
    def test_bad_credentials(self, legacy: Legacy, wrong: dict[str, str], status: int) -> None:
        """Wrong credentials are 401 or, by variant, 400; neither is repeated."""
        legacy.vary(bad_credentials_status=status)
        answer = legacy.authorize(**wrong)
        assert "credentials" in assert_refused(answer, status)
        assert next(iter(wrong.values())) not in answer.text

    @pytest.mark.parametrize("wrong", [{"key": None}, {"secret": 7}, {"secret": ""}])
    def test_bad_request(self, legacy: Legacy, wrong: dict[str, Any]) -> None:
        """A missing or wrongly typed member is 400 and named."""
        assert next(iter(wrong)) in assert_refused(legacy.authorize(**wrong), 400)
        assert_refused(legacy.http.post("/auth/authorize", content=b"{"), 400)

    def test_permissions_of_a_key(self) -> None:
        """Keys are settings; a key without can_run cannot start, one without can_view cannot read."""
        keys = [{"key": "a", "secret": "b", "can_run": False}, {"key": "c", "secret": "d", "can_view": False}]
        with running(keys=keys) as sandbox:
            legacy = Legacy(sandbox.server)
            with legacy.http:
                case = legacy.make_case()
                execution = legacy.run(caseId=case["caseId"])
                token = legacy.authorize(key="a", secret="b").json()["accessToken"]
                legacy.http.headers["authorization"] = f"Bearer {token}"
                for answer in (
                    legacy.post_run(caseId=NOBODY),
                    legacy.http.post("/cases", json={}),
                    legacy.keep({}),
                    legacy.http.post("/token", json={}),
                ):
                    assert_refused(answer, 403)
                assert legacy.get(execution).status_code == 200
                token = legacy.authorize(key="c", secret="d").json()["accessToken"]
                legacy.http.headers["authorization"] = f"Bearer {token}"
                assert_refused(legacy.get(execution), 403)
                assert_refused(legacy.http.get(f"/cases/{case['caseId']}"), 403)
                assert legacy.make_case()
                assert_refused(legacy.authorize(), 401)

    def test_organization_token(self, legacy: Legacy) -> None:
        """An organization token opens the legacy endpoints only by variant; the shared paths always."""
        execution = legacy.run()
        legacy.http.headers["authorization"] = "tot_sandbox"
        assert_refused(legacy.http.post("/cases", json={}), 401)
        assert_refused(legacy.post_run(caseId=NOBODY), 401)
        assert legacy.get(execution).status_code == 200
        legacy.vary(legacy_organization_token=True)
        assert legacy.run()

    def test_ids_have_their_length(self) -> None:
        """Ids of random digits have as many as they should, zeros in front included."""
        ids = Streams(1)
        assert all(re.fullmatch("[0-9a-f]{3}", ids.hex("any", 3)) for _ in range(200))

    def test_deterministic(self) -> None:
        """Under one seed and clock two sandboxes hand out the same tokens, cases, sets and executions."""

        def talk() -> list[str]:
            with running() as sandbox:
                legacy = Legacy(sandbox.server)
                with legacy.http:
                    case = legacy.make_case(**CUSTOMER)
                    set_id = legacy.keep({}).json()["parametersId"]
                    run = legacy.run(caseId=case["caseId"], parametersId=set_id)
                    return [legacy.authorize().text, json.dumps(case), set_id, json.dumps(run)]

        assert talk() == talk()


class TestRefresh:
    def test_answer(self, legacy: Legacy) -> None:
        """A refresh token gives a new pair, and is good for 90 days."""
        first = legacy.authorize().json()
        legacy.advance(90 * 24 * 3600 - 1)
        second = legacy.refresh(first["refreshToken"])
        assert second.status_code == 200
        assert set(second.json()) == set(first)
        legacy.http.headers["authorization"] = f"Bearer {second.json()['accessToken']}"
        legacy.make_case()
        legacy.advance(1)
        assert_refused(legacy.refresh(first["refreshToken"]), 401)

    def test_wrong_tokens(self, legacy: Legacy) -> None:
        """Anything but a refresh token is a bad credential, and no text is a bad request."""
        access = legacy.authorize().json()["accessToken"]
        for token in (access, "other"):
            assert_refused(legacy.refresh(token), 401)
        legacy.vary(bad_credentials_status=400)
        assert_refused(legacy.refresh(access), 400)
        assert "refreshToken" in assert_refused(legacy.refresh(None), 400)
        legacy.http.headers["authorization"] = f"Bearer {legacy.authorize().json()['refreshToken']}"
        assert_refused(legacy.http.post("/cases", json={}), 401)

    def test_variants(self, legacy: Legacy) -> None:
        """The answer may lack refreshToken, or the endpoint may not exist."""
        token = legacy.authorize().json()["refreshToken"]
        legacy.vary(refresh_answer="access-only")
        assert set(legacy.refresh(token).json()) == {"accessToken", "expiryDuration", "tokenType"}
        legacy.vary(refresh_answer="absent")
        assert_refused(legacy.refresh(token), 404)


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


class TestCurrentVariants:
    """The readings of the current API; the sandbox's other tests hold the defaults."""

    @pytest.mark.parametrize(
        ("definition", "name", "word"),
        [
            ("kyc-slow", "running_word", "IN_PROGRESS"),
            ("kyc-approve", "completed_word", "SUCCEEDED"),
            ("kyc-partial", "completed_word", "DONE"),
            ("kyc-fail", "failed_word", "ERROR"),
            ("kyc-expire", "expired_word", "TIMED_OUT"),
        ],
    )
    def test_words(self, legacy: Legacy, current: Sandbox, definition: str, name: str, word: str) -> None:
        """Each status may have other words, in either API, and small letters."""
        legacy.vary(**{name: word})
        executions = [legacy.run(definition), current.start(definition)]
        legacy.advance(3)
        assert [legacy.status(execution) for execution in executions] == [word, word]
        legacy.vary(status_case="lower")
        assert [legacy.status(execution) for execution in executions] == [word.lower(), word.lower()]

    def test_word_for_cancelled(self, legacy: Legacy, current: Sandbox) -> None:
        """Cancelled may have one L; a status that is nobody's word is told as it is."""
        legacy.vary(cancelled_word="CANCELED", status_case="lower")
        execution = current.start()
        current.cancel(execution)
        assert current.status(execution) == "canceled"
        other = current.start()
        legacy.control("POST", f"/executions/{other['id']}", {"status": "PONDERING"})
        assert current.status(other) == "PONDERING"

    @pytest.mark.parametrize(
        ("reading", "raw", "bearer"), [("raw", 200, 401), ("bearer", 401, 200), ("either", 200, 200)]
    )
    def test_organization_token_form(
        self, legacy: Legacy, current: Sandbox, reading: str, raw: int, bearer: int
    ) -> None:
        """An organization token may be wanted raw, as Bearer, or both; a JWT is Bearer always."""
        legacy.vary(organization_token_form=reading)
        for header, status in (("tot_sandbox", raw), ("Bearer tot_sandbox", bearer), (SANDBOX_JWT, 401)):
            current.http.headers["authorization"] = header
            assert current.post_start().status_code == status
        assert legacy.post_start().status_code == 200

    def test_parameters_required(self, legacy: Legacy, current: Sandbox) -> None:
        """Absent parameters may be 400."""
        legacy.vary(parameters_required=True)
        body = {"workflowDefinitionId": "kyc-approve", "locale": "en"}
        assert "parameters" in assert_refused(current.http.post("/workflows", json=body), 400)
        assert current.http.post("/workflows", json=body | {"parameters": {}}).status_code == 200

    def test_origin_may_be_missing(self, legacy: Legacy, current: Sandbox) -> None:
        """Answers may lack origin."""
        full = current.start()
        legacy.vary(origin_in_answer=False)
        assert set(current.start()) == set(full) - {"origin"}

    @pytest.mark.parametrize("reading", ["INTERACTIVE", "HOSTED", "EMBEDDED", "absent"])
    def test_interactive_execution_type(self, legacy: Legacy, current: Sandbox, reading: str) -> None:
        """The type of an interactive execution is unknown; that of a background one is not."""
        legacy.vary(interactive_execution_type=reading)
        assert current.start("kyc-review").get("executionType") == (None if reading == "absent" else reading)
        assert current.start()["executionType"] == "BACKGROUND"

    def test_link_format(self, legacy: Legacy, current: Sandbox) -> None:
        """A link may end in a uuid that is not the token; it opens the same page, and decides there."""
        legacy.vary(link_format="path")
        execution = current.start("kyc-review")
        base, link_id = execution["link"].rsplit("/", 1)
        assert base == f"{current.server.url}/hosted"
        assert UUID4.fullmatch(link_id)
        assert link_id != execution["token"]
        page = current.http.get(execution["link"])
        assert "<form" in page.text
        (token,) = re.findall(r'name="token" value="([^"]*)"', page.text)
        data = {"token": token, "decision": "reject"}
        assert current.http.post(execution["link"], data=data).status_code == 200
        assert current.result(execution).json()["decision"] == "reject"
        assert current.http.get(f"{base}/{NOBODY}").status_code == 404

    def test_result_without_one(self, legacy: Legacy, current: Sandbox) -> None:
        """No result yet may be 400 instead of 404; none at all may be 200 with an empty object."""
        legacy.vary(result_not_ready=400, result_of_failed=200)
        new, old = current.start("kyc-fail"), legacy.run("kyc-fail")
        for execution in (new, old):
            assert_refused(current.result(execution), 400)
        current.advance(1)
        assert current.result(new).json() == {}
        assert set(legacy.result(old).json()) == {"createdDate", "caseId", "partyId", "partyDetails"}
        assert_refused(current.result({"id": NOBODY}), 404)

    @pytest.mark.parametrize("status", [200, 400, 409])
    def test_cancel_finished(self, legacy: Legacy, current: Sandbox, status: int) -> None:
        """A cancel that comes too late is 200, 400 or 409, and changes nothing."""
        legacy.vary(cancel_finished=status)
        execution = current.start()
        current.advance(1)
        answer = current.cancel(execution)
        assert answer.status_code == status
        assert (answer.content == b"") == (status == 200)
        assert current.status(execution) == "COMPLETED"

    @pytest.mark.parametrize("reading", ["204-empty", "200-json"])
    def test_cancel_answer(self, legacy: Legacy, current: Sandbox, reading: str) -> None:
        """A cancel may answer 204, or 200 with the execution."""
        legacy.vary(cancel_answer=reading)
        answer = current.cancel(current.start())
        assert f"{answer.status_code}" == reading[:3]
        if reading == "204-empty":
            assert answer.content == b""
        else:
            assert answer.json()["status"] == "CANCELLED"

    def test_expiry_rule(self, legacy: Legacy, current: Sandbox) -> None:
        """Any expiresAt may be taken; one in the past makes an execution that is expired."""
        legacy.vary(expiry_rule="absent")
        assert current.start(expiresAt=at(minutes=1))["status"] == "RUNNING"
        assert current.start(expiresAt=at(days=60))["status"] == "RUNNING"
        assert current.start(expiresAt=at(minutes=-1))["status"] == "EXPIRED"
        assert_refused(current.post_start(expiresAt="soon"), 400)

    def test_link_in_status(self, legacy: Legacy, current: Sandbox) -> None:
        """The status may not repeat link and token."""
        execution = current.start("kyc-review")
        assert {"link", "token"} <= set(current.get(execution).json())
        legacy.vary(link_in_status=False)
        assert not {"link", "token"} & set(current.get(execution).json())

    def test_timestamps(self, legacy: Legacy, current: Sandbox) -> None:
        """Times may have an offset, in either API, and are the same moments."""
        legacy.vary(timestamps="+02:00")
        assert current.start()["expiresAt"] == "2026-09-21T17:13:20.250000+02:00"
        assert legacy.make_case()["createdDate"] == "2026-09-21T16:13:20.250000+02:00"


class TestVariants:
    def test_list(self, legacy: Legacy) -> None:
        """The list tells name, value, allowed values, row of the contract and meaning of each."""
        listed = legacy.control("GET", "/variants").json()
        assert [one["name"] for one in listed] == [variant.name for variant in TABLE]
        for one in listed:
            assert set(one) == {"name", "value", "allowed", "row", "says"}
            assert one["value"] == one["allowed"][0]
            assert re.fullmatch(r"C\d+|[AB]\d(\.\d)?", one["row"])
            assert one["says"]

    def test_names_are_unique(self) -> None:
        """No two variants share a name, and none has a reading twice."""
        assert len({variant.name for variant in TABLE}) == len(TABLE)
        assert all(len(set(variant.allowed)) == len(variant.allowed) > 1 for variant in TABLE)

    def test_each_is_tried(self) -> None:
        """Every variant is named in a test of what it does."""
        here = Path(__file__).parent
        tried = "".join(
            (here / name).read_text(encoding="utf-8")
            for name in ("test_sandbox_legacy.py", "test_sandbox_b3os.py", "webhooks/test_sandbox.py")
        )
        assert [variant.name for variant in TABLE if not re.search(rf"\b{variant.name}\b", tried)] == []

    def test_change(self, legacy: Legacy) -> None:
        """A change is all or nothing, answers with the list, and a reset takes it back."""
        before = legacy.control("GET", "/variants").json()
        for wrong, says in (
            ({"cancel_finished": 400, "cancel_finish": 400}, "cancel_finish"),
            ({"cancel_finished": 400, "link_in_status": 0}, "link_in_status"),
            ({"cancel_finished": 418}, "200, 400, 409"),
            ({"cancel_finished": "200"}, "cancel_finished"),
            ({"origin_in_answer": "yes"}, "true, false"),
            ([], "object"),
        ):
            answer = legacy.control("PATCH", "/variants", wrong)
            assert answer.status_code == 400
            assert says in answer.json()["error"]
        assert legacy.control("GET", "/variants").json() == before
        after = legacy.control("PATCH", "/variants", {"cancel_finished": 400}).json()
        assert [one["value"] for one in after if one["name"] == "cancel_finished"] == [400]
        assert legacy.control("GET", "/variants").json() == after
        legacy.control("POST", "/reset")
        assert legacy.control("GET", "/variants").json() == before

    def test_from_toml(self, tmp_path: Path) -> None:
        """Variants are a table in a file, beside keys and lifetime; the old names outside it still work."""
        path = tmp_path / "sandbox.toml"
        path.write_text(
            """
            token_lifetime = 5
            link_in_status = false
            cancel_finished = 400

            [variants]
            cancel_finished = 409
            status_shape = "by-accept"

            [[keys]]
            key = "k"
            secret = "s"
            can_view = false
            """,
            encoding="utf-8",
        )
        settings = SandboxSettings.from_toml(path)
        assert settings.first_variants == {
            "cancel_finished": 409,
            "link_in_status": False,
            "status_shape": "by-accept",
        }
        assert settings.token_lifetime == 5
        assert SandboxSettings(token_lifetime=1).token_lifetime == 1
        assert [(key.key, key.secret, key.can_run, key.can_view) for key in settings.keys] == [("k", "s", True, False)]
        with SandboxServer(settings) as server:
            legacy = Legacy(server)
            with legacy.http:
                listed = {one["name"]: one["value"] for one in legacy.control("GET", "/variants").json()}
                assert listed["status_shape"] == "by-accept"
                legacy.vary(status_shape="full")
                legacy.control("POST", "/reset")
                listed = {one["name"]: one["value"] for one in legacy.control("GET", "/variants").json()}
                assert listed["status_shape"] == "by-accept"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("variants = 1", "variants"),
            ("[variants]\ncancel_finish = 200", "unknown key 'cancel_finish'"),
            ("[variants]\nstatus_case = 'UPPER'", "status_case"),
            ("token_lifetime = 0", "token_lifetime"),
            ("token_lifetime = 1.5", "token_lifetime"),
            ("[[tokens]]\nvalue = 'planted-token'\ncan_view = 1", "can_view"),
            ("keys = 'k'", "keys must be a list"),
            ("keys = ['k']", "key must be a table"),
            ("[[keys]]\nkey = 'planted-key'", "secret"),
            ("[[keys]]\nkey = 'planted-key'\nsecret = ''", "secret"),
            ("[[keys]]\nkey = ''\nsecret = 'planted-secret'", "key"),
            ("[[keys]]\nkey = 'planted-key'\nsecret = 's'\ncan_run = 1", "can_run"),
            ("[[keys]]\nkey = 'planted-key'\nsecret = 's'\ncan_view = 1", "can_view"),
            ("[[api_keys]]\nscope = 'read'", "value"),
            ("[[api_keys]]\nvalue = 7", "value"),
            ("[[api_keys]]\nvalue = 'planted-key'\nscope = 'write'", "scope"),
            ("organization_id = ''", "organization_id"),
            ("resume_secret = 7", "resume_secret"),
            ("[definitions.x]\nvisibility = 'public'", "visibility"),
            ("[definitions.x]\nstate = 'on'", "state"),
            ("[definitions.x]\nbefore_run = 1", "before_run"),
            ("[definitions.x]\nbefore_run = { workflow_running = 1 }", "unknown key 'workflow_running'"),
            ("[definitions.x]\nbefore_run = { workflow_queued = -1 }", "seconds"),
        ],
    )
    def test_mistakes_in_toml(self, tmp_path: Path, text: str, says: str) -> None:
        """A mistake is one sentence that names the setting and shows no credential."""
        path = tmp_path / "sandbox.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError) as caught:
            SandboxSettings.from_toml(path)
        assert says in str(caught.value)
        assert "planted" not in str(caught.value)

    def test_credentials_are_not_in_the_repr(self) -> None:
        """Somebody may have configured real ones."""
        assert not re.search("sandbox-key|sandbox-secret|b3sk_|sandbox-resume", repr(SandboxSettings()))

    def test_nothing_personal_is_in_a_repr(self, legacy: Legacy, current: Sandbox) -> None:
        """What the sandbox keeps may be printed in a failing test: tokens and people stay out of it."""
        store = legacy.server.store
        legacy.keep(CUSTOMER)
        execution = legacy.run()
        token = current.start("kyc-review", parameters=CUSTOMER)["token"]
        store.force(execution["id"], {"result": CUSTOMER})
        session = store.sessions.open(store.settings.keys[0], NOW, 1)
        cases = [*store.cases.cases.values(), *store.cases.parameter_sets.values()]
        printed = repr([store.executions, store.starts, cases, session])
        secrets = ("Ada", "Quux", token, session.access_token, session.refresh_token)
        assert not any(secret in printed for secret in secrets)


class TestFaults:
    @pytest.mark.parametrize(
        ("step", "place", "path", "headers"),
        [
            ("cases", "/cases", "/cases", {}),
            ("parameters", "/parameters", "/parameters", {}),
            ("start", "/starts", "/workflows/run", V2),
        ],
    )
    def test_between_the_three_posts(
        self, legacy: Legacy, step: str, place: str, path: str, headers: dict[str, str]
    ) -> None:
        """Each POST on the way to a start can be dropped before, or lost after, its commit."""
        body = {"workflowDefinitionId": "kyc-approve", "parameters": {}}
        legacy.order({"on": step, "kind": "drop"}, {"on": step, "kind": "lose"})
        for committed in (0, 1):
            with pytest.raises(httpx.RemoteProtocolError):
                legacy.http.post(path, json=body, headers=headers)
            assert len(legacy.control("GET", place).json()) == committed
        assert legacy.http.post(path, json=body, headers=headers).is_success

    def test_authorization(self, legacy: Legacy) -> None:
        """Authorization and refresh fail on order, each on its own."""
        token = legacy.authorize().json()["refreshToken"]
        legacy.order(
            {"on": "authorize", "kind": "status", "status": 502, "body": "<h1>", "content_type": "text/html"},
            {"on": "refresh", "kind": "status", "status": 500},
        )
        assert legacy.authorize().text == "<h1>"
        assert_refused(legacy.refresh(token), 500)
        assert legacy.authorize().status_code == legacy.refresh(token).status_code == 200

    def test_reading_and_tokens(self, legacy: Legacy) -> None:
        """So do the read of a case and the widget token."""
        case_id = legacy.make_case()["caseId"]
        legacy.order({"on": "case", "kind": "status", "status": 503}, {"on": "token", "kind": "status", "status": 504})
        assert_refused(legacy.http.get(f"/cases/{case_id}"), 503)
        assert_refused(legacy.http.post("/token", json={}), 504)
        assert legacy.http.get(f"/cases/{case_id}").status_code == 200

    def test_of_one_service(self, legacy: Legacy, current: Sandbox) -> None:
        """A fault for one service leaves the other alone on the paths that they share; one for none does not."""
        old, new = legacy.run(), current.start()
        legacy.order(
            {"on": "status", "kind": "status", "status": 500, "service": "transactionlink-legacy"},
            {"on": "start", "kind": "status", "status": 501, "service": "transactionlink"},
            {"on": "result", "kind": "status", "status": 502},
            {"on": "cancel", "kind": "status", "status": 503, "service": "b3os"},
        )
        assert [current.get(new).status_code, legacy.get(old).status_code] == [200, 500]
        assert [legacy.post_run(version=2).status_code, current.post_start().status_code] == [200, 501]
        assert legacy.result(old).status_code == 502
        assert current.cancel(new).status_code == 200

    def test_of_one_definition(self, legacy: Legacy) -> None:
        """A fault for one definition strikes its sets, starts and status only."""
        legacy.order(
            *({"on": on, "kind": "status", "status": 500, "definition": "kyc-slow"} for on in ("parameters", "start"))
        )
        assert legacy.keep({}).status_code == 201
        assert legacy.keep({}, "kyc-slow").status_code == 500
        assert legacy.post_run(version=2).status_code == 200
        assert legacy.post_run("kyc-slow", version=2).status_code == 500

    def test_unknown_service(self, legacy: Legacy) -> None:
        """A service that does not exist is refused when ordered."""
        answer = legacy.control("POST", "/faults", {"on": "start", "kind": "drop", "service": "b4os"})
        assert answer.status_code == 400
        assert "service" in answer.json()["error"]
