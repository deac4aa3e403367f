"""B3OS, verb by verb: what is asked with and without a key, and what each answer means."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import EXECUTION_ID, NOW, OTHER_ID, handle, response, run_request
from tests.driving import Hand
from tests.planted import DOCUMENT_NUMBER, found_in
from tl_orchestration.credentials import B3osKey, B3osPublic
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidRequest,
    NoResult,
    NotCancellableYet,
    NotFound,
    NotSupported,
    RateLimited,
    ResultNotReady,
    ServerError,
    TransactionlinkError,
)
from tl_orchestration.exchange import Request, once
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.options import B3osOptions, LegacyOptions
from tl_orchestration.secret import Secret
from tl_orchestration.services.b3os import B3os
from tl_orchestration.settings import Settings
from tl_orchestration.status import Status

KEYED = B3os(now=lambda: NOW)
TOKEN = "ct_PLANTED-44af"
KEYLESS = B3os(now=lambda: NOW, keyless=True, client_token=Secret(TOKEN))
OPTIONS = B3osOptions(source_system="airflow", source_entity_type="customer")
KNOWN = {"idempotency_key": "0d9f"}
RUN_ID = "run_7Ab"


def b3os_request(**fields: Any) -> RunRequest:
    """A request for a workflow of B3OS."""
    return run_request(**{"workflow_definition_id": "wf_1", "options": OPTIONS, **fields})


def execution_of(status: str | None = "workflow_running", **members: Any) -> dict[str, Any]:
    """What the service says of an execution."""
    found = {"id": EXECUTION_ID, "workflowId": "wf_1", "organizationId": "org_1", **members}
    return found if status is None else found | {"status": status}


def enveloped(data: object) -> dict[str, Any]:
    """The envelope of the reference."""
    return {"code": 200, "data": data, "message": "success", "requestId": "req-1"}


def private(status: str | None = "workflow_running", **members: Any) -> Any:
    """The answer that a key gets: nested."""
    return response(200, enveloped({"execution": execution_of(status, **members), "events": [], "message": ""}))


def public(status: str = "workflow_running", **members: Any) -> Any:
    """The answer that a client token gets: flat."""
    return response(200, enveloped(execution_of(status, **members)))


def run(service: B3os = KEYED, request: RunRequest | None = None) -> Hand[Execution]:
    """A start, held at its request."""
    return Hand(service.run(request or b3os_request(), None, once, KNOWN))


def poll(service: B3os = KEYED) -> Hand[Execution]:
    """A poll, held at its request."""
    return Hand(service.poll(EXECUTION_ID, once))


class TestRequests:
    @pytest.mark.parametrize(
        ("request_", "says"),
        [
            (run_request(), r"needs options=B3osOptions\(source_system"),
            (run_request(options=LegacyOptions()), "needs options=B3osOptions"),
            (b3os_request(record_id=OTHER_ID), "has no records"),
            (b3os_request(expires_in=3600), "has no expiry"),
            (b3os_request(expires_at="2030-01-01T00:00:00Z"), "has no expiry"),
        ],
    )
    def test_what_it_cannot_run_is_refused_before_anything_is_sent(self, request_: RunRequest, says: str) -> None:
        """A request for something that does not exist here fails by itself."""
        with pytest.raises(InvalidRequest, match=says):
            KEYED.for_request(request_)

    def test_there_is_no_expiry(self) -> None:
        """No expiry is invented, so none can end a wait."""
        assert KEYED.expiry(b3os_request(), NOW, 60.0) is None

    @pytest.mark.parametrize(("credential", "keyless"), [(B3osKey("b3sk_1"), False), (B3osPublic(), True)])
    def test_endpoints_follow_the_credential(self, credential: B3osKey | B3osPublic, *, keyless: bool) -> None:
        """Who has no key is sent to the public endpoints."""
        service = B3os.configured(credential, Settings(workspace_id="org_1"), lambda: NOW)
        assert (keyless, "org_1", not keyless) == (service.keyless, service.organization_id, service.can_cancel)


class TestRun:
    def test_with_a_key(self) -> None:
        """The workflow is named in the body, and the idempotency key is always there."""
        post = run().asks(Request)
        assert (post.operation, post.method, post.path, post.repeatable) == ("run", "POST", "/v1/executions", False)
        assert post.json == {
            "workflowId": "wf_1",
            "sourceSystem": "airflow",
            "sourceEntityType": "customer",
            "requestPayload": {"firstName": "Ada"},
            "idempotencyKey": "0d9f",
        }

    def test_without_a_key(self) -> None:
        """The workflow is named in the path, and nothing grants access."""
        post = run(KEYLESS).asks(Request)
        assert post.path == "/v1/public/workflows/wf_1/executions"
        assert dict(post.query) == {}
        assert post.json == {
            "sourceSystem": "airflow",
            "sourceEntityType": "customer",
            "requestPayload": {"firstName": "Ada"},
            "idempotencyKey": "0d9f",
        }

    def test_optional_members(self) -> None:
        """What is given is sent."""
        given: dict[str, Any] = {"source_entity_id": 42, "external_ref": "x", "client_safe_metadata": {"a": [1]}}
        options = B3osOptions(source_system="s", source_entity_type="t", **given)
        body = run(request=b3os_request(options=options)).asks(Request).json
        assert body is not None
        assert {"sourceEntityId": "42", "externalRef": "x", "clientSafeMetadata": {"a": [1]}}.items() <= body.items()

    def test_nothing_is_sent_without_an_idempotency_key(self) -> None:
        """A start that has none does not happen."""
        with pytest.raises(KeyError):
            Hand(KEYED.run(b3os_request(), None, once))

    @pytest.mark.parametrize(
        "document",
        [
            enveloped({"clientToken": TOKEN, "execution": execution_of(runId=RUN_ID)}),
            {"code": 0, "data": {"clientToken": TOKEN, "execution": execution_of(runId=RUN_ID)}, "message": "success"},
            {"success": True, "data": {"clientToken": TOKEN, "execution": execution_of(runId=RUN_ID)}},
            {"clientToken": TOKEN, "execution": execution_of(runId=RUN_ID)},
        ],
    )
    @pytest.mark.parametrize("service", [KEYED, KEYLESS])
    def test_answer_is_read_in_either_envelope(self, service: B3os, document: dict[str, Any]) -> None:
        """Both envelopes, any code, or none at all (contract C24, C25, C33)."""
        execution = run(service).reply(response(200, document)).returned
        assert (
            execution.id,
            execution.status,
            execution.raw_status,
            execution.service,
        ) == (EXECUTION_ID, Status.RUNNING, "workflow_running", "b3os")
        assert ("wf_1", "org_1", RUN_ID, Secret(TOKEN)) == (
            execution.workflow_definition_id,
            execution.workspace_id,
            execution.run_id,
            execution.client_token,
        )
        assert not execution.is_interactive

    def test_data_without_an_envelope_beside_it_is_a_member_like_any_other(self) -> None:
        """data is unwrapped only if code, requestId or success is beside it (contract C33)."""
        bare = execution_of(data={"id": OTHER_ID, "status": "workflow_failed"})
        assert run().reply(response(200, bare)).returned.id == EXECUTION_ID

    def test_start_without_a_status_keeps_its_id(self) -> None:
        """No member of an execution is marked required, and the id must not be lost."""
        execution = run().reply(private(None)).returned
        assert (execution.id, execution.status, execution.raw_status) == (EXECUTION_ID, Status.UNKNOWN, "")

    def test_start_in_another_organization_is_refused(self) -> None:
        """A connection that is set to one organization starts in no other."""
        service = B3os(now=lambda: NOW, organization_id="org_2")
        with pytest.raises(InvalidAnswer, match="started in workspace org_1") as caught:
            run(service).reply(private())
        assert caught.value.execution_id == EXECUTION_ID

    @pytest.mark.parametrize(
        ("status", "document", "error", "codes", "request_id"),
        [
            (
                400,
                {"code": 400228, "message": "bad", "details": [], "requestId": "r-9"},
                InvalidRequest,
                ("400228",),
                "r-9",
            ),
            (400, {"success": False, "error": {"message": "bad", "code": 400079}}, InvalidRequest, ("400079",), None),
            (
                400,
                {"success": False, "error": {"message": "bad", "code": "BAD_KEY"}},
                InvalidRequest,
                ("BAD_KEY",),
                None,
            ),
            (400, {"code": 400, "message": "bad", "requestId": "r-9"}, InvalidRequest, (), "r-9"),
            (402, {"code": 402001, "message": "no units", "requestId": "r-9"}, InvalidRequest, ("402001",), "r-9"),
            (404, {"code": 404, "message": "no", "requestId": "r-9"}, NotFound, (), "r-9"),
            (429, {"code": 429, "message": "slow", "requestId": "r-9"}, RateLimited, (), "r-9"),
            (500, {"code": True, "message": "boom"}, ServerError, (), None),
        ],
    )
    def test_refusal_is_read_in_either_form(
        self,
        status: int,
        document: dict[str, Any],
        error: type[TransactionlinkError],
        codes: tuple[str, ...],
        request_id: str | None,
    ) -> None:
        """The HTTP status decides; six-digit codes and the request's id are kept (contract C25, C26)."""
        with pytest.raises(error) as caught:
            run().reply(response(status, document))
        assert (codes, request_id) == (caught.value.codes, caught.value.fingerprint)
        if error is InvalidRequest:
            assert "The service says: " in str(caught.value)

    def test_refusal_shows_nothing_that_was_sent(self) -> None:
        """What the service says is kept without the payload."""
        request = b3os_request(parameters={"document": DOCUMENT_NUMBER})
        said = {"success": False, "error": {"message": f"{DOCUMENT_NUMBER} is void", "code": DOCUMENT_NUMBER}}
        with pytest.raises(InvalidRequest) as caught:
            run(request=request).reply(response(400, said))
        assert found_in(f"{caught.value} {caught.value.codes}") == []

    def test_success_false_with_a_2xx_is_no_start(self) -> None:
        """Whoever judges by HTTP status still needs an id (contract C24)."""
        with pytest.raises(InvalidAnswer, match="no usable execution id"):
            run().reply(response(200, {"success": False, "error": {"message": "no", "code": 1}}))


