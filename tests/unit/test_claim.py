"""Two processes at one step: one starts, the other waits a little, and neither takes the other for a crash."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from tests.builders import EXECUTION_ID, NOW, OTHER_ID, SAME, FakeClock, entry, run_request, told
from tests.driving import Hand
from tl_orchestration import B3osKey, B3osOptions
from tl_orchestration.attempt import SAME_KEY_TRIES
from tl_orchestration.claim import PATIENCE, SETTLE_MARGIN, SETTLE_WINDOW, may_be_starting
from tl_orchestration.client import Client
from tl_orchestration.errors import InvalidSettings, KeyPurged, LedgerError, RequestChanged, StartOutcomeUnknown
from tl_orchestration.exchange import AppendEvent, ClaimStart, ReadLedger, Request, Sleep, once
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.ledger import Entry, MemoryLedger, State
from tl_orchestration.ledger.entry import fold
from tl_orchestration.models import Execution
from tl_orchestration.retry import RetryPolicy
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.settings import Settings
from tl_orchestration.start import Step, start_once
from tl_orchestration.testing import FakeService

STEP = Step(key="dag/run/task", generation="0")
INTENT = entry(State.INTENT)
STARTED = entry(State.STARTED, execution_id=EXECUTION_ID)


def begun(
    clock: FakeClock,
    step: Step = STEP,
    settle: float = SETTLE_WINDOW,
    identity: Fingerprint = SAME,
    *,
    fenced: bool = False,
) -> Hand[Execution]:
    """A start over a ledger that others may be writing to, held at its first look."""
    time = clock.clock()
    hand = Hand(
        start_once(
            Transactionlink(now=time.now),
            run_request(),
            step,
            identity=identity,
            timeout=3600,
            clock=time,
            start=once,
            repeat=once,
            settle=settle,
            fenced=fenced,
        )
    )
    hand.asks(ReadLedger)
    return hand


class TestFreshIntent:
    def test_other_process_that_gets_through_is_joined(self) -> None:
        """Whoever finds another's fresh intent looks again, and goes on with what the other has started."""
        clock = FakeClock()
        hand = begun(clock)
        pauses = []
        for _ in range(6):
            pauses.append(hand.reply(INTENT).asks(Sleep).seconds)
            clock.advance(pauses[-1])
            hand.reply(None).asks(ReadLedger)
        assert pauses == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]
        assert hand.reply(STARTED).asks(Request).path == f"/workflows/{EXECUTION_ID}"
        execution = hand.reply(told()).reply(STARTED).returned
        assert (execution.id, execution.reattached) == (EXECUTION_ID, True)
        assert [request.method for request in hand.requests] == ["GET"]

    def test_other_process_that_is_refused_makes_room(self) -> None:
        """If nothing came of the other's start, this one starts."""
        hand = begun(FakeClock()).reply(INTENT).reply(None)
        rejected = entry(State.REJECTED)
        assert hand.reply(rejected).asks(ClaimStart).after == rejected

    def test_other_process_that_takes_long_is_not_waited_for(self) -> None:
        """After a few seconds the try ends with an error that may be retried, and has sent nothing."""
        clock = FakeClock()
        hand = begun(clock).reply(INTENT)
        clock.advance(PATIENCE)
        hand.reply(None)
        with pytest.raises(LedgerError, match="announced 5 seconds ago that it starts dag/run/task") as caught:
            hand.reply(INTENT)
        assert caught.value.retryable
        assert hand.requests == []

    @pytest.mark.parametrize("age", [SETTLE_WINDOW, 86400.0, -SETTLE_WINDOW])
    def test_crash_leftover_is_an_unknown_fate(self, age: float) -> None:
        """An intent that is older than any start can take, or from nowhere in time, is nobody's any more."""
        with pytest.raises(StartOutcomeUnknown):
            begun(FakeClock(NOW + age)).reply(INTENT)

    @pytest.mark.parametrize("age", [0.0, SETTLE_WINDOW - 1, -SETTLE_WINDOW + 1])
    def test_restart_is_never_over_a_fresh_intent(self, age: float) -> None:
        """Not even a step that accepts a restart starts beside a process that may be at it, nor one of another life."""
        for step in (evolve(STEP, on_unknown_start="restart"), evolve(STEP, generation="1")):
            hand = begun(FakeClock(NOW + age), step).reply(INTENT)
            hand.asks(Sleep)

    @pytest.mark.parametrize("age", [0.0, SETTLE_WINDOW, 749.0])
    def test_window_is_that_of_whoever_starts(self, age: float) -> None:
        """Settings of whoever looks do not shorten the time in which the intent's own process may be sending."""
        slow = evolve(INTENT, settles_at=NOW + 750)
        hand = begun(FakeClock(NOW + age), evolve(STEP, on_unknown_start="restart")).reply(slow)
        hand.asks(Sleep)
        hand = begun(FakeClock(NOW + 750), evolve(STEP, on_unknown_start="restart")).reply(slow)
        assert hand.asks(ClaimStart).after == slow

    def test_window_of_whoever_looks_does_not_lengthen_it(self) -> None:
        """A slow client does not wait for a quick one that has crashed longer than that one could take."""
        with pytest.raises(StartOutcomeUnknown):
            begun(FakeClock(NOW + SETTLE_WINDOW), settle=750.0).reply(evolve(INTENT, settles_at=NOW + SETTLE_WINDOW))

    def test_fenced_ledger_knows_at_once(self) -> None:
        """Where a process that has lost the step cannot write, an intent without an outcome is a former try's."""
        with pytest.raises(StartOutcomeUnknown):
            begun(FakeClock(), fenced=True).reply(INTENT)

    @pytest.mark.parametrize("state", [state for state in State if state is not State.INTENT])
    def test_nothing_else_is_waited_for(self, state: State) -> None:
        """Only an intent can be somebody's who is about to write."""
        assert not may_be_starting(entry(state), NOW, fenced=False)


