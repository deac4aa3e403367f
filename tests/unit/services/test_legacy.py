"""The legacy API, verb by verb: what is asked, and what each answer means."""

from __future__ import annotations

import random
from typing import Any

import pytest
from attrs import evolve

from tests.builders import EXECUTION_ID, NOW, OTHER_ID, event, handle, refusal_document, response, run_request
from tests.driving import Hand
from tests.planted import DOCUMENT_NUMBER, FIRST_NAME, LAST_NAME, found_in
from tests.scripted import World
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidRequest,
    NoResult,
    NotFound,
    NotSupported,
    ResultNotReady,
    ServerError,
    TransactionlinkError,
    WaitTimeout,
)
from tl_orchestration.exchange import Request, once
from tl_orchestration.ledger import State
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.options import B3osOptions, LegacyOptions
from tl_orchestration.pacing import Pacing
from tl_orchestration.services.legacy import CASE_ID, PARAMETERS_ID, Legacy
from tl_orchestration.settings import Settings
from tl_orchestration.status import Status
from tl_orchestration.wait import Patience, wait
from tl_orchestration.workspace_key import WorkspaceKey

SERVICE = Legacy(now=lambda: NOW)
V1, V2 = "application/json;version=1", "application/json;version=2"
ABOUT_CASE = LegacyOptions(case_id=OTHER_ID)
NEW_CASE = LegacyOptions(first_name=FIRST_NAME, last_name=LAST_NAME, personal_number=DOCUMENT_NUMBER)


def run(request: RunRequest, known: dict[str, str] | None = None) -> Hand[Execution]:
    """A start, held at its request."""
    return Hand(SERVICE.for_request(request).run(request, None, once, known or {}))


def make(name: str, request: RunRequest) -> Hand[str]:
    """Something that a start needs, held at its request."""
    return Hand(SERVICE.for_request(request).make(name, request, once))


def answer(**members: Any) -> dict[str, Any]:
    """What the service says of a run."""
    return {"id": EXECUTION_ID, "status": "RUNNING", **members}


class TestVersion:
    @pytest.mark.parametrize(
        ("request_", "version"),
        [
            (run_request(options=ABOUT_CASE), 1),
            (run_request(options=NEW_CASE), 1),
            (run_request(options=LegacyOptions(documents=[{"resource_id": "r"}])), 1),
            (run_request(options=LegacyOptions(phone=("+370", "60000000"))), 1),
            (run_request(options=LegacyOptions()), 2),
            (run_request(), 2),
            (run_request(record_id=OTHER_ID), 2),
        ],
    )
    def test_follows_from_what_the_run_is_about(self, request_: RunRequest, version: int) -> None:
        """A case means version 1, a record or nothing means version 2."""
        assert version == SERVICE.for_request(request_).api_version

    @pytest.mark.parametrize(("version", "accept"), [(1, V1), (2, V2), (None, V2), (7, V2)])
    @pytest.mark.parametrize("verb", ["poll", "result"])
    def test_a_handle_carries_it_to_poll_and_result(self, version: int | None, accept: str, verb: str) -> None:
        """Status and result are asked for in the version of the start, and in version 2 where it is not known."""
        service = SERVICE.for_execution(handle(api_version=version), None)
        assert accept == Hand(getattr(service, verb)(EXECUTION_ID, once)).asks(Request).accept

    def test_execution_carries_it(self) -> None:
        """The handle of what was started says which version it was started in."""
        execution = run(run_request(options=ABOUT_CASE, parameters={})).reply(response(200, answer())).returned
        assert (execution.handle.api_version, execution.handle.service) == (1, "transactionlink-legacy")

    def test_execution_that_was_not_asked_about_has_it(self) -> None:
        """A retry that gets no answer still knows in which version to ask."""
        service = SERVICE.for_request(run_request(options=ABOUT_CASE, parameters={}))
        assert handle(api_version=1, owned=False, service="transactionlink-legacy") == service.handle_of(EXECUTION_ID)

    def test_chosen_accept_stays(self) -> None:
        """An Accept header of the caller's own is sent for every version (contract C2)."""
        service = Legacy.configured(WorkspaceKey("k", "s"), Settings(accept="application/json"), lambda: NOW)
        for request in (run_request(options=ABOUT_CASE), run_request()):
            assert service.for_request(request).accept == "application/json"

    def test_default_accept_is_that_of_version_2(self) -> None:
        """The default of the current API, which names no version, is not sent here."""
        assert Legacy.configured(WorkspaceKey("k", "s"), Settings(), lambda: NOW).accept == V2


