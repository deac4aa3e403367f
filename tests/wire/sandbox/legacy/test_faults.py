"""
Faults of the legacy API, on order.
"""

import httpx
import pytest

from tests.wire.sandbox.legacy.user import V2, Legacy
from tests.wire.sandbox.users import Sandbox, assert_refused


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
