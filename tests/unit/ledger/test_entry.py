"""An entry is what its events say, in an order that makes sense, or an error."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOW, entry, event
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger.entry import OPEN, UNDECIDED, Entry, Event, State, fold

#: Which states may follow which, other than a new intent; the diagram written down a second time.
LEGAL = {
    State.INTENT: {State.STARTED, State.REJECTED, State.UNKNOWN},
    State.UNKNOWN: {State.STARTED, State.REJECTED, State.UNKNOWN},
    State.STARTED: {State.STARTED, State.LINK_DELIVERED, State.CANCEL_REQUESTED, State.SETTLED},
    State.LINK_DELIVERED: {State.LINK_DELIVERED, State.CANCEL_REQUESTED, State.SETTLED},
    State.CANCEL_REQUESTED: {State.CANCEL_REQUESTED, State.SETTLED},
    State.SETTLED: {State.CANCEL_REQUESTED, State.SETTLED, State.PURGED},
    State.REJECTED: {State.REJECTED, State.PURGED},
}
#: All states but the tombstone, which has tests of its own.
LIVING = [state for state in State if state is not State.PURGED]

ids = st.none() | st.sampled_from(["e-1", "e-2"])
moments = st.none() | st.floats(1, 2e9)
events = st.builds(
    Event,
    state=st.sampled_from(State),
    at=st.floats(0, 2e9),
    execution_id=ids,
    generation=st.sampled_from(["0", "1"]),
    fingerprint=st.none() | st.text(),
    fingerprint_key_id=st.none() | st.text(),
    deadline=moments,
    expires_at=moments,
    raw_status=st.none() | st.text(max_size=8),
    status=st.none() | st.sampled_from(["SUCCEEDED", "FAILED"]),
    reason=st.none() | st.text(),
    adopted=st.booleans(),
    consumed_by=st.none() | st.sampled_from(["0", "1"]),
    version=st.none() | st.integers(1, 12),
    progress=st.dictionaries(st.sampled_from(["case_id", "idempotency_key"]), st.text(max_size=4)),
    preparing=st.booleans(),
    correlation_parameter=st.none() | st.text(),
    correlation_id=st.none() | st.text(),
    interactive=st.none() | st.booleans(),
    link_lost=st.booleans(),
    settles_at=moments,
)


def folded(history: list[Event]) -> list[Entry]:
    """The entry after each event of a history; refused events change nothing."""
    current: Entry | None = None
    entries = []
    for one in history:
        try:
            current = fold(current, one)
        except LedgerError:
            continue
        entries.append(current)
    return entries


class TestFold:
    @given(st.lists(events, max_size=12))
    def test_any_history_folds_or_is_refused(self, history: list[Event]) -> None:
        """Law: no sequence of events does anything but fold or raise LedgerError; the version counts what folded."""
        entries = folded(history)
        assert list(range(1, len(entries) + 1)) == [one.version for one in entries]

    @given(st.lists(events, max_size=12), events)
    def test_settled_is_absorbing(self, history: list[Event], late: Event) -> None:
        """Law: nothing but a new start, or forgetting it, leads out of SETTLED."""
        for settled in folded(history):
            if settled.state is State.SETTLED and late.state not in {State.INTENT, State.PURGED}:
                try:
                    assert State.SETTLED is fold(settled, late).state
                except LedgerError:
                    continue

    @given(st.lists(events, max_size=12))
    def test_an_execution_is_never_exchanged(self, history: list[Event]) -> None:
        """Law: within an attempt a known id stays; a start in the same generation never follows an open one."""
        entries = folded(history)
        for before, after in pairwise(entries):
            if after.state is State.PURGED:
                assert after.execution_id is None
            elif after.state is not State.INTENT:
                assert before.execution_id in {None, after.execution_id}
            elif before.belongs_to(after.generation) and before.state in OPEN:
                assert before.cancel_requested

    @pytest.mark.parametrize("before", LIVING)
    @pytest.mark.parametrize("after", [state for state in State if state is not State.INTENT])
    def test_every_transition(self, before: State, after: State) -> None:
        """Exactly the transitions of the diagram are taken; SETTLED stays settled."""
        known = entry(before, execution_id="e-1")
        if after in LEGAL[before]:
            result = fold(known, event(after, execution_id="e-1"))
            stays = before is State.SETTLED and after is not State.PURGED
            assert (before if stays else after) is result.state
            assert known.version + 1 == result.version
        else:
            with pytest.raises(LedgerError, match=f"holds {before} for this step, so it cannot record {after}"):
                fold(known, event(after, execution_id="e-1"))

    @pytest.mark.parametrize("after", [state for state in State if state is not State.INTENT])
    def test_nothing_follows_nothing(self, after: State) -> None:
        """The first event is an intent."""
        with pytest.raises(LedgerError, match="holds nothing"):
            fold(None, event(after))

    @pytest.mark.parametrize("state", sorted([*OPEN, State.SETTLED]))
    def test_event_about_another_execution_is_refused(self, state: State) -> None:
        """An entry is about one execution; an event about another names both."""
        with pytest.raises(LedgerError, match=r"execution e-1 .* of execution e-2"):
            fold(entry(state, execution_id="e-1"), event(State.SETTLED, execution_id="e-2"))

    def test_what_an_event_does_not_say_stays(self) -> None:
        """Ids, times and marks stay until an event says otherwise; the reason is the last event's own."""
        known = entry(State.LINK_DELIVERED, execution_id="e-1", link_delivered=True, adopted=True, reason="old")
        after = fold(known, Event(state=State.SETTLED, at=NOW + 9, raw_status="COMPLETED", status="SUCCEEDED"))
        assert (
            evolve(
                known,
                version=4,
                state=State.SETTLED,
                changed_at=NOW + 9,
                raw_status="COMPLETED",
                status="SUCCEEDED",
                reason=None,
            )
            == after
        )

    def test_cancel_of_what_is_over_marks_nothing(self) -> None:
        """A cancel that comes after the end is no cancel of ours."""
        settled = entry(State.SETTLED, execution_id="e-1", status="SUCCEEDED")
        assert not fold(settled, event(State.CANCEL_REQUESTED)).cancel_requested
        assert fold(entry(State.STARTED, execution_id="e-1"), event(State.CANCEL_REQUESTED)).cancel_requested


