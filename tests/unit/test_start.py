"""A start happens at most once, and is known before anything else happens."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, cast

import pytest
from attrs import evolve

from tests.builders import (
    EXECUTION_ID,
    NOW,
    OTHER_ID,
    SAME,
    FakeClock,
    document,
    entry,
    event,
    refusal_document,
    response,
    run_request,
    told,
)
from tests.driving import Hand
from tl_orchestration.claim import SETTLE_WINDOW
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
from tl_orchestration.exchange import AppendEvent, ClaimStart, ReadLedger, Request, Sleep, once
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.ledger.entry import Entry, State, fold
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.start import Attach, Begin, Step, decide, is_unknown_fate, start_once, start_unrecorded
from tl_orchestration.status import Status

OTHER = Fingerprint(digest="ef" * 32, key_id=SAME.key_id)
ROTATED = Fingerprint(digest="ef" * 32, key_id="01" * 8)
STEP = Step(key="dag/run/task", generation="0")

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


def held(state: State, **fields: Any) -> Entry:
    """What the ledger holds of a step whose execution is e-1, where one is known."""
    known = state not in {State.INTENT, State.UNKNOWN, State.REJECTED}
    defaults: dict[str, Any] = {"execution_id": "e-1" if known else None}
    if state is State.SETTLED:
        defaults |= {"status": "FAILED", "raw_status": "FAILED"}
    if state is State.CANCEL_REQUESTED:
        defaults |= {"cancel_requested": True}
    return entry(state, **defaults | fields)


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


def started(
    held: Entry | None = None,
    *,
    step: Step = STEP,
    request: RunRequest | None = None,
    clock: FakeClock | None = None,
    workspace: str | None = None,
) -> Hand[Execution]:
    """start_once, held at what follows the ledger's answer."""
    clock = clock or FakeClock()
    hand = Hand(
        start_once(
            Transactionlink(now=clock.clock().now, workspace_id=workspace),
            request or run_request(),
            step,
            identity=SAME,
            timeout=3600,
            clock=clock.clock(),
            start=once,
            repeat=once,
        )
    )
    assert step.key == hand.asks(ReadLedger).key
    return hand.reply(held)


def posted(**options: Any) -> Hand[Execution]:
    """start_once, held at its POST."""
    hand = started(**options)
    hand.asks(ClaimStart)
    return hand.reply(entry(State.INTENT))


#: Every way for a start to end without a usable answer: what is thrown or answered, and the error that it is.
UNKNOWN_FATES: list[tuple[Any, type[TransactionlinkError]]] = [
    (NoAnswer("reset", sent=True), NoAnswer),
    (InvalidAnswer("compressed", status_code=200), InvalidAnswer),
    (response(500), ServerError),
    (response(502, body=b"<html>", content_type="text/html"), ServerError),
    (response(503, retry_after="1"), ServerError),
    (response(504), ServerError),
    (response(408), ServerError),
    (response(307, location="https://elsewhere"), InvalidAnswer),
    (response(200), InvalidAnswer),
    (response(204), InvalidAnswer),
    (response(200, body=b"<html>", content_type="text/html"), InvalidAnswer),
    (response(200, body=b"{broken"), InvalidAnswer),
    (response(200, {"status": "RUNNING"}), InvalidAnswer),
    (response(200, {"id": "../x", "status": "RUNNING"}), InvalidAnswer),
    (response(200, []), InvalidAnswer),
]
REFUSALS: list[tuple[Any, type[TransactionlinkError]]] = [
    (response(400, refusal_document()), InvalidRequest),
    (response(401), AuthenticationError),
    (response(403), PermissionDenied),
    (response(404), NotFound),
    (response(409), InvalidRequest),
    (response(422), InvalidRequest),
    (response(429), RateLimited),
    (NoAnswer("refused", sent=False), NoAnswer),
]


def meet(hand: Hand[Execution], outcome: Any) -> Hand[Execution]:
    """Answer a request, or throw where the outcome is an error."""
    return hand.fail(outcome) if isinstance(outcome, Exception) else hand.reply(outcome)


