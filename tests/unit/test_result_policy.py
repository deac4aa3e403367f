"""
What a policy lets a step hand on of a result, and where to: the same for every adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.builders import EXECUTION_ID, execution
from tl_orchestration.errors import InvalidRequest, InvalidSettings, ResultShapeChanged, StorageFailed
from tl_orchestration.outcome import OutcomeRules
from tl_orchestration.result_policy import MODES, Handover, ResultPolicy
from tl_orchestration.result_uri import ResultUri
from tl_orchestration.status import Status

DOCUMENT = {"decision": "approve", "riskScore": 12, "customer": {"lastName": "PLANTED"}, "reasons": ["PLANTED"]}
ENDED = execution(Status.SUCCEEDED)


def policy(*, forbids_full: bool = False, result_uri_prefixes: Any = None) -> ResultPolicy:
    """Of a keeper who forbids nothing that the test does not name."""
    return ResultPolicy(owner="The keeper", forbids_full=forbids_full, result_uri_prefixes=result_uri_prefixes)


def handover(result: Any = "reference", *, forbids_full: bool = False, **rules: Any) -> Handover:
    """What a step hands on by these rules."""
    return policy(forbids_full=forbids_full).handover(result, OutcomeRules(**rules))


class Storage:
    """What was written, and where to."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str, Mapping[str, Any]]] = []

    def __call__(self, uri: ResultUri, execution_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
        self.written.append((str(uri), execution_id, document))
        return {"result_uri": str(uri), "sha256": "ab", "size": 7}


class TestAsked:
    @pytest.mark.parametrize("mode", MODES)
    def test_mode_goes_to_no_storage(self, mode: str) -> None:
        """And needs no prefixes, which may be unreadable."""
        chosen = policy(result_uri_prefixes="kyc").handover(mode, OutcomeRules())
        assert chosen.uri is None
        assert chosen.need_result is (mode == "full")

    @pytest.mark.parametrize("result", ["everything", "", None, True, 7, ["full"], {"full": 1}])
    def test_neither_a_mode_nor_a_storage_is_refused(self, result: Any) -> None:
        """With what it may be."""
        with pytest.raises(InvalidRequest, match="'reference', 'full', 'none' or the URI of a storage"):
            handover(result)

    def test_uri_is_read_by_its_own_laws(self) -> None:
        """What may hold a credential is refused, and quoted nowhere."""
        with pytest.raises(InvalidRequest, match="password") as caught:
            handover("s3://key:PLANTED@bucket/")
        assert "PLANTED" not in str(caught.value)

    def test_full_result_is_refused_where_it_is_forbidden(self) -> None:
        """By whom, and what to do instead; a storage is another matter."""
        with pytest.raises(InvalidRequest, match=r"^The keeper forbids result='full'\. Name what you need"):
            handover("full", forbids_full=True)
        assert handover("s3://bucket/kyc/", forbids_full=True).uri == ResultUri.parse("s3://bucket/kyc/")

    @pytest.mark.parametrize(
        "expression",
        [
            "to_string(@)",
            "optional: to_string(@)",
            "[0] || to_string ( @ )",
            "(to_string)(@)",
            "((join))\n(',', values(@))",
            "join(',', values(@))",
            "customer.to_string(@)",
            "reasons[0:2] | map(&to_string(@), @) | [0]",
            "reasons[?to_string(@) != 'x'] | [0]",
            "{a: [length(to_string(@))]}.a[0]",
        ],
    )
    def test_field_that_makes_a_text_is_refused_where_full_results_are_forbidden(self, expression: str) -> None:
        """However it is written, and before there is a result; elsewhere it is a field as any other."""
        with pytest.raises(InvalidRequest, match=r"^The keeper forbids full results, and result_fields\['all'\] makes"):
            handover(forbids_full=True, result_fields={"decision": "decision", "all": expression})
        assert handover(result_fields={"all": expression}).need_result

    @pytest.mark.parametrize("expression", ["to_string", "'join(x)'", "rejoin", "not_null(to_string, `1`)"])
    def test_word_that_is_no_call_is_a_field(self, expression: str) -> None:
        """Of a member or a literal of that name nothing is made."""
        assert handover(forbids_full=True, result_fields={"one": expression}).need_result

    def test_verdicts_may_make_texts(self) -> None:
        """They hand on nothing of what they look at."""
        assert handover(forbids_full=True, fail_when="contains(to_string(@), 'sanctions')").need_result


class TestPrefixes:
    @pytest.mark.parametrize("named", [None, "", []])
    def test_none_restrict_nothing(self, named: Any) -> None:
        """Neither what has a URI nor what has none."""
        policy(result_uri_prefixes=named).check_uri(ResultUri.parse("s3://b/"), "that")
        policy(result_uri_prefixes=named).check_uri(None, "that")

    def test_uri_below_one_of_them_is_allowed(self) -> None:
        """Whichever it is."""
        bound = policy(result_uri_prefixes="s3://b/in, file:///kyc/")
        bound.check_uri(ResultUri.parse("file:///kyc/e1.json"), "that")
        assert bound.handover("s3://b/in/2026/", OutcomeRules()).uri == ResultUri.parse("s3://b/in/2026/")

    @pytest.mark.parametrize("text", ["s3://b/in-old/", "s3://other@b/in/", "file:///kyc2/", None])
    def test_what_is_below_none_is_refused(self, text: str | None) -> None:
        """Also a place that no URI names; it is said who decides, what is allowed, and what was not."""
        uri = None if text is None else ResultUri.parse(text)
        bound = policy(result_uri_prefixes=["s3://b/in/", "file:///kyc/"])
        with pytest.raises(InvalidRequest) as caught:
            bound.check_uri(uri, "the output")
        assert str(caught.value) == (
            "The keeper allows results only below s3://b/in/, file:///kyc/ (result_uri_prefixes), and the output is"
            " not."
        )

    def test_step_is_bound(self) -> None:
        """By the same test."""
        with pytest.raises(InvalidRequest, match=r"only below s3://b/ .*, and the URI given as result is not"):
            policy(result_uri_prefixes=["s3://b/"]).handover("s3://c/", OutcomeRules())

    def test_unreadable_ones_allow_nothing(self) -> None:
        """A mistake is no licence, and is not quoted by the policy's own text."""
        bound = policy(result_uri_prefixes="s3://key:PLANTED@b/")
        for uri in (ResultUri.parse("s3://b/"), None):
            with pytest.raises(InvalidSettings, match="result_uri_prefixes"):
                bound.check_uri(uri, "that")
        assert "PLANTED" not in repr(bound)


class TestReturned:
    def test_reference_needs_no_result(self) -> None:
        """Id and status are known without it, and nothing is written."""
        chosen, storage = handover(), Storage()
        assert not chosen.need_result
        returns = {"execution_id": EXECUTION_ID, "status": "SUCCEEDED", "fields": {}}
        assert chosen.returned(ENDED, None, storage) == ("pass", returns)
        assert chosen.returned(ENDED, DOCUMENT, storage) == ("pass", returns)
        assert storage.written == []

    def test_result_that_is_needed_and_not_there_is_no_success(self) -> None:
        """A verdict is not passed by forgetting what it is about."""
        with pytest.raises(AssertionError):
            handover(fail_when="decision == 'reject'").returned(ENDED, None, Storage())

    def test_fields_are_handed_on(self) -> None:
        """And nothing else of the result."""
        fields = {"decision": "decision", "risk": "riskScore", "absent": "optional: nowhere"}
        _, returns = handover(result_fields=fields, forbids_full=True).returned(ENDED, DOCUMENT, Storage())
        assert returns["fields"] == {"decision": "approve", "risk": 12, "absent": None}
        assert "PLANTED" not in str(returns)

    def test_full_result_is_handed_on_where_it_is_asked_for(self) -> None:
        """Whole, and to no storage."""
        storage = Storage()
        _, returns = handover("full").returned(ENDED, DOCUMENT, storage)
        assert returns["result"] == DOCUMENT
        assert storage.written == []

    def test_result_goes_to_the_storage(self) -> None:
        """The step hands on what the storage says of it, and not the result."""
        storage = Storage()
        verdict, returns = handover("s3://bucket/kyc/").returned(ENDED, DOCUMENT, storage)
        assert (verdict, storage.written) == ("pass", [("s3://bucket/kyc/", EXECUTION_ID, DOCUMENT)])
        assert set(returns) == {"execution_id", "status", "fields", "result_uri", "sha256", "size"}

    @pytest.mark.parametrize("expression", ["@", "customer", "reasons", "values(@)", "[customer.lastName]"])
    def test_object_in_a_field_counts_as_a_full_result(self, expression: str) -> None:
        """Where full results are forbidden, fields hold single values; what is refused is not written either."""
        storage, fields = Storage(), {"decision": "decision", "all": expression}
        with pytest.raises(InvalidRequest, match=r"^The keeper forbids .*'all'\] selects an object") as caught:
            handover("s3://b/", forbids_full=True, result_fields=fields).returned(ENDED, DOCUMENT, storage)
        assert caught.value.execution_id == EXECUTION_ID
        assert "PLANTED" not in str(caught.value)
        assert storage.written == []
        assert handover(result_fields=fields).returned(ENDED, DOCUMENT, storage)[1]["fields"]["all"]

    @pytest.mark.parametrize("verdict", ["fail", "skip"])
    def test_verdict_comes_first(self, verdict: str) -> None:
        """What it stops is neither read nor handed on nor written."""
        storage = Storage()
        rules: dict[str, Any] = {f"{verdict}_when": "riskScore < `50`", "result_fields": {"gone": "renamed"}}
        assert handover("s3://b/", **rules).returned(ENDED, DOCUMENT, storage) == (verdict, {})
        assert storage.written == []

    @pytest.mark.parametrize("rules", [{"fail_when": "renamed == 'X'"}, {"result_fields": {"gone": "renamed"}}])
    def test_what_cannot_be_read_writes_nothing(self, rules: dict[str, Any]) -> None:
        """It fails closed."""
        storage = Storage()
        with pytest.raises(ResultShapeChanged):
            handover("s3://b/", **rules).returned(ENDED, DOCUMENT, storage)
        assert storage.written == []

    def test_storage_that_fails_fails_the_step(self) -> None:
        """By its own error."""

        def store(*_: Any) -> dict[str, Any]:
            raise StorageFailed("It is away.")

        with pytest.raises(StorageFailed):
            handover("s3://b/").returned(ENDED, DOCUMENT, store)
