"""
Starts of the current API: what they answer, and what they refuse.
"""

from datetime import datetime
from typing import Any

import pytest

from tests.wire.sandbox.users import JSON_TYPE, NOW, UUID4, Sandbox, assert_refused, at
from tl_orchestration.sandbox import SandboxSettings


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