class TestRequests:
    @pytest.mark.parametrize(
        ("request_", "says"),
        [
            (run_request(options=ABOUT_CASE, record_id=OTHER_ID), "a case .* or a record_id"),
            (run_request(expires_in=3600), "has no expiry"),
            (run_request(expires_at="2030-01-01T00:00:00Z"), "has no expiry"),
            (run_request(options=B3osOptions(source_system="a", source_entity_type="b")), "LegacyOptions"),
        ],
    )
    def test_what_it_cannot_run_is_refused_before_anything_is_sent(self, request_: RunRequest, says: str) -> None:
        """A request for something that does not exist here fails by itself."""
        with pytest.raises(InvalidRequest, match=says):
            SERVICE.for_request(request_)

    def test_locale_is_of_no_meaning(self) -> None:
        """A definition without user interaction has nobody to speak to."""
        assert run(run_request(locale="pt-BR", parameters={})).asks(Request).json == {
            "workflowDefinitionId": "kyc-approve"
        }

    def test_there_is_no_expiry(self) -> None:
        """No expiry is invented, so none can end a wait."""
        assert SERVICE.expiry(run_request(), NOW, 60.0) is None


class TestNeeds:
    @pytest.mark.parametrize(
        ("request_", "known", "missing"),
        [
            (run_request(options=NEW_CASE), {}, (CASE_ID, PARAMETERS_ID)),
            (run_request(options=NEW_CASE), {CASE_ID: "c"}, (PARAMETERS_ID,)),
            (run_request(options=NEW_CASE), {CASE_ID: "c", PARAMETERS_ID: "p"}, ()),
            (run_request(options=NEW_CASE, parameters={}), {}, (CASE_ID,)),
            (run_request(options=ABOUT_CASE), {}, (PARAMETERS_ID,)),
            (run_request(options=ABOUT_CASE, parameters={}), {}, ()),
            (run_request(parameters={}), {}, ()),
        ],
    )
    def test_what_is_made_first(self, request_: RunRequest, known: dict[str, str], missing: tuple[str, ...]) -> None:
        """A case from its fields, parameters if there are any, and nothing that is known."""
        assert missing == SERVICE.needs(request_, known)

    def test_case_is_sent_with_the_services_names_as_strings(self) -> None:
        """Members have the documented names, and numbers go as text (contract C15)."""
        numbers: dict[str, Any] = {"personal_number": 38001019999, "phone": (370, 60000000)}
        documents = [{"resource_id": "r-1", "resource_path": "/a"}]
        options = LegacyOptions(first_name="Ada", company_name="Acme", documents=documents, **numbers)
        post = make(CASE_ID, run_request(options=options)).asks(Request)
        assert (
            post.operation,
            post.method,
            post.path,
            post.accept,
            post.repeatable,
        ) == ("prepare", "POST", "/cases", V1, False)
        assert post.json == {
            "firstName": "Ada",
            "personalNumber": "38001019999",
            "companyName": "Acme",
            "phone": {"countryCode": "370", "number": "60000000"},
            "documents": [{"resourceId": "r-1", "resourcePath": "/a"}],
        }

    def test_parameters_are_sent_for_the_definition(self) -> None:
        """POST /parameters names the definition that they are for."""
        post = make(PARAMETERS_ID, run_request(parameters={"a": [1.5, True, "x"]})).asks(Request)
        assert (post.path, post.accept, post.repeatable) == ("/parameters", V2, False)
        assert post.json == {"workflowDefinitionId": "kyc-approve", "parameters": {"a": [1.5, True, "x"]}}

    @pytest.mark.parametrize("status", [200, 201, 202])
    @pytest.mark.parametrize(
        ("name", "members"),
        [
            (CASE_ID, {"caseId": "made-1", "partyId": "p"}),
            (CASE_ID, {"id": "made-1"}),
            (PARAMETERS_ID, {"parametersId": "made-1", "id": "other"}),
            (PARAMETERS_ID, {"id": "made-1"}),
        ],
    )
    def test_made_id_is_read_under_either_name(self, name: str, members: dict[str, str], status: int) -> None:
        """The answer of POST /parameters was never seen: parametersId or id, any 2xx (contract C18)."""
        assert make(name, run_request(options=NEW_CASE)).reply(response(status, members)).returned == "made-1"

    @pytest.mark.parametrize("members", [{}, {"caseId": 7}, {"caseId": "../x"}, {"case_id": "c"}])
    def test_answer_without_an_id_is_invalid(self, members: dict[str, Any]) -> None:
        """An id that is missing, of the wrong type or not safe in a path is none."""
        with pytest.raises(InvalidAnswer, match="POST /cases without a usable caseId"):
            make(CASE_ID, run_request(options=NEW_CASE)).reply(response(201, members))

    def test_refusal_shows_nothing_of_the_person(self) -> None:
        """What the service says is kept without what was sent."""
        said = refusal_document(f"{FIRST_NAME} {LAST_NAME} with {DOCUMENT_NUMBER} exists", code="CASE_EXISTS")
        with pytest.raises(InvalidRequest, match="the case for definition kyc-approve") as caught:
            make(CASE_ID, run_request(options=NEW_CASE)).reply(response(400, said))
        assert found_in(str(caught.value)) == []
        assert caught.value.codes == ("CASE_EXISTS",)


