"""
What a start leaves in the ledger.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.builders import EXECUTION_ID, NOW, OTHER_ID, SAME, FakeClock, entry, event, response, run_request, told
from tests.driving import Hand
from tests.unit.start.tries import STEP, held, meet, posted, started
from tl_orchestration.errors import InvalidAnswer
from tl_orchestration.exchange import AppendEvent, ClaimStart, Request, once
from tl_orchestration.ledger.entry import State, fold
from tl_orchestration.models import Execution, Handle
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.start import start_unrecorded


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
        taken = fold(known, record.event)
        handle = hand.reply(taken).reply(told()).reply(taken).returned.handle
        assert handle.deadline == (deadline or known.deadline)

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
        known = held(State.STARTED, execution_id=EXECUTION_ID, polled_with=SAME.key_id)
        hand = started(known) if reattached else posted().reply(told())
        handle = hand.reply(told() if reattached else known).returned.handle
        assert handle == Handle(
            execution_id=EXECUTION_ID,
            service="transactionlink",
            key=STEP.key,
            deadline=NOW + 3600,
            expires_at=NOW + 1805,
            owned=True,
            polled=reattached,
        )
