"""
What a try may do, by what the ledger holds of its step.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest
from attrs import evolve

from tests.builders import SAME
from tests.unit.start.tries import STEP, held
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidRequest,
    KeyPurged,
    LedgerError,
    NoAnswer,
    NotFound,
    PermissionDenied,
    RateLimited,
    RequestChanged,
    ServerError,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.ledger.entry import State
from tl_orchestration.start import Attach, Begin, Step, decide, is_unknown_fate
from tl_orchestration.status import Status

OTHER = Fingerprint(digest="ef" * 32, key_id=SAME.key_id)
ROTATED = Fingerprint(digest="ef" * 32, key_id="01" * 8)
ATTACH = Attach("e-1")
BEGIN = Begin()
BEGIN_AFTER_CANCEL = Begin(cancel_first="e-1")
BEGIN_ONCE_ENDED = Begin(cancel_first="e-1", own=True)
#: Outcome by state: same generation, then another generation; by default settings, with retry_failed, with restart.
DECISIONS: dict[State, tuple[Any, Any, Any, Any, Any, Any]] = {
    State.INTENT: (StartOutcomeUnknown, StartOutcomeUnknown, BEGIN, StartOutcomeUnknown, StartOutcomeUnknown, BEGIN),
    State.UNKNOWN: (StartOutcomeUnknown, StartOutcomeUnknown, BEGIN, StartOutcomeUnknown, StartOutcomeUnknown, BEGIN),
    State.STARTED: (ATTACH, ATTACH, ATTACH, BEGIN_AFTER_CANCEL, BEGIN_AFTER_CANCEL, BEGIN_AFTER_CANCEL),
    State.LINK_DELIVERED: (ATTACH, ATTACH, ATTACH, BEGIN_AFTER_CANCEL, BEGIN_AFTER_CANCEL, BEGIN_AFTER_CANCEL),
    State.CANCEL_REQUESTED: (
        ATTACH,
        BEGIN_ONCE_ENDED,
        ATTACH,
        BEGIN_AFTER_CANCEL,
        BEGIN_AFTER_CANCEL,
        BEGIN_AFTER_CANCEL,
    ),
    State.SETTLED: (ATTACH, BEGIN, ATTACH, BEGIN, BEGIN, BEGIN),
    State.REJECTED: (BEGIN, BEGIN, BEGIN, BEGIN, BEGIN, BEGIN),
}
CASES = [
    (state, generation, options, outcome)
    for state, outcomes in DECISIONS.items()
    for (generation, options), outcome in zip(
        [
            (generation, options)
            for generation in ("0", "1")
            for options in ({}, {"retry_failed": True}, {"on_unknown_start": "restart"})
        ],
        outcomes,
        strict=True,
    )
]


class TestDecide:
    @pytest.mark.parametrize(("state", "generation", "options", "outcome"), CASES)
    def test_every_state_generation_and_policy(
        self, state: State, generation: str, options: dict[str, Any], outcome: Any
    ) -> None:
        """What a try does follows from state, generation and policy alone."""
        step = Step(key="k", generation=generation, **options)
        if isinstance(outcome, type):
            with pytest.raises(outcome):
                decide(held(state), step, SAME)
        else:
            assert outcome == decide(held(state), step, SAME)

    def test_step_without_an_entry_begins(self) -> None:
        """Nothing recorded means nothing started."""
        assert decide(None, STEP, SAME) == BEGIN

    @pytest.mark.parametrize("status", [*Status])
    def test_success_is_never_run_again(self, status: Status) -> None:
        """retry_failed opens a new attempt after every ending but a success."""
        step = Step(key="k", generation="0", retry_failed=True)
        expected = ATTACH if status is Status.SUCCEEDED else BEGIN
        assert expected == decide(held(State.SETTLED, status=status.value), step, SAME)

    @pytest.mark.parametrize("status", [*Status])
    def test_accepted_partial_is_never_run_again(self, status: Status) -> None:
        """Where PARTIAL is accepted it is a success, and no other ending becomes one."""
        step = Step(key="k", generation="0", retry_failed=True, on_partial="accept")
        expected = ATTACH if status in {Status.SUCCEEDED, Status.PARTIAL} else BEGIN
        assert expected == decide(held(State.SETTLED, status=status.value), step, SAME)

    @pytest.mark.parametrize("state", [State.INTENT, State.UNKNOWN])
    def test_one_restart_per_generation(self, state: State) -> None:
        """A second unknown fate in one generation is not restarted; another generation may restart once."""
        step = Step(key="k", generation="0", on_unknown_start="restart")
        with pytest.raises(StartOutcomeUnknown):
            decide(held(state, restarts=1), step, SAME)
        assert decide(held(state, restarts=1), evolve(step, generation="1"), SAME) == BEGIN

    @pytest.mark.parametrize("state", [State.INTENT, State.UNKNOWN])
    def test_unknown_fate_names_the_way_out(self, state: State) -> None:
        """The error names the key, the commands, and an execution if the service named one."""
        with pytest.raises(StartOutcomeUnknown) as caught:
            decide(held(state, execution_id="e-7"), STEP, SAME)
        assert (STEP.key, "e-7") == (caught.value.key, caught.value.execution_id)
        for words in ("named execution e-7", "tl ledger adopt dag/run/task", "tl ledger not-started dag/run/task"):
            assert words in str(caught.value)
        assert not caught.value.retryable

    @pytest.mark.parametrize(("named", "absent"), [("e-7", "no usable answer"), (None, "the service's answer named")])
    def test_unknown_fate_says_what_happened(self, named: str | None, absent: str) -> None:
        """An answer that named an execution has arrived; without one, none that could be used has."""
        with pytest.raises(StartOutcomeUnknown) as caught:
            decide(held(State.UNKNOWN, execution_id=named), STEP, SAME)
        assert "may or may not have started" in str(caught.value)
        assert absent not in str(caught.value)
        assert "never arrived" not in str(caught.value)

    @pytest.mark.parametrize("state", [State.STARTED, State.LINK_DELIVERED, State.CANCEL_REQUESTED, State.SETTLED])
    def test_changed_request_is_refused(self, state: State) -> None:
        """A try that asks for something else than was started fails, unless it may re-attach."""
        with pytest.raises(RequestChanged, match="e-1 for another definition, record or parameters") as caught:
            decide(held(state), STEP, OTHER)
        assert caught.value.execution_id == "e-1"
        assert decide(held(state), evolve(STEP, on_changed_request="reattach"), OTHER) == ATTACH

    @pytest.mark.parametrize(("generation", "way"), [("0", "Clear the step"), ("", "Use another key")])
    def test_changed_request_comes_with_a_way_out(self, generation: str, way: str) -> None:
        """A key without generations is a caller's own: there is nothing to clear."""
        with pytest.raises(RequestChanged, match=f"{way} to start anew, or set on_changed_request='reattach'"):
            decide(held(State.STARTED, generation=generation), evolve(STEP, generation=generation), OTHER)

    def test_changed_request_of_a_new_generation_is_a_new_request(self) -> None:
        """A cleared step may ask for something else."""
        assert decide(held(State.STARTED), evolve(STEP, generation="1"), OTHER) == BEGIN_AFTER_CANCEL

    @pytest.mark.parametrize("recorded", [{}, {"fingerprint": None, "fingerprint_key_id": None}])
    def test_what_cannot_be_compared_goes_on(self, recorded: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
        """After a rotation, or without a recorded digest, a try re-attaches; the rotation is logged."""
        with caplog.at_level(logging.INFO):
            assert decide(held(State.STARTED, **recorded), STEP, ROTATED) == ATTACH
        assert (not recorded) is ("rotated" in caplog.text)

    @pytest.mark.parametrize("state", [State.STARTED, State.SETTLED])
    def test_adopted_execution_outlives_a_generation(self, state: State) -> None:
        """What a person has adopted is taken over by the next generation, not cancelled by it."""
        assert decide(held(state, adopted=True), evolve(STEP, generation="1"), SAME) == ATTACH

    @pytest.mark.parametrize(
        ("consumed_by", "generation", "goes_on"), [(None, "9", True), ("9", "9", True), ("9", "10", False)]
    )
    @pytest.mark.parametrize("state", [State.STARTED, State.SETTLED])
    def test_adopted_execution_serves_one_generation(
        self, state: State, consumed_by: str | None, generation: str, *, goes_on: bool
    ) -> None:
        """The first generation that goes on with an adopted execution keeps it; the next cancels nothing and begins."""
        known = held(state, adopted=True, consumed_by=consumed_by)
        assert (ATTACH if goes_on else BEGIN) == decide(known, evolve(STEP, generation=generation), SAME)

    @pytest.mark.parametrize("generation", ["0", "1"])
    def test_attempt_that_only_prepared_has_started_nothing(self, generation: str) -> None:
        """An intent before which the start was never sent is no unknown fate."""
        assert decide(held(State.INTENT, preparing=True), evolve(STEP, generation=generation), SAME) == BEGIN

    @pytest.mark.parametrize("generation", ["0", "1"])
    def test_purged_key_is_never_used_again(self, generation: str) -> None:
        """Nobody knows what a purged key has started, so no generation and no policy may start with it."""
        step = Step(key="k", generation=generation, retry_failed=True, on_unknown_start="restart")
        with pytest.raises(KeyPurged, match="Use a new key"):
            decide(held(State.PURGED, execution_id=None), step, SAME)

    def test_entry_without_its_id_is_refused(self) -> None:
        """An entry that says STARTED and not what, is no ground for anything."""
        with pytest.raises(LedgerError, match="STARTED without an execution id"):
            decide(held(State.STARTED, execution_id=None), STEP, SAME)


class TestStep:
    @pytest.mark.parametrize("key", ["", " ", "\u3000", "a\nb", "a\x00", "\ud800", "k" * 2001, "ж" * 1001, None, 7])
    def test_unusable_key_is_refused(self, key: Any) -> None:
        """A key that no ledger can keep, or that is nobody's name, is refused before anything is asked."""
        with pytest.raises(InvalidRequest, match="1 to 2000 bytes"):
            Step(key=key)

    @pytest.mark.parametrize("key", ["k", "dag run", "k" * 2000, "ж" * 1000])
    def test_usable_key_stays_as_it_is(self, key: str) -> None:
        """Nothing is trimmed: the key is what the ledger was given before."""
        assert Step(key=key).key == key

    @pytest.mark.parametrize("field", ["on_unknown_start", "on_changed_request", "on_partial"])
    def test_misspelt_policy_is_refused(self, field: str) -> None:
        """A policy is one of its words."""
        with pytest.raises(ValueError, match=field):
            Step(key="k", **{field: cast("Any", "retry")})


class TestUnknownFate:
    @pytest.mark.parametrize(
        ("error", "unknown"),
        [
            (NoAnswer("x", sent=True), True),
            (NoAnswer("x"), True),
            (NoAnswer("x", sent=False), False),
            (ServerError("x", status_code=500), True),
            (ServerError("x", status_code=503), True),
            (ServerError("x", status_code=408), True),
            (InvalidAnswer("x"), True),
            (InvalidRequest("x"), False),
            (AuthenticationError("x"), False),
            (PermissionDenied("x"), False),
            (NotFound("x"), False),
            (RateLimited("x"), False),
        ],
    )
    def test_whatever_may_have_started_is_unknown(self, error: TransactionlinkError, *, unknown: bool) -> None:
        """Every error after the first byte but a definite refusal leaves the fate unknown."""
        assert unknown is is_unknown_fate(error)
