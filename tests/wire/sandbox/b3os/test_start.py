"""
Starts of B3OS, and their idempotency keys.
"""

from typing import Any

import httpx
import pytest

from tests.wire.sandbox.b3os.user import CUSTOMER, RUN_ID, SOURCE, B3os, assert_refused, data
from tests.wire.sandbox.users import DATE, NOW
from tl_orchestration.sandbox import SandboxServer, SandboxSettings


class TestStart:
    def test_answer(self, b3os: B3os) -> None:
        """A start answers a client token and the execution, with what was asked and no result."""
        asked: dict[str, Any] = {
            "externalRef": "ref-1",
            "idempotencyKey": "key-1",
            "sourceEntityId": "c-1",
            "clientSafeMetadata": {"step": 1},
            "requestPayload": CUSTOMER,
        }
        started = b3os.start(**asked, other=1)
        assert set(started) == {"clientToken", "execution"}
        execution = started["execution"]
        assert execution.pop("id")
        assert RUN_ID.fullmatch(execution.pop("runId"))
        assert execution == {
            "workflowId": "kyc-approve",
            "organizationId": "org_sandbox",
            "status": "workflow_running",
            "createdAt": DATE,
            "startedAt": DATE,
            "updatedAt": DATE,
            **SOURCE,
            **asked,
        }

    def test_without_a_key(self, b3os: B3os) -> None:
        """A public workflow starts without a key, and answers as with one."""
        started = data(b3os.post_public_start(requestPayload=CUSTOMER))
        assert started["execution"]["requestPayload"] == CUSTOMER
        assert b3os.execution(started)["status"] == "workflow_running"

    @pytest.mark.parametrize("visibility", ["private", "org", "public_view", "public_execute"])
    def test_visibility(self, b3os: B3os, visibility: str) -> None:
        """Without a key only public_execute starts, and only public runs are seen; with one everything."""
        b3os.control.change("kyc-approve", visibility=visibility)
        answer = b3os.post_public_start()
        assert answer.status_code == (200 if visibility == "public_execute" else 403)
        started = b3os.start()
        assert b3os.get_publicly(started).status_code == 200
        seen = b3os.get_run_publicly(started["execution"]["runId"]).status_code
        assert seen == (200 if visibility.startswith("public") else 404)

    def test_private_definition(self, b3os: B3os) -> None:
        """kyc-private is there to be refused without a key."""
        assert_refused(b3os.post_public_start("kyc-private"), 403)
        assert b3os.start("kyc-private")

    def test_unknown_workflow(self, b3os: B3os) -> None:
        """An unknown workflow is 404 and starts nothing."""
        for answer in (b3os.post_start("kyc-none"), b3os.post_public_start("kyc-none"), b3os.post_run("kyc-none")):
            assert "kyc-none" in assert_refused(answer, 404)
        assert b3os.starts == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("sourceEntityType", None),
            ("sourceEntityType", ""),
            ("sourceSystem", None),
            ("sourceSystem", 1),
            ("externalRef", 1),
            ("idempotencyKey", ["k"]),
            ("sourceEntityId", {}),
            ("clientSafeMetadata", "x"),
            ("requestPayload", []),
        ],
    )
    def test_fields_are_checked(self, b3os: B3os, name: str, value: Any) -> None:
        """A missing required member or a wrong type is 400 and named, with and without a key."""
        for answer in (b3os.post_start(**{name: value}), b3os.post_public_start(**{name: value})):
            assert name in assert_refused(answer, 400)
        assert b3os.starts == []

    def test_body_is_checked(self, b3os: B3os) -> None:
        """A body that is no object or names no workflow is 400."""
        assert_refused(b3os.http.post("/v1/executions", content=b"{"), 400)
        for workflow in (None, "", 7):
            assert "workflowId" in assert_refused(b3os.post_start(workflowId=workflow), 400)

    def test_evidence(self, b3os: B3os) -> None:
        """Every start of B3OS is on record with its service, run, key and source; no token is."""
        started = b3os.start(requestPayload=CUSTOMER, idempotencyKey="k", externalRef="r", sourceEntityId="c")
        b3os.post_public_start()
        b3os.post_run(runId="run_mine", payload={"n": 1})
        first, second, third = b3os.starts
        assert [one["service"] for one in (first, second, third)] == ["b3os"] * 3
        assert first["execution_id"] == started["execution"]["id"]
        assert first["parameters"] == CUSTOMER
        assert first["details"] == {
            "run_id": started["execution"]["runId"],
            "public": False,
            **SOURCE,
            "externalRef": "r",
            "idempotencyKey": "k",
            "sourceEntityId": "c",
        }
        assert second["details"]["public"] is True
        assert third["execution_id"] == "run_mine"
        assert third["details"] == {"run_id": "run_mine", "source_run_id": None}
        assert started["clientToken"] not in str(b3os.starts)
        session = repr(b3os.server.store.b3os.session(started["execution"]["id"]))
        assert started["execution"]["id"] in session
        assert started["clientToken"] not in session
        assert "externalRef" not in session

    def test_deterministic(self) -> None:
        """Under one seed and clock the same calls give the same bytes."""

        def talk() -> list[bytes]:
            with SandboxServer(SandboxSettings(clock=lambda: NOW, seed=3)) as server:
                b3os = B3os(server)
                answers = [b3os.post_start(), b3os.post_run(), b3os.post_start("none")]
                b3os.close()
                return [answer.content for answer in answers]

        assert talk() == talk()