class TestPoll:
    def test_with_a_key(self) -> None:
        """The answer is nested under execution (contract C30)."""
        hand = poll()
        get = hand.asks(Request)
        assert ("GET", f"/v1/executions/{EXECUTION_ID}", {}) == (get.method, get.path, dict(get.query))
        execution = hand.reply(private("workflow_waiting", runId=RUN_ID)).returned
        assert (execution.status, execution.run_id) == (Status.WAITING, RUN_ID)

    def test_with_a_client_token(self) -> None:
        """The answer is flat (contract C30), the token is in no path, and it is kept for the next poll."""
        hand = poll(KEYLESS)
        get = hand.asks(Request)
        assert (f"/v1/public/executions/{EXECUTION_ID}", {"token": Secret(TOKEN)}) == (get.path, dict(get.query))
        assert TOKEN not in repr(get)
        execution = hand.reply(public("workflow_succeeded")).returned
        assert (Status.SUCCEEDED, Secret(TOKEN)) == (execution.status, execution.client_token)

    def test_client_token_is_in_no_error(self) -> None:
        """Not even if the service repeats it."""
        with pytest.raises(AuthenticationError) as caught:
            poll(KEYLESS).reply(response(401, {"code": 401, "message": f"bad {TOKEN}", "requestId": TOKEN}))
        assert TOKEN not in f"{caught.value} {caught.value.fingerprint}"

    def test_keyless_and_without_a_client_token(self) -> None:
        """Who has neither is told in a sentence, and nothing is sent."""
        service = KEYLESS.for_execution(handle(), None)
        with pytest.raises(NotSupported, match="only in the process that started it"):
            poll(service)

    def test_a_key_needs_no_client_token(self) -> None:
        """An execution that carries one is asked about with the key, and goes on carrying it."""
        hand = poll(KEYED.for_execution(handle(), Secret(TOKEN)))
        assert dict(hand.asks(Request).query) == {}
        assert hand.reply(private()).returned.client_token == Secret(TOKEN)

    @pytest.mark.parametrize("answer", [private, public])
    def test_either_shape_is_read_by_either_reader(self, answer: Any) -> None:
        """The shape is taken as it comes."""
        for service in (KEYED, KEYLESS):
            assert Status.RUNNING is poll(service).reply(answer()).returned.status

    def test_another_execution_is_no_answer(self) -> None:
        """The id has to be the one that was asked for."""
        with pytest.raises(InvalidAnswer, match="with another execution"):
            poll().reply(private(id=OTHER_ID))

    @pytest.mark.parametrize("run_id", [None, "", 7, "run/../x", "run_1\n"])
    def test_unusable_run_id_is_none(self, run_id: object) -> None:
        """A run id goes into a path, so it has to be safe there."""
        assert poll().reply(private(runId=run_id)).returned.run_id is None

    @pytest.mark.parametrize(
        ("literal", "status"),
        [
            ("awaiting_payment", Status.WAITING),
            ("payment_confirmed", Status.PENDING),
            ("workflow_queued", Status.PENDING),
            ("workflow_running", Status.RUNNING),
            ("workflow_waiting", Status.WAITING),
            ("workflow_succeeded", Status.SUCCEEDED),
            ("workflow_partial", Status.PARTIAL),
            ("workflow_failed", Status.FAILED),
            ("workflow_cancelled", Status.CANCELLED),
            ("running", Status.RUNNING),
            ("waiting", Status.WAITING),
            ("success", Status.SUCCEEDED),
            ("partial", Status.PARTIAL),
            ("failure", Status.FAILED),
            ("cancelled", Status.CANCELLED),
            ("WORKFLOW_SUCCEEDED", Status.SUCCEEDED),
            ("workflow_exploded", Status.UNKNOWN),
            ("completed", Status.UNKNOWN),
        ],
    )
    def test_every_literal(self, literal: str, status: Status) -> None:
        """All documented literals, partial included; an unknown workflow_* is not terminal (contract C27)."""
        assert status is poll().reply(private(literal)).returned.status