class TestRun:
    def test_version_1_names_the_case(self) -> None:
        """A case that exists, or the one that was made, and the parameters that were made."""
        for options, known in ((ABOUT_CASE, {}), (NEW_CASE, {CASE_ID: OTHER_ID})):
            post = run(run_request(options=options), known | {PARAMETERS_ID: "p-1"}).asks(Request)
            assert (
                post.operation,
                post.method,
                post.path,
                post.accept,
                post.repeatable,
            ) == ("run", "POST", "/workflows/run", V1, False)
            assert post.json == {"workflowDefinitionId": "kyc-approve", "caseId": OTHER_ID, "parametersId": "p-1"}

    def test_version_2_may_name_a_record(self) -> None:
        """recordId is optional there."""
        post = run(run_request(record_id=OTHER_ID), {PARAMETERS_ID: "p-1"}).asks(Request)
        assert post.accept == V2
        assert post.json == {"workflowDefinitionId": "kyc-approve", "recordId": OTHER_ID, "parametersId": "p-1"}

    def test_answer_may_be_of_an_execution_that_has_ended(self) -> None:
        """A run may finish before its start is answered."""
        execution = run(run_request(parameters={})).reply(response(200, answer(status="COMPLETED"))).returned
        assert (execution.id, execution.status, execution.is_terminal) == (EXECUTION_ID, Status.SUCCEEDED, True)

    @pytest.mark.parametrize("member", ["caseId", "recordId"])
    def test_case_and_record_are_read_alike(self, member: str) -> None:
        """Which of the two comes depends on the version that the service takes the request for (contract C2)."""
        execution = run(run_request(parameters={})).reply(response(200, answer(**{member: OTHER_ID}))).returned
        assert execution.record_id == OTHER_ID

    def test_there_is_never_a_link(self) -> None:
        """These definitions have no hosted page, so nothing in an answer is taken for one."""
        execution = run(run_request(parameters={})).reply(response(200, answer(link="https://l", token="t"))).returned
        assert (execution.link, execution.token, execution.is_interactive) == (None, None, False)

    def test_unknown_definition(self) -> None:
        """A 404 is about the definition."""
        with pytest.raises(NotFound, match="does not know workflow definition kyc-approve"):
            run(run_request(parameters={})).reply(response(404, refusal_document()))

    def test_refusal_shows_nothing_of_what_earlier_requests_sent(self) -> None:
        """Case and parameters went in other requests, and are scrubbed from this one's error all the same."""
        said = refusal_document(f"Party {LAST_NAME}: document {DOCUMENT_NUMBER} is void")
        request = run_request(options=evolve(NEW_CASE, personal_number=None), parameters={"n": DOCUMENT_NUMBER})
        with pytest.raises(InvalidRequest) as caught:
            run(request, {CASE_ID: "c", PARAMETERS_ID: "p"}).reply(response(400, said))
        assert found_in(str(caught.value)) == []

    @pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (500, ServerError)])
    def test_other_refusals_have_the_common_classes(self, status: int, error: type[TransactionlinkError]) -> None:
        """As everywhere."""
        with pytest.raises(error):
            run(run_request(parameters={})).reply(response(status))


