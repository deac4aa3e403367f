"""The current API, verb by verb: what is asked, and what each answer means."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.builders import (
    EXECUTION_ID,
    NOW,
    OTHER_ID,
    WORKSPACE_ID,
    document,
    refusal_document,
    response,
    run_request,
    told,
    travelled,
)
from tests.driving import Hand
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidRequest,
    InvalidSettings,
    NoAnswer,
    NoResult,
    NotFound,
    PermissionDenied,
    RateLimited,
    ResultNotReady,
    ServerError,
    TransactionlinkError,
)
from tl_orchestration.exchange import Request, once
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.services import SERVICES, service_named
from tl_orchestration.services.transactionlink import Transactionlink, read_time, wire_time
from tl_orchestration.status import Status

SERVICE = Transactionlink(now=lambda: NOW)
EXPIRY = datetime(2026, 9, 21, 15, 13, 20, 123_456, tzinfo=UTC)

REFUSALS: list[tuple[int, type[TransactionlinkError]]] = [
    (400, InvalidRequest),
    (401, AuthenticationError),
    (403, PermissionDenied),
    (404, NotFound),
    (409, InvalidRequest),
    (429, RateLimited),
    (500, ServerError),
    (503, ServerError),
    (302, InvalidAnswer),
]


def run(request: RunRequest | None = None, service: Transactionlink = SERVICE) -> Hand[Execution]:
    """A start, held at its request."""
    return Hand(service.run(request or run_request(), EXPIRY, once))


def poll(service: Transactionlink = SERVICE) -> Hand[Execution]:
    """A poll, held at its request."""
    return Hand(service.poll(EXECUTION_ID, once))


def result() -> Hand[dict[str, Any]]:
    """A look for the result, held at its request."""
    return Hand(SERVICE.result(EXECUTION_ID, once))


def cancel() -> Hand[Execution]:
    """A cancel, held at its request."""
    return Hand(SERVICE.cancel(EXECUTION_ID, once))


def asked(hand: Hand[Any]) -> tuple[str, str]:
    """Method and path of the request that waits."""
    request = hand.asks(Request)
    return request.method, request.path


class TestRun:
    def test_request_is_as_documented(self) -> None:
        """A start names definition, locale, parameters and expiry, and may never be repeated."""
        request = run(run_request(parameters={"a": [1]}, locale="pt-BR")).asks(Request)
        assert (
            request.operation,
            request.method,
            request.path,
            request.accept,
            request.repeatable,
        ) == ("run", "POST", "/workflows", "*/*", False)
        assert request.json == {
            "workflowDefinitionId": "kyc-approve",
            "locale": "pt-BR",
            "parameters": {"a": [1]},
            "expiresAt": "2026-09-21T15:13:20.123Z",
        }

    def test_parameters_are_sent_even_if_there_are_none(self) -> None:
        """parameters is required by the schema, so an empty object goes along."""
        body = run(RunRequest("kyc-approve")).asks(Request).json
        assert body is not None
        assert body["parameters"] == {}
        assert "recordId" not in body

    def test_record_is_sent_if_there_is_one(self) -> None:
        """recordId is optional."""
        body = run(run_request(record_id=OTHER_ID)).asks(Request).json
        assert body is not None
        assert body["recordId"] == OTHER_ID

    def test_answer_is_read_in_full(self) -> None:
        """Every documented member finds its place."""
        members = {
            "recordId": OTHER_ID,
            "link": "https://l?token=t",
            "token": "t",
            "expiresAt": "2026-09-21T15:42:12.820469Z",
        }
        execution = run().reply(response(200, document(**members))).returned
        assert (
            execution.id,
            execution.status,
            execution.raw_status,
            execution.service,
        ) == (EXECUTION_ID, Status.RUNNING, "RUNNING", "transactionlink")
        assert (
            execution.workflow_definition_id,
            execution.name,
            execution.revision,
            execution.workspace_id,
            execution.record_id,
        ) == ("kyc-approve", "kyc-approve", "r1", WORKSPACE_ID, OTHER_ID)
        expires_at = datetime(2026, 9, 21, 15, 42, 12, 820_469, tzinfo=UTC)
        assert (expires_at, expires_at.timestamp()) == (execution.expires_at, execution.handle.expires_at)
        assert execution.link is not None
        assert execution.token is not None
        assert (execution.link.reveal(), execution.token.reveal()) == ("https://l?token=t", "t")
        assert (execution.handle.execution_id, execution.handle.owned, execution.handle.key) == (
            EXECUTION_ID,
            False,
            None,
        )

    def test_id_is_enough(self) -> None:
        """A start that answers nothing but an id has started; its status is told by the first poll."""
        execution = run().reply(response(200, {"id": EXECUTION_ID})).returned
        assert (
            execution.id,
            execution.status,
            execution.raw_status,
            execution.expires_at,
        ) == (EXECUTION_ID, Status.UNKNOWN, "", None)

    @pytest.mark.parametrize("status", [200, 201, 202])
    def test_any_success_counts(self, status: int) -> None:
        """Which 2xx it is does not matter."""
        assert run().reply(response(status, document())).returned.id == EXECUTION_ID

    @pytest.mark.parametrize("identifier", [None, "", "../x", "a/b", 7, "a" * 129, ["a"]])
    def test_answer_without_a_usable_id_is_invalid(self, identifier: object) -> None:
        """An id that is missing, or could not stand in a path, is no id."""
        with pytest.raises(InvalidAnswer, match="no usable execution id"):
            run().reply(response(200, document() | {"id": identifier}))

    @pytest.mark.parametrize(("status", "kind"), REFUSALS)
    def test_refusal_names_definition_and_permission(self, status: int, kind: type[TransactionlinkError]) -> None:
        """A refused start names the definition and what is missing."""
        with pytest.raises(kind) as caught:
            run().reply(response(status, refusal_document()))
        assert kind is type(caught.value)
        if kind is not InvalidAnswer:
            assert "workflow definition kyc-approve" in str(caught.value)
        if status == 403:
            assert "can_run on the workflow definition" in str(caught.value)
        assert status == caught.value.status_code

    @pytest.mark.parametrize(
        ("expected", "answered", "fits"),
        [
            (None, WORKSPACE_ID, True),
            (WORKSPACE_ID, WORKSPACE_ID, True),
            (WORKSPACE_ID.upper(), WORKSPACE_ID, True),
            (WORKSPACE_ID, None, True),
            (OTHER_ID, WORKSPACE_ID, False),
        ],
    )
    def test_other_workspace_is_refused(self, expected: str | None, answered: str | None, *, fits: bool) -> None:
        """A start that was answered from another workspace than the connection's names both, and the id."""
        service = Transactionlink(now=lambda: NOW, workspace_id=expected)
        hand = run(service=service)
        if fits:
            assert answered == hand.reply(told(workspaceId=answered)).returned.workspace_id
            return
        with pytest.raises(InvalidAnswer, match=f"workspace {WORKSPACE_ID}.* workspace {OTHER_ID}") as caught:
            hand.reply(told(workspaceId=answered))
        assert caught.value.execution_id == EXECUTION_ID