class TestLinks:
    def test_start_says_once_whether_a_person_has_to_act(self) -> None:
        """The start's own event says it, and no later one unsays it; nobody else knows."""
        intended = entry(State.INTENT)
        for said in (True, False):
            started = fold(intended, event(State.STARTED, execution_id="e-1", interactive=said))
            assert said is fold(started, event(State.LINK_DELIVERED)).interactive
            assert Entry.from_dict(started.to_dict()) == started
        adopted = fold(intended, event(State.STARTED, execution_id="e-1", adopted=True))
        assert adopted.interactive is None
        assert "interactive" not in adopted.to_dict()

    def test_cancel_for_a_lost_link_is_remembered_to_the_next_start(self) -> None:
        """The mark stays when the end is known, is none of what was over before, and ends with another start."""
        started = entry(State.STARTED, execution_id="e-1", interactive=True)
        lost = event(State.CANCEL_REQUESTED, link_lost=True)
        settled = fold(fold(started, lost), event(State.SETTLED, status="CANCELLED"))
        assert settled.link_lost
        again = fold(settled, event(State.INTENT, generation="0"))
        assert (again.interactive, again.link_lost) == (None, False)
        assert not fold(entry(State.SETTLED, execution_id="e-1"), lost).link_lost


class TestIntent:
    @pytest.mark.parametrize("state", LIVING)
    def test_what_a_new_start_may_follow(self, state: State) -> None:
        """In the same generation a start may follow anything but an execution that may run and was not cancelled."""
        known = entry(state, execution_id="e-1", cancel_requested=state is State.CANCEL_REQUESTED)
        if state in {State.STARTED, State.LINK_DELIVERED}:
            with pytest.raises(LedgerError, match="cannot record another start"):
                fold(known, event(State.INTENT, generation="0"))
        else:
            again = fold(known, event(State.INTENT, generation="0"))
            assert (again.state, again.attempt, again.execution_id) == (State.INTENT, 2, None)
        other = fold(known, event(State.INTENT, generation="1"))
        assert (other.state, other.attempt, other.execution_id) == (State.INTENT, 1, None)

    @pytest.mark.parametrize("state", LIVING)
    def test_former_execution_is_kept_while_it_may_run(self, state: State) -> None:
        """A new generation remembers the id of an execution that has not ended, and of no other."""
        after = fold(entry(state, execution_id="e-1"), event(State.INTENT, generation="1"))
        assert ("e-1" if state in OPEN else None) == after.former

    @pytest.mark.parametrize("state", LIVING)
    def test_own_execution_that_was_only_asked_to_end_is_kept(self, state: State) -> None:
        """The next attempt of a generation remembers what may still be ending, and nothing else."""
        known = entry(state, execution_id="e-1", cancel_requested=True)
        after = fold(known, event(State.INTENT, generation="0"))
        assert ("e-1" if state in OPEN else None) == after.former

    def test_generations_that_are_over_are_remembered(self) -> None:
        """Each that was followed by another, once, without the present one, and not for ever."""
        known = fold(None, event(State.INTENT, generation="g0"))
        for number in range(1, 40):
            known = fold(fold(known, event(State.REJECTED)), event(State.INTENT, generation=f"g{number}"))
        assert known.past == tuple(f"g{number}" for number in range(7, 39))
        assert "g20" not in fold(fold(known, event(State.REJECTED)), event(State.INTENT, generation="g20")).past

    def test_generation_whose_execution_another_took_over_is_over(self) -> None:
        """After an adoption the one that goes on is the present one."""
        adopted = entry(State.STARTED, execution_id="e-1", adopted=True)
        assert fold(adopted, event(State.STARTED, consumed_by="0")).past == ()
        taken = fold(adopted, event(State.STARTED, consumed_by="9"))
        assert taken.past == ("0",)
        assert fold(taken, event(State.INTENT, generation="10")).past == ("0", "9")

    @pytest.mark.parametrize("state", LIVING)
    def test_start_after_an_unknown_fate_is_counted(self, state: State) -> None:
        """Only a start over an undecided one is a restart; its suspect is kept for good."""
        known = entry(state, execution_id="e-1", suspects=("e-0",), cancel_requested=True)
        after = fold(known, event(State.INTENT, generation="0"))
        assert (1 if state in UNDECIDED else 0) == after.restarts
        assert (("e-0", "e-1") if state in UNDECIDED else ("e-0",)) == after.suspects

    def test_restarts_count_within_a_generation(self) -> None:
        """A new generation counts its restarts anew, beginning with the one that it makes."""
        known = entry(State.UNKNOWN, restarts=1)
        assert fold(known, event(State.INTENT, generation="0")).restarts == 2
        assert fold(known, event(State.INTENT, generation="1")).restarts == 1
        assert fold(evolve(known, state=State.REJECTED), event(State.INTENT, generation="1")).restarts == 0

    def test_intent_brings_what_is_known_of_the_start(self) -> None:
        """Fingerprint, deadline and expiry are the new intent's, and nothing of the former ending is left."""
        known = entry(State.SETTLED, execution_id="e-1", status="FAILED", raw_status="FAILED", reason="x", adopted=True)
        after = fold(
            known,
            event(
                State.INTENT,
                at=NOW + 5,
                generation="0",
                fingerprint="f",
                fingerprint_key_id="k",
                deadline=7.0,
                settles_at=NOW + 185,
            ),
        )
        assert (
            Entry(
                version=4,
                state=State.INTENT,
                generation="0",
                attempt=2,
                intended_at=NOW + 5,
                changed_at=NOW + 5,
                fingerprint="f",
                fingerprint_key_id="k",
                deadline=7.0,
                settles_at=NOW + 185,
            )
            == after
        )


