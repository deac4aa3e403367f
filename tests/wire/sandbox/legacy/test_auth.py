"""
Tokens of the legacy API: for a key and its secret, and for a refresh token.
"""

import base64
import json
import re
from typing import Any

import pytest

from tests.wire.sandbox.legacy.user import CUSTOMER, Legacy
from tests.wire.sandbox.users import NOBODY, assert_refused, running
from tl_orchestration.sandbox import SandboxSettings
from tl_orchestration.sandbox.ids import Streams


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