class TestPoll:
    def test_request(self) -> None:
        """A poll is a GET that may be repeated."""
        request = poll().asks(Request)
        assert ("poll", "GET", f"/workflows/{EXECUTION_ID}", None, True) == (
            request.operation,
            request.method,
            request.path,
            request.json,
            request.repeatable,
        )

    def test_legacy_shape_is_read_too(self) -> None:
        """An answer with caseId instead of recordId, and nothing else, is understood (contract C2)."""
        execution = (
            poll().reply(response(200, {"id": EXECUTION_ID, "caseId": OTHER_ID, "status": "COMPLETED"})).returned
        )
        assert (execution.id, execution.status, execution.record_id) == (EXECUTION_ID, Status.SUCCEEDED, OTHER_ID)

    def test_taught_literal_is_understood(self) -> None:
        """status_map reaches the reading of answers."""
        service = Transactionlink(now=lambda: NOW, status_map={"in-review": Status.WAITING})
        assert Status.WAITING is poll(service).reply(told("IN_REVIEW")).returned.status

    @pytest.mark.parametrize(
        "status", [None, "", " ", 7, ["RUNNING"], {"a": 1}, "x" * 65, "RUN\nNING", "RUN\x1b[31m", True]
    )
    def test_answer_without_a_usable_status_is_invalid(self, status: object) -> None:
        """A status that is missing, no short line of text, or could forge a log line is not believed."""
        with pytest.raises(InvalidAnswer, match="without a usable status") as caught:
            poll().reply(response(200, document(None) | {"status": status}))
        assert caught.value.execution_id == EXECUTION_ID

    def test_answer_about_another_execution_is_invalid(self) -> None:
        """An id other than the one that was asked for is refused."""
        with pytest.raises(InvalidAnswer, match="with another execution") as caught:
            poll().reply(told(id=OTHER_ID))
        assert caught.value.execution_id == EXECUTION_ID

    @pytest.mark.parametrize(("status", "kind"), REFUSALS)
    def test_refusal_names_execution_and_permission(self, status: int, kind: type[TransactionlinkError]) -> None:
        """A refused poll names the execution and what is missing."""
        with pytest.raises(kind) as caught:
            poll().reply(response(status, refusal_document()))
        assert caught.value.execution_id == EXECUTION_ID
        assert EXECUTION_ID in str(caught.value)
        if status == 403:
            assert "can_view_workspace" in str(caught.value)

    @pytest.mark.parametrize("value", [None, 7, "", "soon", "2026-99-99T00:00:00Z", [], "9999-12-31T23:59:59-23:59"])
    def test_unreadable_expiry_is_none(self, value: object) -> None:
        """An expiry that cannot be read does not spoil the answer."""
        assert poll().reply(told(expiresAt=value)).returned.expires_at is None

    @pytest.mark.parametrize(
        "members", [{"name": None, "revision": 7}, {"name": [], "revision": {}}, {"name": "", "workspaceId": 1}]
    )
    def test_other_members_are_optional(self, members: dict[str, Any]) -> None:
        """Members of another type are as good as absent."""
        execution = poll().reply(told(**members)).returned
        assert execution.name is None
        assert execution.id == EXECUTION_ID