class TestLostClaim:
    def lost(self, clock: FakeClock | None = None, identity: Fingerprint = SAME) -> Hand[Execution]:
        """A start whose claim came too late, held at the look for the reason."""
        hand = begun(clock or FakeClock(), identity=identity).reply(None)
        hand.asks(ClaimStart)
        hand.fail(LedgerError("somebody else")).asks(ReadLedger)
        return hand

    def test_loser_joins_the_winner(self) -> None:
        """Whoever loses the race for a key ends with the winner's execution."""
        hand = self.lost().reply(INTENT)
        hand.asks(ReadLedger)
        hand.reply(INTENT).asks(Sleep)
        execution = hand.reply(None).reply(STARTED).reply(told()).reply(STARTED).returned
        assert (execution.id, execution.reattached) == (EXECUTION_ID, True)
        assert [request.method for request in hand.requests] == ["GET"]

    def test_loser_that_wants_something_else_is_told(self) -> None:
        """The winner's execution is not handed to a caller who asked for another one."""
        hand = self.lost(identity=Fingerprint(digest="ef" * 32, key_id=SAME.key_id)).reply(INTENT)
        with pytest.raises(RequestChanged):
            hand.reply(STARTED)

    def test_loser_against_a_purge_is_told(self) -> None:
        """A key that was purged in between is used up."""
        hand = self.lost().reply(entry(State.PURGED))
        with pytest.raises(KeyPurged):
            hand.reply(entry(State.PURGED))

    def test_claim_that_failed_for_another_reason_fails(self) -> None:
        """If the entry is as it was read, nobody was faster: the ledger's own error is raised, and nothing was sent."""
        hand = self.lost()
        with pytest.raises(LedgerError, match="somebody else"):
            hand.reply(None)
        assert hand.requests == []

    def test_ledger_that_is_gone_says_so(self) -> None:
        """If the ledger cannot even be asked who was faster, that is the error."""
        with pytest.raises(LedgerError, match="down"):
            self.lost().fail(LedgerError("down"))

    def test_race_that_does_not_end_is_given_up(self) -> None:
        """However often the entry changes under it, a try ends after a few seconds."""
        clock = FakeClock()
        hand = self.lost(clock).reply(entry(State.REJECTED))
        hand.reply(entry(State.REJECTED)).asks(ClaimStart)
        clock.advance(PATIENCE)
        with pytest.raises(LedgerError, match="somebody else"):
            hand.fail(LedgerError("somebody else"))

    def test_fenced_ledger_is_not_asked_again(self) -> None:
        """A refused write to a fenced ledger means that the step was taken away."""
        hand = begun(FakeClock(), fenced=True).reply(None)
        with pytest.raises(LedgerError, match="taken"):
            hand.fail(LedgerError("taken"))