class TestIdempotency:
    @pytest.mark.parametrize(("reading", "commits"), [("same", 1), ("second", 2), ("conflict", 1)])
    @pytest.mark.parametrize("public", [False, True])
    def test_second_start(self, b3os: B3os, reading: str, commits: int, public: bool) -> None:
        """A key for the second time gives the same execution, a second one or 409: unknown."""
        b3os.vary(idempotency=reading)
        post = b3os.post_public_start if public else b3os.post_start
        first = data(post(idempotencyKey="k", requestPayload={"n": 1}))
        answer = post(idempotencyKey="k", requestPayload={"n": 1})
        if reading == "conflict":
            assert "idempotencyKey" in assert_refused(answer, 409)
        else:
            assert (data(answer) == first) == (reading == "same")
        assert len(b3os.starts) == commits

    def test_other_keys_and_workflows(self, b3os: B3os) -> None:
        """Another key, no key, and the same key for another workflow are other executions."""
        keys: list[dict[str, Any]] = [{"idempotencyKey": "a"}, {"idempotencyKey": "b"}, {}, {"idempotencyKey": None}]
        for fields in keys:
            b3os.start(**fields)
        b3os.start("kyc-slow", idempotencyKey="a")
        assert len(b3os.starts) == 5

    def test_after_a_lost_answer(self, b3os: B3os) -> None:
        """What a lost start committed is found again by its key, as it is by then."""
        b3os.control.order({"on": "start", "kind": "lose"})
        with pytest.raises(httpx.RemoteProtocolError):
            b3os.post_start(idempotencyKey="k")
        b3os.control.advance(1)
        found = b3os.start(idempotencyKey="k")
        assert found["execution"]["id"] == b3os.starts[0]["execution_id"]
        assert found["execution"]["status"] == "workflow_succeeded"
        assert "responsePayload" not in found["execution"]
        assert len(b3os.starts) == 1

    def test_first_with_a_key_stands(self, b3os: B3os) -> None:
        """After a second execution with one key, the first is the one that the key finds."""
        first = b3os.start(idempotencyKey="k")
        b3os.vary(idempotency="second")
        b3os.start(idempotencyKey="k")
        b3os.vary(idempotency="same")
        assert b3os.start(idempotencyKey="k") == first