class TestResult:
    def test_object_is_returned_as_it_is(self) -> None:
        """A result is whatever object the definition makes."""
        hand = result()
        assert ("GET", f"/workflows/{EXECUTION_ID}/result") == asked(hand)
        assert hand.reply(response(200, {"decision": "approve", "id": 7})).returned == {"decision": "approve", "id": 7}

    @pytest.mark.parametrize(
        "answer", [response(200, []), response(200), response(200, body=b"{", content_type="text/html")]
    )
    def test_what_is_no_object_is_invalid(self, answer: Any) -> None:
        """A result that is not a JSON object is refused."""
        with pytest.raises(InvalidAnswer):
            result().reply(answer)

    @pytest.mark.parametrize(
        ("status", "kind", "says"),
        [
            (told("RUNNING"), ResultNotReady, "has not ended yet"),
            (told("AWAITING"), ResultNotReady, "has not ended yet"),
            (told("NEVER_HEARD_OF"), ResultNotReady, "has not ended yet"),
            (told("COMPLETED"), NoResult, "left no result"),
            (told("FAILED"), NoResult, "left no result"),
            (response(404), NotFound, "does not know execution"),
        ],
    )
    def test_absence_is_told_apart_by_the_status(
        self, status: Any, kind: type[TransactionlinkError], says: str
    ) -> None:
        """A 404 is: not yet, none, or no such execution, as the status says (contract C12)."""
        hand = result().reply(response(404))
        assert ("GET", f"/workflows/{EXECUTION_ID}") == asked(hand)
        with pytest.raises(kind, match=says) as caught:
            hand.reply(status)
        assert kind is type(caught.value)
        assert (caught.value.execution_id, caught.value.status_code) == (EXECUTION_ID, 404)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (told("RUNNING"), ResultNotReady),
            (told("NEVER_HEARD_OF"), ResultNotReady),
            (told("COMPLETED"), InvalidRequest),
            (response(400), InvalidRequest),
            (response(404), NotFound),
        ],
    )
    def test_refusal_of_what_has_not_ended(self, status: Any, kind: type[TransactionlinkError]) -> None:
        """A 400 about an execution that goes on means: not yet; about any other it is the refusal that it says."""
        hand = result().reply(response(400, refusal_document()))
        assert ("GET", f"/workflows/{EXECUTION_ID}") == asked(hand)
        with pytest.raises(kind) as caught:
            hand.reply(status)
        assert (kind, EXECUTION_ID) == (type(caught.value), caught.value.execution_id)

    @pytest.mark.parametrize(("status", "kind"), [one for one in REFUSALS if one[0] not in {400, 404}])
    def test_other_refusals_are_raised(self, status: int, kind: type[TransactionlinkError]) -> None:
        """Every other refusal is the error, without a second look."""
        hand = result()
        with pytest.raises(kind):
            hand.reply(response(status))
        assert len(hand.requests) == 1


