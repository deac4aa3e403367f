"""
Tries after the first: they go on with what runs, and end what must not.
"""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from tests.builders import EXECUTION_ID, NOW, OTHER_ID, SAME, FakeClock, entry, event, response, run_request, told
from tests.driving import Hand
from tests.unit.start.tries import STEP, held, meet, started
from tl_orchestration.errors import (
    LedgerError,
    NoAnswer,
    NotFound,
    PermissionDenied,
    ServerError,
    TransactionlinkError,
)
from tl_orchestration.exchange import AppendEvent, ClaimStart, ReadLedger, Request, once
from tl_orchestration.ledger.entry import Entry, State, fold
from tl_orchestration.models import Execution
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.start import start_once
from tl_orchestration.status import Status


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
        assert not taken(known).reply(told()).reply(known).returned.handle.owned
        own = held(State.STARTED, execution_id=EXECUTION_ID, adopted=True)
        assert taken(own).reply(told()).reply(own).returned.handle.owned

    def test_execution_that_the_service_forgot_is_not_started_again(self) -> None:
        """A 404 on re-attaching is an error about that execution, never a reason for another start."""
        with pytest.raises(NotFound, match=EXECUTION_ID) as caught:
            started(held(State.STARTED, execution_id=EXECUTION_ID)).reply(response(404))
        assert caught.value.execution_id == EXECUTION_ID


class TestUnansweredReattachment:
    """A retry or a wake-up that comes while the service, or its credential, is away for a moment."""

    @pytest.mark.parametrize(
        "outcome",
        [
            response(503),
            response(429),
            response(401),
            response(200, body=b"<html>", content_type="text/html"),
            NoAnswer("refused", sent=False),
        ],
    )
    def test_wait_judges_what_may_pass(self, outcome: Any, caplog: pytest.LogCaptureFixture) -> None:
        """The execution is given as the ledger knows it, with all that a wait needs, and the log says so."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, raw_status="RUNNING")
        execution = meet(started(known), outcome).returned
        assert (execution.reattached, execution.status, execution.raw_status) == (True, Status.UNKNOWN, "RUNNING")
        handle = execution.handle
        assert (handle.execution_id, handle.deadline, handle.expires_at) == (EXECUTION_ID, NOW + 3600, NOW + 1805)
        assert (handle.owned, handle.polled, handle.key) == (True, False, STEP.key)
        assert EXECUTION_ID in caplog.text

    def test_recorded_ending_is_believed(self) -> None:
        """What was settled before cannot have changed."""
        known = held(State.SETTLED, execution_id=EXECUTION_ID, status="SUCCEEDED", raw_status="COMPLETED")
        execution = meet(started(known), response(503)).returned
        assert (execution.status, execution.raw_status) == (Status.SUCCEEDED, "COMPLETED")

    def test_execution_without_expiry_needs_none(self) -> None:
        """Its deadline ends the wait."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, expires_at=None)
        assert meet(started(known), response(503)).returned.handle.expires_at is None

    @pytest.mark.parametrize("ends", ["deadline", "expires_at"])
    def test_time_that_is_up_is_left_to_another_retry(self, ends: str) -> None:
        """A wait could only declare the deadline passed, unseen; the error is one that a retry may mend."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, **{ends: NOW - 1})
        with pytest.raises(ServerError) as caught:
            meet(started(known), response(503))
        assert (caught.value.execution_id, caught.value.retryable) == (EXECUTION_ID, True)

    def test_403_is_forgiven_where_the_credential_was_answered_before(self) -> None:
        """Then it is no permission that was never there, and the wait is told so."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, polled_with=SAME.key_id)
        assert meet(started(known), response(403)).returned.handle.polled

    @pytest.mark.parametrize("polled_with", [None, "ef" * 8])
    def test_403_is_said_at_once_where_it_was_not(self, polled_with: str | None) -> None:
        """A missing permission is named, with the execution; another credential's answers prove nothing."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, polled_with=polled_with)
        with pytest.raises(PermissionDenied, match=EXECUTION_ID):
            meet(started(known), response(403))

    @pytest.mark.parametrize("interactive", [True, None])
    def test_link_that_may_have_to_be_delivered_needs_the_answer(self, interactive: bool | None) -> None:
        """Otherwise an outage would let a person wait who was given no link, or pass for a link that is lost."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, interactive=interactive)
        with pytest.raises(ServerError):
            meet(started(known, delivers=True), response(503))
        delivered = evolve(known, state=State.LINK_DELIVERED, link_delivered=True)
        assert meet(started(delivered, delivers=True), response(503)).returned.reattached

    def test_first_answer_is_noted_once(self) -> None:
        """The ledger learns which credential may look; a second answer to it changes nothing."""
        known = held(State.STARTED, execution_id=EXECUTION_ID, reason="seen")
        hand = started(known).reply(told())
        noted = fold(known, hand.asks(AppendEvent).event)
        assert noted == evolve(known, version=known.version + 1, polled_with=SAME.key_id)
        assert hand.reply(noted).returned.handle.polled
        assert started(noted).reply(told()).returned.handle.polled

    def test_note_that_is_refused_fails_nothing(self) -> None:
        """It is worth no failure."""
        hand = started(held(State.STARTED, execution_id=EXECUTION_ID)).reply(told())
        hand.asks(AppendEvent)
        assert hand.fail(LedgerError("moved on")).returned.status is Status.RUNNING


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