class TestAfterwards:
    def test_result_is_the_raw_object(self) -> None:
        """Whichever members it has (contract C17)."""
        members = {"createdDate": "2026-01-01", "caseId": "c", "partyId": "p", "custom": {"a": 1}}
        assert members == Hand(SERVICE.result(EXECUTION_ID, once)).reply(response(200, members)).returned

    @pytest.mark.parametrize(("status", "error"), [("RUNNING", ResultNotReady), ("COMPLETED", NoResult)])
    def test_missing_result_is_told_apart_by_the_status(self, status: str, error: type[TransactionlinkError]) -> None:
        """A 404 of the result means not yet, or none (contract C12)."""
        hand = Hand(SERVICE.result(EXECUTION_ID, once)).reply(response(404))
        with pytest.raises(error):
            hand.reply(response(200, answer(status=status)))

    def test_cancel_is_refused_without_a_request(self) -> None:
        """There is no endpoint to cancel with, and the error says what happens instead."""
        assert not SERVICE.can_cancel
        with pytest.raises(NotSupported, match=r"cannot cancel: execution .* goes on") as caught:
            SERVICE.cancel(EXECUTION_ID, once)
        assert (caught.value.execution_id, caught.value.retryable) == (EXECUTION_ID, False)

    def test_deadline_of_what_cannot_be_cancelled(self) -> None:
        """The wait ends, says that the execution goes on, and records no cancel that never was."""
        world = World([response(200, answer())] * 2)
        world.ledger.claim("k", event(State.INTENT), None)
        started = world.ledger.append("k", event(State.STARTED, execution_id=EXECUTION_ID))
        clock = world.clock.clock()
        waiting = wait(
            SERVICE,
            handle(key="k", deadline=NOW + 1),
            Patience(pacing=Pacing.every(2)),
            send=once,
            repeat=once,
            clock=clock,
            rng=random.Random(1),
        )
        with pytest.raises(WaitTimeout, match="It goes on: this service cannot cancel it") as caught:
            world.drive(waiting)
        assert (caught.value.cancelled, world.ledger.read("k")) == (False, started)
        assert {request.operation for request in world.requests} == {"poll"}

    def test_check_asks_for_what_cannot_exist(self) -> None:
        """A 404 shows that the credential is accepted."""
        hand = Hand(SERVICE.check(OTHER_ID, once))
        assert f"/workflows/{OTHER_ID}" == hand.asks(Request).path
        assert hand.reply(response(404)).returned is None