class TestContinued:
    def test_attempt_that_goes_on_preparing_has_the_new_intents_facts(self) -> None:
        """Another intent of an attempt that prepares brings its own time, request, deadline and ids, and no attempt."""
        known = entry(
            State.INTENT,
            attempt=2,
            restarts=1,
            former="e-0",
            suspects=("e-9",),
            past=("old",),
            progress={"case_id": "c-1"},
            preparing=True,
            reason="before",
            correlation_parameter="reference",
            correlation_id="r-1",
        )
        facts: dict[str, Any] = {
            "fingerprint": "f",
            "fingerprint_key_id": "k",
            "deadline": NOW + 77,
            "expires_at": NOW + 66,
            "reason": "after",
            "progress": {"case_id": "c-1", "parameters_id": "p-1"},
            "correlation_parameter": "tag",
            "correlation_id": "r-2",
            "settles_at": NOW + 185,
        }
        after = fold(known, event(State.INTENT, at=NOW + 5, generation="0", **facts))
        assert after == evolve(known, version=4, intended_at=NOW + 5, changed_at=NOW + 5, preparing=False, **facts)
        assert fold(known, event(State.INTENT, generation="0", preparing=True)).preparing


class TestDocuments:
    @given(st.lists(events, min_size=1, max_size=12))
    def test_entry_survives_json(self, history: list[Event]) -> None:
        """Law: every entry that can come about goes through JSON and back unchanged."""
        for one in folded([event(State.INTENT), *history]):
            assert one == Entry.from_dict(json.loads(json.dumps(one.to_dict())))

    def test_document_says_what_is_known_only(self) -> None:
        """Fields that say nothing are left out; the format's number is always there."""
        document = entry(State.INTENT, fingerprint=None, fingerprint_key_id=None, deadline=None).to_dict()
        assert {"format", "version", "state", "generation", "intended_at", "changed_at", "expires_at"} == set(document)
        assert document["format"] == 1

    @pytest.mark.parametrize("number", [None, 0, 2, "1", 1.5, True])
    def test_unknown_format_is_refused(self, number: Any) -> None:
        """A document of another version is not guessed at."""
        document = entry(State.STARTED).to_dict() | {"format": number}
        with pytest.raises(LedgerError, match=r"has format .* this version reads format 1"):
            Entry.from_dict(document)

    @pytest.mark.parametrize("missing", ["version", "state", "changed_at"])
    def test_incomplete_document_is_refused(self, missing: str) -> None:
        """A document without its core is not an entry."""
        document = entry(State.STARTED).to_dict()
        del document[missing]
        with pytest.raises(LedgerError, match="cannot be read"):
            Entry.from_dict(document)

    def test_unknown_state_is_refused(self) -> None:
        """A state that this version does not have is not guessed at."""
        with pytest.raises(LedgerError, match="cannot be read"):
            Entry.from_dict(entry(State.STARTED).to_dict() | {"state": "PAUSED"})

    def test_first_format_still_loads(self) -> None:
        """A document as the first version wrote it, to the letter."""
        document = {
            "format": 1,
            "version": 4,
            "state": "CANCEL_REQUESTED",
            "generation": "2",
            "attempt": 2,
            "restarts": 1,
            "execution_id": "e-1",
            "intended_at": 1.0,
            "changed_at": 2.0,
            "fingerprint": "ab",
            "fingerprint_key_id": "cd",
            "deadline": 3.0,
            "expires_at": 4.0,
            "link_delivered": True,
            "cancel_requested": True,
            "raw_status": "RUNNING",
            "reason": "r",
            "former": "e-0",
            "suspects": ["e-9"],
            "progress": {"case_id": "c-1"},
        }
        loaded = Entry.from_dict(json.loads(json.dumps(document)))
        assert loaded.to_dict() == document
        assert (loaded.state, loaded.suspects, loaded.past) == (State.CANCEL_REQUESTED, ("e-9",), ())

    def test_more_than_is_known_is_left_alone(self) -> None:
        """A member that a later version added within the format is no obstacle."""
        known = entry(State.STARTED, execution_id="e-1")
        assert known == Entry.from_dict(known.to_dict() | {"colour": "green"})