class TestResult:
    def result(self, service: B3os = KEYED) -> Hand[dict[str, Any]]:
        return Hand(service.result(EXECUTION_ID, once))

    @pytest.mark.parametrize("status", ["workflow_succeeded", "workflow_partial", "workflow_failed", "workflow_odd"])
    def test_is_the_response_payload(self, status: str) -> None:
        """Of whatever has ended, and of what has ended in a way that this version cannot read."""
        assert self.result().reply(private(status, responsePayload={"a": 1})).returned == {"a": 1}

    def test_needs_a_key(self) -> None:
        """The public answer has no responsePayload; the error says what to use, and nothing is sent (contract C29)."""
        with pytest.raises(NotSupported, match="only to a key: use B3osKey"):
            self.result(KEYLESS)

    @pytest.mark.parametrize("status", ["workflow_running", "workflow_waiting", "workflow_odd"])
    def test_is_not_there_yet(self, status: str) -> None:
        """Of what goes on there is none."""
        with pytest.raises(ResultNotReady, match=status):
            self.result().reply(private(status, responsePayload=None))

    def test_is_not_handed_out_early(self) -> None:
        """A payload that may still change is no result."""
        with pytest.raises(ResultNotReady):
            self.result().reply(private("workflow_running", responsePayload={"a": 1}))

    def test_is_missing(self) -> None:
        """What has ended without one says so."""
        with pytest.raises(NoResult, match="workflow_failed"):
            self.result().reply(private("workflow_failed"))

    @pytest.mark.parametrize("payload", [[], "text", 0, False])
    def test_is_an_object(self, payload: object) -> None:
        """Anything else is no answer."""
        with pytest.raises(InvalidAnswer, match="responsePayload that is no object"):
            self.result().reply(private("workflow_succeeded", responsePayload=payload))


