"""Fields and verdicts fail closed: a rejected customer does not pass because something was renamed."""

from __future__ import annotations

import contextlib
import logging
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import EXECUTION_ID, execution
from tests.planted import DOCUMENT_NUMBER, PARAMETERS, found_in
from tl_orchestration.errors import (
    ExecutionCancelled,
    ExecutionExpired,
    ExecutionFailed,
    InvalidRequest,
    ResultShapeChanged,
    TransactionlinkError,
)
from tl_orchestration.outcome import Expression, OutcomeRules
from tl_orchestration.status import Status

RESULT: dict[str, Any] = {
    "decision": "reject",
    "riskScore": 87,
    "approved": False,
    "nothing": None,
    "text": "false",
    "empty": [],
    "zero": 0,
    "scores": [12, 87],
    "reasons": ["sanctions_hit"],
    "checks": [
        {"name": "sanctions", "outcome": "hit", "clear": False},
        {"name": "document", "outcome": "clear", "clear": True},
    ],
    "customer": {"firstName": "Ada", "address": None},
}

REFUSED = "refused"


class TestVerdicts:
    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            # What is there and fits is judged.
            ("decision == 'reject'", True),
            ("decision != 'reject'", False),
            ("decision == 'approve'", False),
            ("riskScore > `80`", True),
            ("riskScore >= `87.0`", True),
            ("riskScore < `80`", False),
            ("approved", False),
            ("!approved", True),
            ("approved == `false`", True),
            ("!(decision == 'approve') && riskScore > `80`", True),
            ("decision == 'approve' || riskScore < `80`", False),
            ("contains(reasons, 'sanctions_hit')", True),
            ("length(checks[?outcome == 'hit']) > `0`", True),
            ("length(checks[?clear]) == `2`", False),
            ("checks[0].outcome == 'hit'", True),
            ("checks[-1].outcome == 'hit'", False),
            ("contains(checks[*].outcome, 'hit')", True),
            ("max(scores) > `80`", True),
            ("decision != `null`", True),
            ("customer.firstName == 'Ada'", True),
            ("`true`", True),
            # A renamed or missing path is no verdict.
            ("verdict == 'reject'", REFUSED),
            ("verdict != 'approve'", REFUSED),
            ("!rejected", REFUSED),
            ("rejected", REFUSED),
            ("customer.lastName == 'x'", REFUSED),
            ("decision.value == 'reject'", REFUSED),
            ("checks[9].outcome == 'hit'", REFUSED),
            ("checks.outcome == 'hit'", REFUSED),
            ("decision[0] == 'r'", REFUSED),
            ("contains(alarms, 'hit')", REFUSED),
            ("length(alarms) > `0`", REFUSED),
            ("length(checks[?result == 'hit']) > `0`", REFUSED),
            ("contains(checks[*].result, 'hit')", REFUSED),
            ("length(alarms[*]) > `0`", REFUSED),
            ("length(decision[*]) > `0`", REFUSED),
            ("length(decision[]) > `0`", REFUSED),
            ("length(riskScore[:1]) > `0`", REFUSED),
            ("length(decision.*) > `0`", REFUSED),
            ("decision == 'approve' && verdict == 'x'", False),
            ("decision == 'reject' && verdict == 'x'", REFUSED),
            ("decision == 'approve' || verdict == 'x'", REFUSED),
            # Null is no verdict, and nothing to compare with a value.
            ("nothing", REFUSED),
            ("nothing == 'reject'", REFUSED),
            ("nothing != 'approve'", REFUSED),
            ("!nothing", REFUSED),
            ("customer.address == 'x'", REFUSED),
            ("max(empty) == `5`", REFUSED),
            ("max(empty) > `5`", REFUSED),
            ("to_number(text) == `5`", REFUSED),
            ("nothing == `null`", REFUSED),
            # Values of the wrong type decide nothing.
            ("riskScore > '80'", REFUSED),
            ("riskScore == '87'", REFUSED),
            ("riskScore == `true`", REFUSED),
            ("approved == `0`", REFUSED),
            ("approved == 'false'", REFUSED),
            ("zero == `false`", REFUSED),
            ("text == `false`", REFUSED),
            ("reasons == 'sanctions_hit'", REFUSED),
            ("!text", REFUSED),
            ("!empty", REFUSED),
            ("!zero", REFUSED),
            ("text && `false`", REFUSED),
            ("empty || `false`", REFUSED),
            ("`false` || text", REFUSED),
            ("`true` && text", REFUSED),
            ("length(checks[?name]) > `5`", REFUSED),
            ("contains(riskScore, '8')", REFUSED),
            ("starts_with(riskScore, '8')", REFUSED),
            ("reasons > `1`", REFUSED),
            # A verdict is true or false.
            ("decision", REFUSED),
            ("riskScore", REFUSED),
            ("zero", REFUSED),
            ("empty", REFUSED),
            ("reasons[0]", REFUSED),
            ("customer", REFUSED),
            ("@", REFUSED),
            ("`null`", REFUSED),
            ("no_such_function(decision)", REFUSED),
            ("length(decision, decision) > `1`", REFUSED),
            (f"avg([`1{'0' * 400}`]) > `1`", REFUSED),
            # With optional: a path may be absent, and absent is null.
            ("optional: verdict == 'reject'", False),
            ("optional: verdict != 'approve'", True),
            ("optional: verdict", False),
            ("optional: nothing", False),
            ("optional: riskScore > `80`", True),
            ("optional: score > `80`", False),
            ("optional:approved", False),
            ("optional: decision", REFUSED),
            ("optional: zero", REFUSED),
            ("optional: contains(alarms, 'x')", REFUSED),
        ],
    )
    def test_table(self, expression: str, expected: object) -> None:
        """A verdict is a boolean from paths that are there and types that fit, or ResultShapeChanged."""
        rules = OutcomeRules(fail_when=expression)
        if expected is REFUSED:
            with pytest.raises(ResultShapeChanged, match="fail_when"):
                rules.verdict(RESULT)
        else:
            assert ("fail" if expected else "pass") == rules.verdict(RESULT)

    @pytest.mark.parametrize(
        "broken",
        [
            {},
            {"decision": None},
            {"decision": 1},
            {"decision": ["reject"]},
            {"Decision": "reject"},
            {"decision ": "reject"},
        ],
    )
    @pytest.mark.parametrize(
        "expression", ["decision == 'reject'", "decision != 'approve'", "!(decision == 'approve')"]
    )
    def test_rejected_customer_never_passes_by_accident(self, broken: dict[str, Any], expression: str) -> None:
        """However the field is renamed or retyped, no verdict about it comes out."""
        with pytest.raises(ResultShapeChanged):
            OutcomeRules(fail_when=expression).verdict(broken)
        with pytest.raises(ResultShapeChanged):
            OutcomeRules(skip_when=expression).verdict(broken)

    @pytest.mark.parametrize(
        ("rules", "expected"),
        [
            ({}, "pass"),
            ({"fail_when": "approved"}, "pass"),
            ({"fail_when": "!approved"}, "fail"),
            ({"skip_when": "!approved"}, "skip"),
            ({"fail_when": "!approved", "skip_when": "!approved"}, "fail"),
            ({"fail_when": "approved", "skip_when": "!approved"}, "skip"),
        ],
    )
    def test_failing_comes_before_skipping(self, rules: dict[str, Any], expected: str) -> None:
        """fail_when is asked first; without rules everything passes."""
        assert expected == OutcomeRules(**rules).verdict(RESULT)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner),
            max_leaves=6,
        ),
        st.sampled_from(
            ["a", "!a", "a && b", "a || b", "a == b", "a < b", "a[0]", "a[?b]", "a.b", "contains(a, b)", "a[]", "a.*"]
        ),
    )
    def test_any_result_gives_a_boolean_or_our_error(self, value: object, expression: str) -> None:
        """Law: whatever the result, a verdict is true, false or ResultShapeChanged."""
        with contextlib.suppress(ResultShapeChanged):
            assert isinstance(Expression(expression).holds({"a": value, "b": True}, what="fail_when"), bool)