def test_what_was_recorded_stays() -> None:
    """Events that say nothing of a fact leave it as it was, up to the end; a reason is that of the last event."""
    history = [
        Event(state=State.INTENT, at=1.0, generation="0", deadline=50.0, expires_at=60.0),
        Event(state=State.UNKNOWN, at=2.0, reason="no answer"),
        Event(
            state=State.STARTED,
            at=3.0,
            execution_id="e-1",
            expires_at=70.0,
            deadline=55.0,
            adopted=True,
            consumed_by="0",
            reason="seen in the dashboard",
        ),
        Event(state=State.LINK_DELIVERED, at=4.0),
        Event(state=State.CANCEL_REQUESTED, at=5.0, raw_status="RUNNING", status="RUNNING"),
        Event(state=State.CANCEL_REQUESTED, at=6.0),
    ]

    intent, unknown, started, delivered, cancelled, again = folded(history)

    assert (intent.expires_at, intent.deadline) == (60.0, 50.0)
    assert unknown.reason == "no answer"
    assert (started.reason, started.link_delivered) == ("seen in the dashboard", False)
    for later in (started, delivered, cancelled, again):
        facts = (later.execution_id, later.expires_at, later.deadline, later.adopted, later.consumed_by)
        assert facts == ("e-1", 70.0, 55.0, True, "0")
    for later in (delivered, cancelled, again):
        assert (later.link_delivered, later.reason) == (True, None)
    assert (again.raw_status, again.status, again.cancel_requested) == ("RUNNING", "RUNNING", True)