class TestCancel:
    def test_empty_success_is_followed_by_a_look(self) -> None:
        """A cancel has no body either way; the status afterwards is what counts (contract C13)."""
        hand = cancel()
        request = hand.asks(Request)
        assert ("cancel", "POST", f"/workflows/{EXECUTION_ID}/cancel", None, True) == (
            request.operation,
            request.method,
            request.path,
            request.json,
            request.repeatable,
        )
        hand.reply(response(200))
        assert ("GET", f"/workflows/{EXECUTION_ID}") == asked(hand)
        assert Status.CANCELLED is hand.reply(told("CANCELLED")).returned.status

    @pytest.mark.parametrize("answer", [response(204), response(202, body=b"<html>", content_type="text/html")])
    def test_any_success_counts_and_its_body_is_not_read(self, answer: Any) -> None:
        """Any 2xx is a success, whatever it carries."""
        assert Status.RUNNING is cancel().reply(answer).reply(told("RUNNING")).returned.status

    def test_accepted_cancel_whose_end_is_not_seen(self) -> None:
        """What went wrong is the look, not the cancel; the error stays of its kind."""
        with pytest.raises(ServerError, match=f"accepted the cancel of execution {EXECUTION_ID}") as caught:
            cancel().reply(response(200)).reply(response(503))
        assert (caught.value.cancel_accepted, caught.value.execution_id) == (True, EXECUTION_ID)
        assert travelled(caught.value).cancel_accepted

    @pytest.mark.parametrize("refused", [400, 409])
    @pytest.mark.parametrize("literal", ["COMPLETED", "FAILED", "CANCELLED", "EXPIRED"])
    def test_refusal_because_it_is_over_is_no_error(self, refused: int, literal: str) -> None:
        """A refused cancel of an execution that has ended returns how it has ended."""
        hand = cancel().reply(response(refused, refusal_document()))
        assert ("GET", f"/workflows/{EXECUTION_ID}") == asked(hand)
        assert literal == hand.reply(told(literal)).returned.raw_status

    @pytest.mark.parametrize("refused", [400, 409])
    @pytest.mark.parametrize("literal", ["RUNNING", "NEVER_HEARD_OF"])
    def test_refusal_while_it_runs_is_raised(self, refused: int, literal: str) -> None:
        """A refused cancel of an execution that still runs, or that we cannot read, is the refusal."""
        with pytest.raises(InvalidRequest, match="refuses cancel") as caught:
            cancel().reply(response(refused, refusal_document())).reply(told(literal))
        assert (EXECUTION_ID, refused) == (caught.value.execution_id, caught.value.status_code)

    @pytest.mark.parametrize(("status", "kind"), [one for one in REFUSALS if one[0] not in {400, 409}])
    def test_other_refusals_are_raised(self, status: int, kind: type[TransactionlinkError]) -> None:
        """Every other refusal is the error, without a look at the status."""
        hand = cancel()
        with pytest.raises(kind) as caught:
            hand.reply(response(status))
        assert len(hand.requests) == 1
        assert caught.value.execution_id == EXECUTION_ID


