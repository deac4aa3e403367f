"""
What an execution of B3OS tells of itself, with a key and without.
"""

import pytest

from tests.wire.sandbox.b3os.user import CUSTOMER, B3os, assert_refused, data
from tests.wire.sandbox.users import DATE, NOBODY


class TestStatuses:
    @pytest.mark.parametrize(
        ("workflow", "status", "run_status", "has_result"),
        [
            ("kyc-approve", "workflow_succeeded", "success", True),
            ("kyc-reject", "workflow_succeeded", "success", True),
            ("kyc-partial", "workflow_partial", "partial", True),
            ("kyc-fail", "workflow_failed", "failure", False),
            ("kyc-expire", "workflow_failed", "failure", False),
        ],
    )
    def test_outcomes(self, b3os: B3os, workflow: str, status: str, run_status: str, has_result: bool) -> None:
        """Each scripted workflow ends in its status, as execution and as run; the result is in responsePayload."""
        started = b3os.start(workflow)
        run_id = started["execution"]["runId"]
        assert started["execution"]["status"] == "workflow_running"
        assert data(b3os.get_run(run_id))["status"] == "running"
        b3os.control.advance(3)
        execution = b3os.execution(started)
        assert execution["status"] == status
        assert ("responsePayload" in execution) == has_result
        assert ("statusReason" in execution) == (status != "workflow_succeeded")
        assert execution["finishedAt"] == execution["updatedAt"] > DATE
        run = data(b3os.get_run(run_id))
        assert (run["status"], run["finishedAt"]) == (run_status, execution["finishedAt"])
        if has_result:
            assert run["executionState"]["check"]["result"] == execution["responsePayload"]

    def test_private_answer(self, b3os: B3os) -> None:
        """The answer to a key has execution, events and message."""
        started = b3os.start(requestPayload=CUSTOMER)
        first = data(b3os.get(started))
        assert set(first) == {"execution", "events", "message"}
        assert first["execution"] == started["execution"]
        assert [event["eventType"] for event in first["events"]] == ["sandbox.created"]
        b3os.control.advance(1)
        second = data(b3os.get(started))
        assert second["execution"]["responsePayload"]["customer"] == CUSTOMER
        assert [event["eventType"] for event in second["events"]] == ["sandbox.created", "sandbox.over"]
        assert second["events"][0].items() >= first["events"][0].items()
        assert {"executionId", "workflowId"} <= set(second["events"][1])

    @pytest.mark.parametrize(("workflow", "level"), [("kyc-approve", "info"), ("kyc-fail", "error")])
    def test_events(self, b3os: B3os, workflow: str, level: str) -> None:
        """The event of an end has its time, its level, and an id of its own."""
        started = b3os.start(workflow)
        b3os.control.advance(1)
        created, over = data(b3os.get(started))["events"]
        assert (created["level"], over["level"]) == ("info", level)
        assert (created["createdAt"], over["createdAt"]) == (DATE, "2026-09-21T14:13:21.250000Z")
        assert [created["id"], over["id"]] == [f"{started['execution']['id']}-{number}" for number in (1, 2)]

    def test_public_answer(self, b3os: B3os) -> None:
        """The answer to a client token is flat, and has neither result nor reason nor request."""
        started = b3os.start("kyc-partial", clientSafeMetadata={"a": 1}, externalRef="r", requestPayload=CUSTOMER)
        b3os.control.advance(1)
        answer = data(b3os.get_publicly(started))
        events = answer.pop("events")
        assert answer == {
            "id": started["execution"]["id"],
            "workflowId": "kyc-partial",
            "runId": started["execution"]["runId"],
            "status": "workflow_partial",
            "message": "Some items failed",
            "clientSafeMetadata": {"a": 1},
            "createdAt": DATE,
            "startedAt": DATE,
            "finishedAt": "2026-09-21T14:13:21.250000Z",
        }
        assert len(events) == 2
        assert not {"executionId", "workflowId"} & set(events[0])

    def test_no_run_at_first(self, b3os: B3os) -> None:
        """Awaiting payment, paid and queued, an execution has no run; the work is counted from its end."""
        phases = {"workflow_queued": 3, "awaiting_payment": 10, "payment_confirmed": 2}
        b3os.control.change("kyc-approve", before_run=phases)
        started = b3os.start()
        run_id = b3os.starts[0]["details"]["run_id"]
        for seconds, status in (
            (0, "awaiting_payment"),
            (9.9, "awaiting_payment"),
            (0.1, "payment_confirmed"),
            (2, "workflow_queued"),
            (2.9, "workflow_queued"),
        ):
            b3os.control.advance(seconds)
            for execution in (b3os.execution(started), data(b3os.get_publicly(started))):
                assert execution["status"] == status
                assert not {"runId", "startedAt", "finishedAt"} & set(execution)
            assert_refused(b3os.get_run(run_id), 404)
            assert_refused(b3os.cancel(run_id), 404)
        b3os.control.advance(0.1)
        execution = b3os.execution(started)
        assert (execution["status"], execution["runId"]) == ("workflow_running", run_id)
        assert execution["startedAt"] == "2026-09-21T14:13:35.250000Z"
        b3os.control.advance(1)
        assert b3os.execution(started)["status"] == "workflow_succeeded"

    def test_never_paid(self, b3os: B3os) -> None:
        """A phase may last for ever, until it is forced on; a run by itself has no such phases."""
        b3os.control.change("kyc-approve", before_run={"awaiting_payment": None})
        started = b3os.start()
        b3os.control.advance(10**8)
        assert b3os.execution(started)["status"] == "awaiting_payment"
        force = f"/executions/{started['execution']['id']}"
        b3os.control.control("POST", force, {"status": "workflow_running"})
        assert "runId" in b3os.execution(started)
        assert data(b3os.get_run(data(b3os.post_run())["runId"]))["status"] == "running"

    @pytest.mark.parametrize(
        ("word", "run_word"),
        [
            ("workflow_waiting", "waiting"),
            ("workflow_succeeded", "success"),
            ("workflow_partial", "partial"),
            ("workflow_failed", "failure"),
            ("workflow_cancelled", "cancelled"),
            ("workflow_pondering", "pondering"),
        ],
    )
    def test_forced(self, b3os: B3os, word: str, run_word: str) -> None:
        """Force takes B3OS's own words, and any other."""
        started = b3os.start("kyc-slow")
        b3os.control.control("POST", f"/executions/{started['execution']['id']}", {"status": word})
        assert b3os.execution(started)["status"] == word
        assert data(b3os.get_run(started["execution"]["runId"]))["status"] == run_word
        over = run_word not in {"waiting", "pondering"}
        assert ("finishedAt" in b3os.execution(started)) == over
        assert b3os.cancel(started["execution"]["runId"]).status_code == (409 if over else 200)

    @pytest.mark.parametrize("word", ["succeeded", "failed"])
    def test_word_for_partly_good(self, b3os: B3os, word: str) -> None:
        """Older vocabularies have no partial."""
        b3os.vary(partial_word=word)
        started = b3os.start("kyc-partial")
        b3os.control.advance(1)
        assert b3os.execution(started)["status"] == f"workflow_{word}"
        run = data(b3os.get_run(started["execution"]["runId"]))
        assert run["status"] == {"succeeded": "success", "failed": "failure"}[word]

    def test_unknown_execution(self, b3os: B3os) -> None:
        """An unknown execution is 404 or, by variant, 400, with a key and without."""
        nobody = {"execution": {"id": NOBODY}, "clientToken": "x"}
        run = data(b3os.post_run())["runId"]
        for status in (404, 400):
            b3os.vary(unknown_execution=status)
            for answer in (b3os.get(nobody), b3os.get_publicly(nobody), b3os.get({"execution": {"id": run}})):
                assert_refused(answer, status)

    def test_public_variants(self, b3os: B3os) -> None:
        """The public answer may be nested, may have the result, and may call a run's id id."""
        started = b3os.start()
        b3os.control.advance(1)
        flat = data(b3os.get_publicly(started))
        b3os.vary(public_execution_shape="nested", public_response_payload=True, public_run_id="id")
        nested = data(b3os.get_publicly(started))
        assert set(nested) == {"execution", "events", "message"}
        assert nested["execution"].pop("responsePayload")["decision"] == "approve"
        assert nested["execution"] | {"events": nested["events"], "message": nested["message"]} == flat
        run = data(b3os.get_run_publicly(started["execution"]["runId"]))
        assert run["id"] == started["execution"]["runId"]
        assert "runId" not in run

    def test_timestamps(self, b3os: B3os) -> None:
        """Times may have an offset."""
        b3os.vary(timestamps="+02:00")
        assert b3os.start()["execution"]["createdAt"] == "2026-09-21T16:13:20.250000+02:00"