class TestAdopted:
    def tried(self, known: Entry, generation: str, clock: FakeClock) -> tuple[Hand[Execution], Entry]:
        """A try of that generation, up to its first command after the look; and the entry as it then is."""
        hand = begun(clock, evolve(STEP, generation=generation)).reply(known)
        command = hand.commands[-1]
        if isinstance(command, AppendEvent):
            known = fold(known, command.event)
            hand.reply(known)
        return hand, known

    def test_verdict_is_used_up_by_the_next_try(self) -> None:
        """The next generation goes on with what was adopted; the one after it starts afresh, and cancels nothing."""
        clock = FakeClock(NOW + 50_000)
        known = entry(State.STARTED, execution_id=OTHER_ID, adopted=True)
        hand, known = self.tried(known, "1", clock)
        assert hand.asks(Request).path == f"/workflows/{OTHER_ID}"
        execution = hand.reply(told(id=OTHER_ID)).reply(known).returned
        assert (execution.id, execution.reattached, execution.handle.owned) == (OTHER_ID, True, False)
        for state in (State.STARTED, State.CANCEL_REQUESTED, State.SETTLED):
            later = evolve(known, state=state)
            again, same = self.tried(later, "1", clock)
            assert (again.asks(Request).path, same) == (f"/workflows/{OTHER_ID}", later)
            cleared, _ = self.tried(later, "2", clock)
            assert cleared.asks(ClaimStart).after == later
            assert cleared.requests == []

    def test_verdict_for_a_running_generation_is_used_up_too(self) -> None:
        """A retry of the same life goes on with what was adopted; a clear after that starts afresh."""
        clock = FakeClock(NOW + 60)
        hand, known = self.tried(entry(State.STARTED, execution_id=OTHER_ID, adopted=True), "0", clock)
        assert hand.reply(told(id=OTHER_ID)).reply(known).returned.handle.owned
        cleared, _ = self.tried(known, "1", clock)
        cleared.asks(ClaimStart)
        assert cleared.requests == []

    def test_time_of_a_cleared_step_begins_with_it(self) -> None:
        """The deadline of the lost start does not end the wait of the life that goes on; a retry's own stays."""
        known = entry(State.STARTED, execution_id=OTHER_ID, adopted=True)
        cleared, _ = self.tried(known, "1", FakeClock(NOW + 50_000))
        assert cleared.reply(told(id=OTHER_ID)).reply(known).returned.handle.deadline == NOW + 50_000 + 3600
        retried, _ = self.tried(known, "0", FakeClock(NOW + 60))
        assert retried.reply(told(id=OTHER_ID)).reply(known).returned.handle.deadline == known.deadline

    def test_failed_one_may_be_run_again(self) -> None:
        """With retry_failed, the life that went on with it may open an attempt of its own after it failed."""
        known = entry(State.SETTLED, execution_id=OTHER_ID, adopted=True, consumed_by="1", status="FAILED")
        hand = begun(FakeClock(), evolve(STEP, generation="1", retry_failed=True)).reply(known)
        claim = hand.asks(ClaimStart)
        again = fold(claim.after, claim.intent)
        assert (again.generation, again.attempt, again.adopted, again.consumed_by) == ("1", 2, False, None)

    def test_ledger_that_cannot_record_it_stops_the_try(self) -> None:
        """A verdict that could not be marked as used is not used."""
        hand = begun(FakeClock()).reply(entry(State.STARTED, execution_id=OTHER_ID, adopted=True))
        hand.asks(AppendEvent)
        with pytest.raises(LedgerError):
            hand.fail(LedgerError("down"))
        assert hand.requests == []

    def test_not_started_lets_the_next_try_start(self) -> None:
        """A start that a person judged not to have happened is followed by one, in this life and in the next."""
        for generation in ("0", "1"):
            known = entry(State.REJECTED, reason="not in the dashboard")
            hand, _ = self.tried(known, generation, FakeClock())
            assert hand.asks(ClaimStart).after == known


class TestClient:
    @pytest.mark.parametrize("fenced", [False, True])
    @pytest.mark.parametrize(
        ("total", "policy", "window"),
        [
            (10.0, "fail", SETTLE_WINDOW),
            (RetryPolicy().total, "fail", SETTLE_WINDOW),
            (600.0, "fail", 630.0 + SETTLE_MARGIN),
            (600.0, "repeat-same-key", SAME_KEY_TRIES * 630.0 + SETTLE_MARGIN),
        ],
    )
    def test_intent_says_how_long_the_client_may_take(
        self, total: float, policy: Any, window: float, fenced: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All tries of a start and their answers fit in; never less than the documented window, whatever the ledger."""
        monkeypatch.setattr(MemoryLedger, "fenced", fenced)
        client = Client(
            B3osKey("b3sk_x"),
            service="b3os",
            ledger=MemoryLedger(),
            retry=RetryPolicy(total=total),
            settings=Settings(request_timeout=30),
        )
        options = B3osOptions(source_system="crm", source_entity_type="customer")
        with client:
            hand = Hand(client._run(run_request(options=options), Step(key="k", on_unknown_start=policy), None, None))
            intent = hand.reply(None).asks(ClaimStart).intent
        assert intent.settles_at is not None
        assert intent.settles_at - intent.at == pytest.approx(window)

    def test_start_without_an_end_is_refused(self) -> None:
        """Nobody could ever tell that such a start has come to nothing."""
        with FakeService().client(ledger=MemoryLedger(), retry=RetryPolicy(total=float("inf"))) as client:
            with pytest.raises(InvalidSettings, match="needs an end"):
                client.run(run_request(), "k")
            assert client.run(run_request()).id