class TestCheck:
    @pytest.mark.parametrize("answer", [response(404, refusal_document()), told(), response(200)])
    def test_accepted_credential_is_silence(self, answer: Any) -> None:
        """A probe that is not found shows that the credential is accepted; nothing is started."""
        hand = Hand(SERVICE.check("probe", once))
        assert asked(hand) == ("GET", "/workflows/probe")
        assert hand.reply(answer).done

    @pytest.mark.parametrize(("status", "kind"), [one for one in REFUSALS if one[0] != 404])
    def test_every_other_answer_is_raised(self, status: int, kind: type[TransactionlinkError]) -> None:
        """A refused credential, a failing service or a redirect is what does not work."""
        with pytest.raises(kind):
            Hand(SERVICE.check("probe", once)).reply(response(status))


@pytest.mark.parametrize("verb", [run, poll, result, cancel])
def test_missing_answer_is_not_caught(verb: Any) -> None:
    """No verb swallows a lost answer."""
    lost = NoAnswer("reset")
    with pytest.raises(NoAnswer) as caught:
        verb().fail(lost)
    assert lost is caught.value


def test_accept_header_is_the_settings() -> None:
    """The Accept header of every request can be overridden."""
    service = Transactionlink(now=lambda: NOW, accept="application/json;version=2")
    flows: list[Hand[Any]] = [
        run(service=service),
        poll(service),
        Hand(service.result("e", once)),
        Hand(service.cancel("e", once)),
    ]
    assert {"application/json;version=2"} == {hand.asks(Request).accept for hand in flows}


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2026-09-21T15:42:12.820469Z", datetime(2026, 9, 21, 15, 42, 12, 820_469, tzinfo=UTC)),
            ("2026-09-21T15:42:12Z", datetime(2026, 9, 21, 15, 42, 12, tzinfo=UTC)),
            ("2026-09-21T17:42:12+02:00", datetime(2026, 9, 21, 15, 42, 12, tzinfo=UTC)),
            ("2026-09-21T15:42:12.123456789Z", datetime(2026, 9, 21, 15, 42, 12, 123_456, tzinfo=UTC)),
            ("2026-09-21T15:42:12", datetime(2026, 9, 21, 15, 42, 12, tzinfo=UTC)),
        ],
    )
    def test_is_read_in_every_form(self, text: str, expected: datetime) -> None:
        """Zulu, offsets, and any number of digits are the same instant in UTC."""
        assert expected == read_time(text)

    def test_is_written_as_the_vendors_sample_does(self) -> None:
        """UTC, milliseconds, Z."""
        assert wire_time(EXPIRY) == "2026-09-21T15:13:20.123Z"


class TestNames:
    def test_every_service_knows_its_name(self) -> None:
        """A service is found under its own name."""
        assert all(service_named(name) is SERVICES[name] for name in SERVICES)
        assert Transactionlink is SERVICES["transactionlink"]

    def test_other_names_are_refused(self) -> None:
        """A service that does not exist is refused, and the known ones are listed."""
        with pytest.raises(InvalidSettings, match=r"'b4os'; known are: .*transactionlink"):
            service_named("b4os")
