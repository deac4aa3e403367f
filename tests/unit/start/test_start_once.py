"""
A start happens at most once, and is known before anything else happens.
"""

from __future__ import annotations

from typing import Any

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
    response,
    run_request,
    told,
)
from tests.driving import Hand
from tests.unit.start.tries import REFUSALS, STEP, UNKNOWN_FATES, held, meet, posted, started
from tl_orchestration.claim import SETTLE_WINDOW
from tl_orchestration.errors import (
    InvalidRequest,
    LedgerError,
    NoAnswer,
    PermissionDenied,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.exchange import AppendEvent, ClaimStart, Request, Sleep, once
from tl_orchestration.ledger.entry import State
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.start import start_once
from tl_orchestration.status import Status


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