class TestStartOnce:
    def test_intent_is_acknowledged_before_the_post(self) -> None:
        """The ledger is read, then claimed with digest, deadline and expiry; only then is anything sent."""
        hand = started()
        claim = hand.asks(ClaimStart)
        assert hand.requests == []
        assert claim.after is None
        assert (
            event(
                State.INTENT,
                generation="0",
                fingerprint=SAME.digest,
                fingerprint_key_id=SAME.key_id,
                deadline=NOW + 3600,
                expires_at=NOW + 3600,
                settles_at=NOW + SETTLE_WINDOW,
            )
            == claim.intent
        )
        post = hand.reply(entry(State.INTENT)).asks(Request)
        assert (post.method, post.path, post.repeatable) == ("POST", "/workflows", False)

    @pytest.mark.parametrize("held_state", [None, State.REJECTED, State.SETTLED])
    def test_ledger_that_refuses_the_intent_prevents_the_post(self, held_state: State | None) -> None:
        """No acknowledged intent, no POST."""
        known = None if held_state is None else held(held_state)
        hand = started(known, step=evolve(STEP, retry_failed=True))
        assert known is hand.asks(ClaimStart).after
        with pytest.raises(LedgerError):
            hand.fail(LedgerError("somebody else"))
        assert hand.requests == []

    def test_unreadable_ledger_prevents_everything(self) -> None:
        """What cannot be read cannot be claimed."""
        clock = FakeClock().clock()
        hand = Hand(
            start_once(
                Transactionlink(now=clock.now),
                run_request(),
                STEP,
                identity=SAME,
                timeout=60,
                clock=clock,
                start=once,
                repeat=once,
            )
        )
        with pytest.raises(LedgerError):
            hand.fail(LedgerError("down"))
        assert hand.requests == []

    def test_id_is_recorded_before_anything_returns(self) -> None:
        """The answer's id is written down and acknowledged before the caller gets the execution."""
        hand = posted().reply(told())
        record = hand.asks(AppendEvent)
        assert (STEP.key, State.STARTED, EXECUTION_ID) == (record.key, record.event.state, record.event.execution_id)
        assert not hand.done
        execution = hand.reply(entry(State.STARTED, execution_id=EXECUTION_ID)).returned
        assert (execution.id, execution.status, execution.reattached) == (EXECUTION_ID, Status.RUNNING, False)
        assert (STEP.key, NOW + 3600, True) == (
            execution.handle.key,
            execution.handle.deadline,
            execution.handle.owned,
        )

    def test_expiry_is_the_services_else_the_intents(self) -> None:
        """The handle's expiry is what the service answered; where it answered none, what was asked for."""
        recorded = entry(State.STARTED, execution_id=EXECUTION_ID)
        asked = posted().reply(told()).reply(recorded).returned
        assert asked.handle.expires_at == NOW + 1805
        named = posted().reply(told(expiresAt="2026-09-21T16:13:20Z")).reply(recorded).returned
        assert named.handle.expires_at == NOW + 7200

    def test_ledger_that_recovers_records_the_id(self, caplog: pytest.LogCaptureFixture) -> None:
        """A ledger that fails for a moment is asked again; the id is in the log meanwhile."""
        hand = posted().reply(told())
        for _ in range(4):
            hand.fail(LedgerError("down"))
            assert hand.asks(Sleep) == Sleep(1.0, stoppable=False)
            hand.reply(None)
            assert State.STARTED is hand.asks(AppendEvent).event.state
        assert hand.reply(entry(State.STARTED, execution_id=EXECUTION_ID)).returned.id == EXECUTION_ID
        assert f"Execution {EXECUTION_ID} has started but is not recorded yet" in caplog.text
        assert len(hand.requests) == 1

    @pytest.mark.parametrize("failure", [LedgerError("down"), KeyError("a ledger of somebody's own")])
    def test_ledger_that_does_not_recover_is_an_unknown_start_with_an_id(self, failure: Exception) -> None:
        """An execution that could not be recorded is named, with the command to record it; it is not cancelled."""
        hand = posted().reply(told())
        for _ in range(4):
            hand.fail(failure).reply(None)
        with pytest.raises(StartOutcomeUnknown) as caught:
            hand.fail(failure)
        assert (STEP.key, EXECUTION_ID) == (caught.value.key, caught.value.execution_id)
        assert f"tl ledger adopt {STEP.key} {EXECUTION_ID}" in str(caught.value)
        assert [request.method for request in hand.requests] == ["POST"]

    @pytest.mark.parametrize(("outcome", "kind"), REFUSALS)
    def test_refusal_is_recorded_and_raised(self, outcome: Any, kind: type[TransactionlinkError]) -> None:
        """A start that certainly did not happen is REJECTED, and its own error is raised."""
        hand = meet(posted(), outcome)
        record = hand.asks(AppendEvent)
        assert (State.REJECTED, kind.__name__, None) == (
            record.event.state,
            record.event.reason,
            record.event.execution_id,
        )
        with pytest.raises(kind) as caught:
            hand.reply(entry(State.REJECTED))
        assert kind is type(caught.value)
        assert len(hand.requests) == 1

    @pytest.mark.parametrize(("outcome", "kind"), UNKNOWN_FATES)
    def test_unknown_fate_is_recorded_and_named(self, outcome: Any, kind: type[TransactionlinkError]) -> None:
        """A start that may have happened is UNKNOWN, raises StartOutcomeUnknown, and nothing is sent again."""
        hand = meet(posted(), outcome)
        record = hand.asks(AppendEvent)
        assert (State.UNKNOWN, kind.__name__) == (record.event.state, record.event.reason)
        with pytest.raises(StartOutcomeUnknown, match="may or may not have started") as caught:
            hand.reply(entry(State.UNKNOWN))
        assert STEP.key == caught.value.key
        assert isinstance(caught.value.__cause__, kind)
        assert len(hand.requests) == 1

    @pytest.mark.parametrize("outcome", [response(403), NoAnswer("reset", sent=True)])
    def test_ledger_that_cannot_record_a_failure_does_not_hide_it(
        self, outcome: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The start's own failure is raised even if the ledger is down; its intent is on the safe side."""
        hand = meet(posted(), outcome)
        hand.asks(AppendEvent)
        with pytest.raises((PermissionDenied, StartOutcomeUnknown)):
            hand.fail(LedgerError("down"))
        assert "could not be recorded; its intent is" in caplog.text

    def test_start_in_another_workspace_is_an_unknown_start_with_an_id(self) -> None:
        """An execution in the wrong workspace is not gone on with, and not lost: its id is recorded and named."""
        hand = posted(workspace=OTHER_ID).reply(told())
        record = hand.asks(AppendEvent)
        assert (record.event.state, record.event.execution_id) == (State.UNKNOWN, EXECUTION_ID)
        with pytest.raises(StartOutcomeUnknown, match="was started in workspace") as caught:
            hand.reply(entry(State.UNKNOWN))
        assert caught.value.execution_id == EXECUTION_ID

    def test_impossible_expiry_is_found_before_the_intent(self) -> None:
        """A request whose expiry the service would refuse leaves no trace: no intent, no cancel, no POST."""
        request = run_request(expires_at="2026-09-21T14:20:00Z")
        for known in (None, held(State.STARTED, generation="old")):
            with pytest.raises(InvalidRequest, match="between 30 minutes"):
                started(known, request=request)

    def test_unexpected_answers_of_a_start_keep_its_id(self) -> None:
        """A start is known by its id: a status that is missing or odd is not worth losing it."""
        for status in (None, "", "  ", "x" * 65, "RUN\nNING", 7, ["RUNNING"]):
            hand = posted().reply(response(200, document(None) | {"status": status}))
            execution = hand.reply(entry(State.STARTED, execution_id=EXECUTION_ID)).returned
            assert (execution.id, execution.status, execution.raw_status) == (EXECUTION_ID, Status.UNKNOWN, "")


class TestWhatIsRecorded:
    """Events, to the last field: what a later process or a person reads of them."""

    LATER = NOW + 9

    def posted(self, **options: Any) -> tuple[Hand[Execution], FakeClock]:
        """start_once, held at its POST, some time after its intent."""
        clock = FakeClock()
        hand = posted(clock=clock, **options)
        clock.advance(9)
        return hand, clock

    @pytest.mark.parametrize(
        ("literal", "expires", "expected"),
        [
            ("RUNNING", "2026-09-21T16:13:20Z", {"raw_status": "RUNNING", "expires_at": NOW + 7200}),
            (None, None, {}),
        ],
    )
    def test_start(self, literal: str | None, expires: str | None, expected: dict[str, Any]) -> None:
        """Id, time, the service's literal and the expiry that it named; nothing where it named none."""
        hand, _ = self.posted()
        record = hand.reply(told(literal, expiresAt=expires)).asks(AppendEvent)
        expected = {"execution_id": EXECUTION_ID, "interactive": False, **expected}
        assert event(State.STARTED, at=self.LATER, **expected) == record.event
        assert STEP.key == record.key

    @pytest.mark.parametrize(
        ("outcome", "expected"),
        [
            (response(403), {"state": State.REJECTED, "reason": "PermissionDenied"}),
            (response(502), {"state": State.UNKNOWN, "reason": "ServerError"}),
            (
                InvalidAnswer("elsewhere", execution_id=OTHER_ID),
                {"state": State.UNKNOWN, "reason": "InvalidAnswer", "execution_id": OTHER_ID},
            ),
        ],
    )
    def test_failure(self, outcome: Any, expected: dict[str, Any]) -> None:
        """Time, kind of failure, and the id if the service named one."""
        hand, _ = self.posted()
        record = meet(hand, outcome).asks(AppendEvent)
        version = entry(State.INTENT).version  # nobody's who has moved the step on meanwhile
        assert event(**{"at": self.LATER, "version": version, **expected}) == record.event
        assert STEP.key == record.key

    @pytest.mark.parametrize(("generation", "deadline"), [("0", None), ("old", NOW + 1000 + 3600)])
    def test_take_over_of_what_a_person_has_adopted(self, generation: str, deadline: float | None) -> None:
        """Who goes on with which execution, when; a cleared step begins its own time."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, adopted=True, generation=generation)
        hand = started(known, clock=FakeClock(NOW + 1000))
        record = hand.asks(AppendEvent)
        expected = event(
            State.STARTED,
            at=NOW + 1000,
            execution_id=EXECUTION_ID,
            consumed_by=STEP.generation,
            version=known.version,
            deadline=deadline,
        )
        assert (STEP.key, expected) == (record.key, record.event)
        taken = hand.reply(fold(known, record.event)).reply(told()).returned
        assert taken.handle.deadline == (deadline or known.deadline)

    @pytest.mark.parametrize("fields", [{}, {"expires_at": "2026-09-21T18:13:20+00:00"}])
    def test_expiry_that_is_recorded_is_the_one_that_is_sent(self, fields: dict[str, Any]) -> None:
        """The intent, the request and, where the service names none, the handle have the same expiry."""
        hand = started(request=run_request(**fields))
        expires_at = hand.asks(ClaimStart).intent.expires_at
        assert expires_at == (NOW + 4 * 3600 if fields else NOW + 3600)
        post = hand.reply(entry(State.INTENT)).asks(Request)
        assert post.json is not None
        assert datetime.fromisoformat(post.json["expiresAt"]).timestamp() == expires_at
        recorded = entry(State.STARTED, execution_id=EXECUTION_ID, expires_at=expires_at)
        assert hand.reply(told()).reply(recorded).returned.handle.expires_at == expires_at

    def test_expiry_of_a_start_without_a_ledger(self) -> None:
        """It is sent as well."""
        clock = FakeClock().clock()
        hand = Hand(
            start_unrecorded(Transactionlink(now=clock.now), run_request(), timeout=7200, clock=clock, start=once)
        )
        post = hand.asks(Request)
        assert post.json is not None
        assert datetime.fromisoformat(post.json["expiresAt"]).timestamp() == NOW + 7200

    @pytest.mark.parametrize("reattached", [True, False])
    def test_handle_says_which_execution_of_which_service(self, *, reattached: bool) -> None:
        """All that another process needs."""
        known = held(State.STARTED, execution_id=EXECUTION_ID)
        hand = started(known) if reattached else posted().reply(told())
        handle = hand.reply(told() if reattached else known).returned.handle
        assert handle == Handle(
            execution_id=EXECUTION_ID,
            service="transactionlink",
            key=STEP.key,
            deadline=NOW + 3600,
            expires_at=NOW + 1805,
            owned=True,
        )


def taken(known: Entry) -> Hand[Execution]:
    """A try that goes on with an adopted execution, held at its poll: the verdict is used up first."""
    hand = started(known)
    used = hand.asks(AppendEvent).event
    assert (known.state, STEP.generation, known.version) == (used.state, used.consumed_by, used.version)
    return hand.reply(fold(known, used))


class TestReattach:
    def test_retry_finds_what_its_step_started(self) -> None:
        """A step whose execution is known polls it and starts nothing; deadline and expiry are the first start's."""
        known = held(State.STARTED, execution_id=EXECUTION_ID)
        hand = started(known, clock=FakeClock(NOW + 1000))
        assert ("GET", f"/workflows/{EXECUTION_ID}") == (hand.asks(Request).method, hand.asks(Request).path)
        hand.reply(told("COMPLETED"))
        settled = hand.asks(AppendEvent).event
        assert (settled.state, settled.status, settled.execution_id) == (State.SETTLED, "SUCCEEDED", EXECUTION_ID)
        execution = hand.reply(known).returned
        assert (execution.reattached, execution.status) == (True, Status.SUCCEEDED)
        assert (NOW + 3600, NOW + 1805, True, STEP.key) == (
            execution.handle.deadline,
            execution.handle.expires_at,
            execution.handle.owned,
            execution.handle.key,
        )
        assert [request.method for request in hand.requests] == ["GET"]

    def test_adopted_execution_of_another_generation_is_not_ours(self) -> None:
        """What a person adopted for an earlier life of the step is waited for, and not ours to cancel."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, adopted=True, generation="old")
        assert not taken(known).reply(told()).returned.handle.owned
        own = held(State.STARTED, execution_id=EXECUTION_ID, adopted=True)
        assert taken(own).reply(told()).returned.handle.owned

    def test_execution_that_the_service_forgot_is_not_started_again(self) -> None:
        """A 404 on re-attaching is an error about that execution, never a reason for another start."""
        with pytest.raises(NotFound, match=EXECUTION_ID) as caught:
            started(held(State.STARTED, execution_id=EXECUTION_ID)).reply(response(404))
        assert caught.value.execution_id == EXECUTION_ID


class TestNewGeneration:
    def begun(self) -> Hand[Execution]:
        """A cleared step whose former execution may still run, held at the cancel."""
        hand = started(held(State.STARTED, execution_id=OTHER_ID, generation="old"))
        assert ("POST", f"/workflows/{OTHER_ID}/cancel") == (hand.asks(Request).method, hand.asks(Request).path)
        return hand

    def test_former_execution_is_cancelled_before_the_intent(self) -> None:
        """A cleared step ends what its former life left running, then starts."""
        hand = self.begun().reply(response(200)).reply(told("CANCELLED", id=OTHER_ID))
        assert getattr(hand.asks(ClaimStart).after, "execution_id", None) == OTHER_ID
        assert hand.reply(entry(State.INTENT)).asks(Request).path == "/workflows"

    @pytest.mark.parametrize("outcome", [response(404), response(503), NoAnswer("reset")])
    def test_former_execution_that_cannot_be_cancelled_is_reported(
        self, outcome: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A cancel that fails does not stop the step; its id and the command are in the log."""
        hand = self.begun()
        meet(hand, outcome).asks(ClaimStart)
        assert f"tl cancel {OTHER_ID}" in caplog.text


class TestOwnCancel:
    """A retry after a cancel of ours that perhaps never arrived."""

    def begun(self) -> Hand[Execution]:
        """A retry that may start anew, held at the cancel that comes first."""
        step = evolve(STEP, retry_failed=True)
        hand = started(held(State.CANCEL_REQUESTED, execution_id=OTHER_ID), step=step)
        assert ("POST", f"/workflows/{OTHER_ID}/cancel") == (hand.asks(Request).method, hand.asks(Request).path)
        return hand

    @pytest.mark.parametrize(
        "outcomes",
        [
            [response(404)],
            [response(503)],
            [NoAnswer("refused", sent=False)],
            [response(409), told("RUNNING", id=OTHER_ID)],
        ],
    )
    def test_nothing_is_started_beside_what_may_run(self, outcomes: list[Any]) -> None:
        """A second cancel that fails as well is the try's own failure: nothing is claimed and nothing started."""
        hand = self.begun()
        for outcome in outcomes[:-1]:
            meet(hand, outcome).asks(Request)
        with pytest.raises(TransactionlinkError):
            meet(hand, outcomes[-1])
        assert "/workflows" not in [request.path for request in hand.requests]

    def test_accepted_cancel_that_cannot_be_seen_starts_nothing_yet(self) -> None:
        """The next try looks again."""
        hand = self.begun().reply(response(200))
        with pytest.raises(ServerError, match="accepted the cancel") as caught:
            hand.reply(response(503))
        assert (caught.value.execution_id, caught.value.cancel_accepted) == (OTHER_ID, True)

    def test_accepted_cancel_lets_the_next_attempt_begin(self) -> None:
        """The service ends it in its own time; its id stays on record."""
        hand = self.begun().reply(response(200)).reply(told("RUNNING", id=OTHER_ID))
        claim = hand.asks(ClaimStart)
        assert fold(claim.after, claim.intent).former == OTHER_ID

    @pytest.mark.parametrize(
        ("literal", "status"),
        [("CANCELED", Status.CANCELLED), ("FAILED", Status.FAILED), ("COMPLETED", Status.SUCCEEDED)],
    )
    def test_ending_that_is_found_is_recorded_first(self, literal: str, status: Status) -> None:
        """What has ended meanwhile is settled, and then judged as any ending: a success is not run again."""
        hand = self.begun().reply(response(409)).reply(told(literal, id=OTHER_ID))
        known = held(State.CANCEL_REQUESTED, execution_id=OTHER_ID)
        settled = hand.asks(AppendEvent).event
        assert event(State.SETTLED, execution_id=OTHER_ID, raw_status=literal, status=status.value) == settled
        hand.reply(fold(known, settled)).asks(ReadLedger)
        hand.reply(fold(known, settled))
        if status is Status.SUCCEEDED:
            assert hand.asks(Request).path == f"/workflows/{OTHER_ID}"
        else:
            assert hand.asks(ClaimStart).after == fold(known, settled)


class TestLeftOver:
    """A process of an earlier generation that goes on after a later one has taken the step over."""

    def begun(self, known: Entry, *, fenced: bool) -> Hand[Execution]:
        """A try of generation 0, told what the ledger holds."""
        clock = FakeClock(NOW + 1000).clock()
        flow = start_once(
            Transactionlink(now=clock.now),
            run_request(),
            STEP,
            identity=SAME,
            timeout=3600,
            clock=clock,
            start=once,
            repeat=once,
            fenced=fenced,
        )
        return Hand(flow).reply(known)

    @pytest.mark.parametrize("state", [state for state in State if state is not State.PURGED])
    def test_it_neither_starts_nor_ends_anything(self, state: State) -> None:
        """Whatever has become of the later generation's execution."""
        with pytest.raises(LedgerError, match="belongs to an earlier one"):
            self.begun(held(state, generation="1", past=("0",)), fenced=False)

    def test_fenced_ledger_has_refused_it_before(self) -> None:
        """There a generation's name may come back, as one made of a counter of tries can."""
        hand = self.begun(held(State.SETTLED, generation="1", past=("0",)), fenced=True)
        assert STEP.generation == hand.asks(ClaimStart).intent.generation


class TestStartUnrecorded:
    def begun(self) -> Hand[Execution]:
        """A start without a ledger, held at its POST."""
        clock = FakeClock().clock()
        return Hand(
            start_unrecorded(Transactionlink(now=clock.now), run_request(), timeout=3600, clock=clock, start=once)
        )

    def test_answer_is_the_execution(self) -> None:
        """Without a ledger the caller gets an execution of his own with a deadline and no key."""
        execution = self.begun().reply(told()).returned
        assert (
            execution.id,
            execution.handle.key,
            execution.handle.deadline,
            execution.handle.owned,
        ) == (EXECUTION_ID, None, NOW + 3600, True)

    @pytest.mark.parametrize(("outcome", "kind"), REFUSALS)
    def test_refusal_is_raised(self, outcome: Any, kind: type[TransactionlinkError]) -> None:
        """A start that certainly did not happen raises its own error."""
        with pytest.raises(kind) as caught:
            meet(self.begun(), outcome)
        assert kind is type(caught.value)

    @pytest.mark.parametrize(("outcome", "kind"), UNKNOWN_FATES)
    def test_unknown_fate_is_named(self, outcome: Any, kind: type[TransactionlinkError]) -> None:
        """A start that may have happened is StartOutcomeUnknown also without a ledger, and names no ledger command."""
        with pytest.raises(StartOutcomeUnknown, match="Nothing was repeated") as caught:
            meet(self.begun(), outcome)
        assert isinstance(caught.value.__cause__, kind)
        assert caught.value.key is None
        assert "tl ledger" not in str(caught.value)