class TestFields:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("decision", "reject"),
            ("riskScore", 87),
            ("customer.firstName", "Ada"),
            ("checks[?outcome == 'hit'].name", ["sanctions"]),
            ("checks[*].name", ["sanctions", "document"]),
            ("{d: decision, s: riskScore}", {"d": "reject", "s": 87}),
            ("[decision, riskScore]", ["reject", 87]),
            ("nothing", None),
            ("customer.address", None),
            ("nothing || decision", "reject"),
            ("text || decision", "false"),
            ("optional: verdict", None),
            ("optional: customer.lastName", None),
            ("optional: decision", "reject"),
            ("length(reasons)", 1),
            ("verdict", REFUSED),
            ("customer.lastName", REFUSED),
            ("nothing.x", REFUSED),
            ("checks[5]", REFUSED),
            ("checks[*].result", REFUSED),
            ("{d: verdict}", REFUSED),
            ("[decision, verdict]", REFUSED),
            ("verdict || decision", REFUSED),
            ("length(riskScore)", REFUSED),
            ("riskScore == '87'", REFUSED),
        ],
    )
    def test_table(self, path: str, expected: object) -> None:
        """A field is what its path finds; an absent path is an error, a null is a value."""
        rules = OutcomeRules(result_fields={"field": path})
        if expected is REFUSED:
            with pytest.raises(ResultShapeChanged, match=r"result_fields\['field'\]"):
                rules.fields(RESULT)
        else:
            assert {"field": expected} == rules.fields(RESULT)

    def test_all_or_nothing(self) -> None:
        """One field that cannot be read is the error of all."""
        with pytest.raises(ResultShapeChanged):
            OutcomeRules(result_fields={"a": "decision", "b": "verdict"}).fields(RESULT)

    def test_no_fields(self) -> None:
        """Without rules there are no fields, and no need for the result."""
        rules = OutcomeRules()
        assert rules.fields(RESULT) == {}
        assert not rules.need_result

    @pytest.mark.parametrize("rules", [{"result_fields": {"a": "b"}}, {"fail_when": "a"}, {"skip_when": "a"}])
    def test_any_rule_needs_the_result(self, rules: dict[str, Any]) -> None:
        """Every rule about the result needs it."""
        assert OutcomeRules(**rules).need_result