class TestCancel:
    def cancel(self, service: B3os = KEYED) -> Hand[Execution]:
        return Hand(service.cancel(EXECUTION_ID, once))

    def test_goes_through_the_run(self) -> None:
        """An execution has no cancel of its own: its run is cancelled, then it is looked at."""
        hand = self.cancel().reply(private(runId=RUN_ID))
        post = hand.asks(Request)
        assert ("POST", f"/v1/runs/{RUN_ID}/cancel", None) == (post.method, post.path, post.json)
        execution = hand.reply(response(200, enveloped({"id": RUN_ID}))).reply(private("workflow_cancelled")).returned
        assert Status.CANCELLED is execution.status

    def test_accepted_cancel_whose_end_is_not_seen(self) -> None:
        """What went wrong is the look, not the cancel; before the cancel it is the look alone."""
        hand = self.cancel().reply(private(runId=RUN_ID)).reply(response(200, enveloped({"id": RUN_ID})))
        with pytest.raises(ServerError, match=f"accepted the cancel of execution {EXECUTION_ID}") as caught:
            hand.reply(response(503))
        assert caught.value.cancel_accepted
        with pytest.raises(ServerError) as before:
            self.cancel().reply(response(503))
        assert not before.value.cancel_accepted

    @pytest.mark.parametrize("status", ["awaiting_payment", "payment_confirmed", "workflow_queued"])
    def test_before_there_is_a_run(self, status: str) -> None:
        """There is nothing to cancel yet; later there may be (contract C39)."""
        with pytest.raises(NotCancellableYet, match=f"{status} and has no run yet") as caught:
            self.cancel().reply(private(status))
        assert (caught.value.retryable, caught.value.execution_id) == (True, EXECUTION_ID)

    @pytest.mark.parametrize("status", ["workflow_succeeded", "workflow_cancelled"])
    def test_of_what_is_over_sends_nothing(self, status: str) -> None:
        """One look is enough."""
        hand = self.cancel().reply(private(status, runId=RUN_ID))
        assert (1, status) == (len(hand.requests), hand.returned.raw_status)

    @pytest.mark.parametrize("refusal", [400, 409])
    def test_refusal_of_what_is_over_by_now(self, refusal: int) -> None:
        """A 409 is judged by another look at the status."""
        hand = self.cancel().reply(private(runId=RUN_ID)).reply(response(refusal, {"code": refusal, "message": "over"}))
        assert Status.SUCCEEDED is hand.reply(private("workflow_succeeded")).returned.status

    def test_refusal_of_what_goes_on(self) -> None:
        """A 409 for an execution that is not over is an error."""
        hand = self.cancel().reply(private(runId=RUN_ID)).reply(response(409, {"code": 409001, "message": "busy"}))
        with pytest.raises(InvalidRequest, match=f"run {RUN_ID} of execution {EXECUTION_ID}") as caught:
            hand.reply(private())
        assert caught.value.codes == ("409001",)

    def test_unknown_run(self) -> None:
        """A 404 names the run and the execution."""
        with pytest.raises(NotFound, match=RUN_ID):
            self.cancel().reply(private(runId=RUN_ID)).reply(response(404))

    def test_needs_a_key(self) -> None:
        """There is no public way to cancel, and nothing is sent."""
        with pytest.raises(NotSupported, match="only a key cancel"):
            self.cancel(KEYLESS)


class TestCheck:
    @pytest.mark.parametrize("status", [200, 400, 404])
    def test_key_is_accepted(self, status: int) -> None:
        """An execution that cannot exist is refused only after the key was accepted."""
        hand = Hand(KEYED.check(OTHER_ID, once))
        assert f"/v1/executions/{OTHER_ID}" == hand.asks(Request).path
        assert hand.reply(response(status)).returned is None

    @pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (502, ServerError)])
    def test_key_is_not_accepted(self, status: int, error: type[TransactionlinkError]) -> None:
        """What is wrong is said."""
        with pytest.raises(error):
            Hand(KEYED.check(OTHER_ID, once)).reply(response(status))

    @pytest.mark.parametrize("status", [400, 401, 404])
    def test_keyless_check_is_about_the_host_alone(self, status: int) -> None:
        """There is no credential that could be wrong; a server error is one all the same."""
        service = B3os(now=lambda: NOW, keyless=True)
        hand = Hand(service.check(OTHER_ID, once))
        assert f"/v1/public/executions/{OTHER_ID}" == hand.asks(Request).path
        assert hand.reply(response(status)).returned is None
        with pytest.raises(ServerError):
            Hand(service.check(OTHER_ID, once)).reply(response(500))
