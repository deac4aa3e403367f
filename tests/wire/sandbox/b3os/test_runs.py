"""
Runs of B3OS, which an execution has or which stand alone; those that wait are resumed.
"""

from typing import Any

import pytest

from tests.wire.sandbox.b3os.user import CUSTOMER, RUN_ID, B3os, assert_refused, data
from tests.wire.sandbox.users import DATE


class TestRuns:
    def test_run(self, b3os: B3os) -> None:
        """A run by itself answers its id, and is looked at by it."""
        run_id = data(b3os.post_run(payload=CUSTOMER))["runId"]
        assert RUN_ID.fullmatch(run_id)
        b3os.control.advance(1)
        run = data(b3os.get_run(run_id))
        node = run.pop("executionState")["check"]
        assert run.pop("workflowDefinition")
        finished = "2026-09-21T14:13:21.250000Z"
        summary = {
            "id": run_id,
            "workflowId": "kyc-approve",
            "workflowVersion": 1,
            "organizationId": "org_sandbox",
            "status": "success",
            "startedAt": DATE,
            "finishedAt": finished,
        }
        assert run == summary == data(b3os.get_run(run_id, summary="true"))
        assert node["result"]["customer"] == node["input"] == CUSTOMER
        assert [node[name] for name in ("status", "startedAt", "finishedAt")] == ["success", DATE, finished]

    def test_public_answer(self, b3os: B3os) -> None:
        """The public answer calls the id runId, and has no payloads."""
        run_id = data(b3os.post_run(payload=CUSTOMER))["runId"]
        b3os.control.advance(1)
        answer = b3os.get_run_publicly(run_id)
        run = data(answer)
        assert set(run) == {
            "runId",
            "workflowId",
            "status",
            "startedAt",
            "finishedAt",
            "nodes",
            "executionState",
        }
        assert run["runId"] == run_id
        assert "Ada" not in answer.text
        assert_refused(b3os.get_run_publicly("run_none"), 404)

    def test_body_may_be_absent(self, b3os: B3os) -> None:
        """A run needs no body; either of two modes may be asked for."""
        assert data(b3os.http.post("/v1/workflows/kyc-approve/run"))
        bodies: list[dict[str, Any]] = [{"simulate": True}, {"dustTest": True}, {"simulate": True, "dustTest": False}]
        for body in bodies:
            assert data(b3os.post_run(**body))

    def test_chosen_id(self, b3os: B3os) -> None:
        """A client may choose the id, once for the whole organization; an execution's run counts too."""
        assert data(b3os.post_run(runId="run_mine")) == {"runId": "run_mine"}
        for workflow, run_id in (("kyc-slow", "run_mine"), ("kyc-approve", b3os.start()["execution"]["runId"])):
            assert_refused(b3os.post_run(workflow, runId=run_id), 400, 400079)
        assert len(b3os.starts) == 2

    @pytest.mark.parametrize("run_id", ["", "mine", "run_", "run_a-b", "run_é", "run_a\n", 7])
    def test_wrong_id(self, b3os: B3os, run_id: object) -> None:
        """An id that is not run_ and word characters is 400 with its own code."""
        assert_refused(b3os.post_run(runId=run_id), 400, 400078)
        assert b3os.starts == []

    @pytest.mark.parametrize(
        "body", [{"payload": []}, {"simulate": 1}, {"dustTest": "yes"}, {"simulate": True, "dustTest": True}]
    )
    def test_wrong_body(self, b3os: B3os, body: dict[str, Any]) -> None:
        """Wrong types, and two modes at once, are 400."""
        assert_refused(b3os.post_run(**body), 400)
        assert_refused(b3os.http.post("/v1/workflows/kyc-approve/run", content=b"[]"), 400)
        assert b3os.starts == []

    @pytest.mark.parametrize(
        ("state", "needed", "status"),
        [
            ("draft", False, 200),
            ("paused", False, 200),
            ("archived", False, 400),
            ("active", True, 200),
            ("draft", True, 400),
            ("paused", True, 400),
        ],
    )
    def test_state(self, b3os: B3os, state: str, needed: bool, status: int) -> None:
        """An archived workflow never runs; draft and paused ones do unless, by variant, it must be active."""
        b3os.control.change("kyc-approve", state=state)
        b3os.vary(run_needs_active=needed)
        assert b3os.post_run().status_code == status

    @pytest.mark.parametrize("workflow", ["kyc-slow", "kyc-review"])
    def test_cancel(self, b3os: B3os, workflow: str) -> None:
        """A running or waiting run is cancelled, with its execution; the answer is the run; then it is 409."""
        started = b3os.start(workflow)
        run_id = started["execution"]["runId"]
        b3os.control.advance(1)
        run = data(b3os.cancel(run_id))
        assert (run["id"], run["status"], run["executionState"]["check"]["status"]) == (
            run_id,
            "cancelled",
            "cancelled",
        )
        execution = b3os.execution(started)
        assert execution["status"] == "workflow_cancelled"
        assert execution["finishedAt"] == "2026-09-21T14:13:21.250000Z"
        assert_refused(b3os.cancel(run_id), 409)
        assert [cancel["took_effect"] for cancel in b3os.control.control("GET", "/cancels").json()] == [True, False]

    def test_cancel_of_what_is_over(self, b3os: B3os) -> None:
        """A finished run is 409 and stays as it was; an unknown one 404."""
        run_id = data(b3os.post_run())["runId"]
        b3os.control.advance(1)
        assert_refused(b3os.cancel(run_id), 409)
        assert data(b3os.get_run(run_id))["status"] == "success"
        assert_refused(b3os.cancel("run_none"), 404)

    @pytest.mark.parametrize(
        ("reading", "members"), [("both", {"id", "runId"}), ("run", {"id"}), ("run-id", {"runId"})]
    )
    def test_retry(self, b3os: B3os, reading: str, members: set[str]) -> None:
        """A failed run is repeated as a new one; the answer is a run, {runId}, or both."""
        b3os.vary(retry_answer=reading)
        run_id = data(b3os.post_run("kyc-fail", payload=CUSTOMER))["runId"]
        assert_refused(b3os.retry(run_id), 409)
        b3os.control.advance(1)
        again = data(b3os.retry(run_id))
        assert {"id", "runId"} & set(again) == members
        assert ("status" in again) == (reading != "run-id")
        (new_id,) = {again[name] for name in members}
        new = data(b3os.get_run(new_id))
        assert (new["status"], new["sourceRunId"]) == ("running", run_id)
        assert new["executionState"]["check"]["input"] == CUSTOMER
        assert b3os.starts[1]["details"] == {"run_id": new_id, "source_run_id": run_id}

    def test_retry_of_others(self, b3os: B3os) -> None:
        """A cancelled run is repeated too; a successful one is 409, an unknown one 404."""
        cancelled, finished = data(b3os.post_run("kyc-slow"))["runId"], data(b3os.post_run())["runId"]
        b3os.cancel(cancelled)
        b3os.control.advance(1)
        assert data(b3os.retry(cancelled))
        assert_refused(b3os.retry(finished), 409)
        assert_refused(b3os.retry("run_none"), 404)