class TestSecrecy:
    @pytest.mark.parametrize(
        "expression",
        [
            "contains(document.issued[0], 'x')",
            "starts_with(document, 'x')",
            "length(document.issued[0]) > `1`",
            "to_number(firstName) > `1`",
            "sum([firstName])",
            "firstName",
            "firstName == `1`",
            "max([firstName, document.issued[0]]) == `1`",
            "missing",
        ],
    )
    def test_error_quotes_nothing_of_the_result(self, expression: str, caplog: pytest.LogCaptureFixture) -> None:
        """Neither the message nor the printed traceback has a value of the result: jmespath's own errors do."""
        with caplog.at_level(logging.DEBUG), pytest.raises(ResultShapeChanged) as caught:
            OutcomeRules(fail_when=expression).verdict(PARAMETERS)
        printed = "".join(traceback.format_exception(caught.value))
        assert found_in(f"{caught.value!r} {printed} {caplog.text}") == []
        assert caught.value.__context__ is None

    def test_rules_show_paths_only(self) -> None:
        """repr of rules shows the expressions."""
        assert "document.number" in repr(OutcomeRules(result_fields={"n": "document.number"}))
        assert DOCUMENT_NUMBER not in repr(OutcomeRules(result_fields={"n": "document.number"}))


class TestExpressions:
    @pytest.mark.parametrize("text", ["", " ", "optional:", "a ==", "a[", "a..b", "'a", "#", "a b", "\x00", "a = b"])
    def test_what_is_no_jmespath_is_refused_when_it_is_written(self, text: str) -> None:
        """A broken expression is found before anything is started."""
        for rules in ({"fail_when": text}, {"skip_when": text}, {"result_fields": {"x": text}}):
            with pytest.raises(InvalidRequest, match="not a JMESPath expression"):
                OutcomeRules(**rules)

    @pytest.mark.parametrize("fields", [{"a": None}, {"a": 7}, {"a": ["b"]}])
    def test_fields_are_texts(self, fields: Any) -> None:
        """A path that is no text is refused."""
        with pytest.raises(InvalidRequest, match="map names to JMESPath"):
            OutcomeRules(result_fields=fields)

    @pytest.mark.filterwarnings("ignore:deprecated string literal syntax:PendingDeprecationWarning")
    @given(st.text(max_size=12) | st.text("ab.[]{}()*?|&!<>='`\"@0 ,:-", max_size=12))
    def test_any_text_compiles_or_is_refused(self, text: str) -> None:
        """Law: a text is an expression or InvalidRequest."""
        with contextlib.suppress(InvalidRequest):
            assert Expression(text).text == text

    def test_policy_for_partial_is_one_of_its_words(self) -> None:
        """A misspelt policy is refused."""
        with pytest.raises(ValueError, match="on_partial"):
            OutcomeRules(on_partial="ignore")  # type: ignore[arg-type]  # what is refused


class TestEnding:
    @pytest.mark.parametrize(
        ("status", "on_partial", "error"),
        [
            (Status.SUCCEEDED, "fail", None),
            (Status.SUCCEEDED, "accept", None),
            (Status.PARTIAL, "fail", ExecutionFailed),
            (Status.PARTIAL, "accept", None),
            (Status.FAILED, "accept", ExecutionFailed),
            (Status.CANCELLED, "accept", ExecutionCancelled),
            (Status.EXPIRED, "accept", ExecutionExpired),
            (Status.UNKNOWN, "accept", ExecutionFailed),
            (Status.PENDING, "accept", ExecutionFailed),
            (Status.RUNNING, "accept", ExecutionFailed),
            (Status.WAITING, "accept", ExecutionFailed),
        ],
    )
    def test_every_status(self, status: Status, on_partial: Any, error: type[TransactionlinkError] | None) -> None:
        """Success is success, PARTIAL as the rules say, and everything else a failure of its own kind."""
        rules = OutcomeRules(on_partial=on_partial)
        if error is None:
            rules.check_ending(execution(status))
        else:
            with pytest.raises(error, match=f"{EXECUTION_ID} ended as {status}") as caught:
                rules.check_ending(execution(status))
            assert error is type(caught.value)
            assert caught.value.execution_id == EXECUTION_ID
