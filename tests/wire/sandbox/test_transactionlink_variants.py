"""
The variants of the current API, each by what it does.
"""

import re

import pytest

from tests.wire.sandbox.legacy.user import Legacy
from tests.wire.sandbox.users import NOBODY, UUID4, Sandbox, assert_refused, at
from tl_orchestration.sandbox.settings import SANDBOX_JWT


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
