"""
The page behind a link, on which a person decides.
"""

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.wire.sandbox.users import Sandbox, assert_refused, running


class TestReview:
    @pytest.mark.parametrize("decision", ["approve", "reject"])
    def test_waits_for_a_person(self, sandbox: Sandbox, decision: str) -> None:
        """kyc-review runs until a person decides on the page behind its link; the result says the decision."""
        execution = sandbox.start("kyc-review", parameters={"firstName": "Ada"})
        assert parse_qs(urlsplit(execution["link"]).query) == {"token": [execution["token"]]}
        assert execution["link"].startswith(f"{sandbox.server.url}/hosted?")
        sandbox.advance(1799)
        assert sandbox.status(execution) == "RUNNING"
        assert sandbox.get(execution).json() == execution

        page = sandbox.http.get(execution["link"])
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert '<html lang="en">' in page.text
        assert "kyc-review" in page.text
        assert "RUNNING" in page.text
        assert 'method="post"' in page.text
        assert re.findall(r'name="decision" value="(\w+)"', page.text) == ["approve", "reject"]
        assert not re.search(r"(src|href)\s*=|url\(|@import", page.text)

        outcome = sandbox.decide(execution, decision)
        assert outcome.status_code == 200
        assert {"approve": "approved", "reject": "rejected"}[decision] in outcome.text
        assert "<form" not in outcome.text
        assert sandbox.status(execution) == "COMPLETED"
        result = sandbox.result(execution).json()
        assert result["decision"] == decision
        assert result["customer"] == {"firstName": "Ada"}

    def test_is_decided_once(self, sandbox: Sandbox) -> None:
        """Page and form of a finished review say so, and the first decision stands."""
        execution = sandbox.start("kyc-review")
        sandbox.decide(execution, "reject")
        page = sandbox.http.get(execution["link"])
        assert page.status_code == 200
        assert "already finished" in page.text
        assert "<form" not in page.text
        again = sandbox.decide(execution, "approve")
        assert again.status_code == 409
        assert "already finished" in again.text
        assert sandbox.result(execution).json()["decision"] == "reject"

    @pytest.mark.parametrize("end", ["cancel", "expiry"])
    def test_cannot_be_decided_after_its_end(self, sandbox: Sandbox, end: str) -> None:
        """A cancelled or expired review takes no decision."""
        execution = sandbox.start("kyc-review")
        if end == "cancel":
            sandbox.cancel(execution)
        else:
            sandbox.advance(3600)
        before = sandbox.status(execution)
        assert "already finished" in sandbox.http.get(execution["link"]).text
        assert sandbox.decide(execution, "approve").status_code == 409
        assert sandbox.status(execution) == before == ("CANCELLED" if end == "cancel" else "EXPIRED")

    def test_wrong_token(self, sandbox: Sandbox) -> None:
        """A token that opens nothing is a 404 page, and is not repeated in it."""
        sandbox.start("kyc-review")
        sandbox.start("kyc-approve")
        for answer in (
            sandbox.http.get("/hosted"),
            sandbox.http.get("/hosted", params={"token": "<b>"}),
            sandbox.http.post("/hosted", data={"token": "<b>", "decision": "approve"}),
            sandbox.http.post("/hosted", content=b"\xff"),
        ):
            assert answer.status_code == 404
            assert answer.headers["content-type"].startswith("text/html")
            assert "<b>" not in answer.text

    @pytest.mark.parametrize("data", [{}, {"decision": ""}, {"decision": "maybe"}])
    def test_wrong_decision(self, sandbox: Sandbox, data: dict[str, str]) -> None:
        """Anything but approve or reject is a 400 page and decides nothing."""
        execution = sandbox.start("kyc-review")
        assert sandbox.http.post("/hosted", data={"token": execution["token"], **data}).status_code == 400
        assert sandbox.status(execution) == "RUNNING"

    def test_page_is_escaped(self, sandbox: Sandbox) -> None:
        """Markup in a definition's name or status stays text."""
        sandbox.control("PUT", "/definitions/<script>&", {"like": "kyc-review", "active_status": "<img src=x>"})
        page = sandbox.http.get(sandbox.start("<script>&")["link"])
        assert "&lt;script&gt;&amp;" in page.text
        assert "&lt;img src=x&gt;" in page.text
        assert "<script" not in page.text
        assert "<img" not in page.text

    def test_work_after_the_decision(self, sandbox: Sandbox) -> None:
        """A duration of an interactive definition counts from the decision, and only from there."""
        sandbox.change("kyc-review", duration=60, active_status="AWAITING")
        execution = sandbox.start("kyc-review")
        sandbox.advance(600)
        sandbox.decide(execution, "approve")
        assert sandbox.decide(execution, "reject").status_code == 409
        sandbox.advance(59)
        assert sandbox.status(execution) == "AWAITING"
        assert_refused(sandbox.result(execution), 404)
        sandbox.advance(1)
        assert sandbox.status(execution) == "COMPLETED"

    def test_link_may_be_told_only_once(self) -> None:
        """The other variant of the undocumented case: the status answer repeats neither link nor token."""
        with running(link_in_status=False) as sandbox:
            execution = sandbox.start("kyc-review")
            status = sandbox.get(execution).json()
            assert execution == status | {"link": execution["link"], "token": execution["token"]}
            assert not {"link", "token"} & set(status)

    def test_public_url(self) -> None:
        """The link is under public_url where that is set."""
        with running(public_url="https://sandbox.example/base/") as sandbox:
            execution = sandbox.start("kyc-review")
            assert execution["link"] == f"https://sandbox.example/base/hosted?token={execution['token']}"