class TestResume:
    @pytest.mark.parametrize(
        ("body", "decision"),
        [({}, "approve"), ({"data": {"decision": "reject"}}, "reject"), ({"data": {"other": 1}}, "approve")],
    )
    def test_waits_to_be_resumed(self, b3os: B3os, body: dict[str, Any], decision: str) -> None:
        """An interactive workflow waits; a resume ends it, with the decision it brings; then it is skipped."""
        started = b3os.start("kyc-review")
        run_id = started["execution"]["runId"]
        assert started["execution"]["status"] == "workflow_waiting"
        b3os.control.advance(10**6)
        assert data(b3os.get_run(run_id))["status"] == "waiting"
        answer = b3os.resume(run_id, **body)
        assert answer.status_code == 200
        assert answer.json()["action"] == "resumed"
        assert b3os.execution(started)["responsePayload"]["decision"] == decision
        again = b3os.resume(run_id).json()
        assert again["action"] == "skipped"
        assert again["reason"]

    def test_answer_may_be_wrapped(self, b3os: B3os) -> None:
        """The answer may be in the envelope."""
        run_id = b3os.start("kyc-review")["execution"]["runId"]
        b3os.vary(resume_answer="data")
        assert data(b3os.resume(run_id))["action"] == "resumed"

    def test_mistakes(self, b3os: B3os) -> None:
        """A wrong secret is 401; an unknown run or node 404; a wrong body 400; nothing is resumed."""
        started = b3os.start("kyc-review")
        run_id = started["execution"]["runId"]
        assert_refused(b3os.resume(run_id, given="é"), 401)
        assert_refused(b3os.resume("run_none"), 404)
        other = f"/v1/runs/{run_id}/nodes/other/resume?secret=sandbox-resume"
        assert_refused(b3os.http.post(other), 404)
        assert_refused(b3os.resume(run_id, data=[]), 400)
        assert_refused(b3os.resume(run_id, data={"decision": "maybe"}), 400)
        assert b3os.execution(started)["status"] == "workflow_waiting"

    def test_work_after_it(self, b3os: B3os) -> None:
        """A duration of a waiting workflow counts from its resume."""
        b3os.control.change("kyc-review", duration=5)
        started = b3os.start("kyc-review")
        b3os.resume(started["execution"]["runId"])
        assert b3os.execution(started)["status"] == "workflow_running"
        b3os.control.advance(5)
        assert b3os.execution(started)["status"] == "workflow_succeeded"
