"""
The laws of a ledger, as tests that every store has to pass. They need no test framework.

A store's own test module inherits them, which pytest collects like any other test class::

    class TestMyLedger(LedgerConformance):
        def ledger(self) -> Ledger:
            return MyLedger(...)
"""

from __future__ import annotations

import json
import threading
import unittest
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import Entry, Event, Ledger, State

#: A wall-clock time with a fraction that a double holds and a lesser type would lose.
MOMENT = 1_790_000_000.123456


class LedgerConformance:
    """
    Inherit, and say how a ledger is made. Keys are fresh for every test and made of ``[a-z0-9-]``, so that one store
    can serve all of them.
    """

    #: What the ledger says of itself: a process that has lost its step cannot write, so claims need no comparison.
    fenced: ClassVar[bool] = False
    #: How many threads race for one key.
    racers: ClassVar[int] = 8

    def ledger(self) -> Ledger:
        """
        A ledger to try.
        """
        raise NotImplementedError("Say how a ledger is made.")

    def another(self, ledger: Ledger) -> Ledger:
        """
        The same store as another process would open it; the ledger itself where there is no other way to it.
        """
        return ledger

    def test_ledger_says_whether_it_is_fenced(self) -> None:
        """Whoever starts has to know whether an intent that he finds may be another process's."""
        _same(self.fenced, self.ledger().fenced, "what the ledger says of its fencing")

    def test_unwritten_key_reads_as_none(self) -> None:
        """A key that nobody has claimed has no entry."""
        _same(None, self.ledger().read(_key()), "the entry of a key that was never written")

    def test_claim_is_read_back(self) -> None:
        """A claim returns the intent's entry, and a read returns the same."""
        ledger, key = self.ledger(), _key()
        claimed = ledger.claim(key, _intent(), None)
        _same(State.INTENT, claimed.state, "the state after a claim")
        _same(claimed, ledger.read(key), "what was read after a claim")

    def test_append_is_read_back(self) -> None:
        """An append returns the folded entry, and a read returns the same."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(), None)
        appended = ledger.append(key, _event(State.STARTED, execution_id="e-1"))
        _same(State.STARTED, appended.state, "the state after an append")
        _same("e-1", appended.execution_id, "the execution id after an append")
        _same(appended, ledger.read(key), "what was read after an append")

    def test_what_is_written_is_seen_by_another_process(self) -> None:
        """A write is acknowledged only when every other reader sees it."""
        ledger, key = self.ledger(), _key()
        claimed = ledger.claim(key, _intent(), None)
        _same(claimed, self.another(ledger).read(key), "what another process reads after a claim")
        started = self.another(ledger).append(key, _event(State.STARTED, execution_id="e-1"))
        _same(started, ledger.read(key), "what is read after another process has appended")

    def test_every_field_survives(self) -> None:
        """An entry comes back as it went in: times to the last digit, text in any script, absent fields absent."""
        ledger, key = self.ledger(), _key()
        made = {"case_id": "c-1", "idempotency_key": "k-1"}
        ledger.claim(
            key,
            _intent(
                generation="Ω-2",
                fingerprint="ab" * 32,
                fingerprint_key_id="cd" * 8,
                progress=made,
                correlation_parameter="номер Ω",
                correlation_id="tl-1",
                settles_at=MOMENT + 180.125,
            ),
            None,
        )
        ledger.append(key, _event(State.STARTED, execution_id="e-1", expires_at=MOMENT + 1800, adopted=True))
        ledger.append(key, _event(State.LINK_DELIVERED))
        ledger.append(key, _event(State.CANCEL_REQUESTED, reason="срок истёк — 'quoted' \"twice\""))
        written = ledger.append(key, _event(State.SETTLED, raw_status="CANCELED", status="CANCELLED", reason="ended"))
        read = _found(self.another(ledger), key)
        _same(written, read, "the entry of a whole life")
        _same((MOMENT + 3600, MOMENT + 180.125), (read.deadline, read.settles_at), "deadline and end of the start")
        _same((True, True, True), (read.adopted, read.link_delivered, read.cancel_requested), "the marks")
        _same(made, dict(read.progress), "the ids that the attempt has made")
        _same(("номер Ω", "tl-1"), (read.correlation_parameter, read.correlation_id), "the correlation")
        _same(read, Entry.from_dict(json.loads(json.dumps(read.to_dict()))), "the entry after a trip through JSON")

    def test_events_fold_in_the_order_of_their_writing(self) -> None:
        """States follow one another as they were appended, and each write raises the version."""
        ledger, key = self.ledger(), _key()
        entries = [ledger.claim(key, _intent(), None)]
        for state in (State.STARTED, State.LINK_DELIVERED, State.CANCEL_REQUESTED, State.SETTLED):
            entries.append(ledger.append(key, _event(state, execution_id="e-1")))
        versions = [entry.version for entry in entries]
        _same(sorted(set(versions)), versions, "the versions of five writes")
        _same(State.SETTLED, _found(ledger, key).state, "the last state")

    def test_lost_claim_is_refused(self) -> None:
        """Whoever claims a key that was claimed since he read it is refused, and the winner's entry stays."""
        self._needs_comparison()
        ledger, key = self.ledger(), _key()
        winner = ledger.claim(key, _intent(fingerprint="winner"), None)
        _refused(lambda: self.another(ledger).claim(key, _intent(fingerprint="loser"), None), "a claim that came late")
        _same(winner, ledger.read(key), "the entry after a lost claim")

    def test_claim_after_a_stale_read_is_refused(self) -> None:
        """A claim is compared with the whole entry: one event in between is enough to lose it."""
        self._needs_comparison()
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(), None)
        stale = ledger.append(key, _event(State.REJECTED))
        fresh = ledger.claim(key, _intent(), stale)
        _refused(lambda: ledger.claim(key, _intent(), stale), "a claim after a stale read")
        _same(fresh, ledger.read(key), "the entry after a stale claim")

    def test_one_of_many_racing_claims_wins(self) -> None:
        """Of many who claim one key at once exactly one succeeds, and all others get a LedgerError."""
        self._needs_comparison()
        ledger, key = self.ledger(), _key()
        outcomes = _race(self.racers, lambda name: ledger.claim(key, _intent(fingerprint=name), None))
        won = [entry for entry in outcomes if isinstance(entry, Entry)]
        lost = [error for error in outcomes if isinstance(error, LedgerError)]
        _same((1, self.racers - 1), (len(won), len(lost)), f"the winners and losers among {outcomes!r}")
        _same(won[0], ledger.read(key), "the entry after a race")

    def test_append_to_an_unwritten_key_is_refused(self) -> None:
        """Nothing can be recorded about a step that has no intent."""
        ledger, key = self.ledger(), _key()
        for state in State:
            if state is not State.INTENT:
                orphan = _event(state, execution_id="e-1")
                _refused(lambda: ledger.append(key, orphan), f"{state} of nothing")  # noqa: B023 -- called here
        _same(None, ledger.read(key), "the entry after refused appends")

    def test_illegal_event_is_refused_and_changes_nothing(self) -> None:
        """An event that cannot follow what the entry holds is refused, and the entry stays as it was."""
        illegal: list[tuple[list[Event], Event]] = [
            ([], _event(State.LINK_DELIVERED, execution_id="e-1")),
            ([], _event(State.CANCEL_REQUESTED, execution_id="e-1")),
            ([], _event(State.SETTLED, execution_id="e-1")),
            ([_event(State.REJECTED)], _event(State.STARTED, execution_id="e-1")),
            ([_event(State.UNKNOWN)], _event(State.SETTLED, execution_id="e-1")),
            ([_event(State.STARTED, execution_id="e-1")], _event(State.REJECTED)),
            ([_event(State.STARTED, execution_id="e-1")], _event(State.UNKNOWN)),
            ([_event(State.STARTED, execution_id="e-1")], _event(State.STARTED, execution_id="e-2")),
            ([_event(State.STARTED, execution_id="e-1")], _event(State.SETTLED, execution_id="e-2")),
            ([_event(State.STARTED, execution_id="e-1"), _event(State.SETTLED)], _event(State.STARTED)),
        ]
        for before, event in illegal:
            ledger, key = self.ledger(), _key()
            entry = ledger.claim(key, _intent(), None)
            for earlier in before:
                entry = ledger.append(key, earlier)
            _refused(lambda: ledger.append(key, event), f"{event.state} after {entry.state}")  # noqa: B023 -- called here
            _same(entry, ledger.read(key), f"the entry after a refused {event.state}")

    def test_second_start_of_a_running_step_is_refused(self) -> None:
        """A step whose execution has started cannot be claimed again in the same generation, whatever was read."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(), None)
        started = ledger.append(key, _event(State.STARTED, execution_id="e-1"))
        _refused(lambda: ledger.claim(key, _intent(), started), "a second start")
        _same(started, ledger.read(key), "the entry after a refused start")

    def test_rejected_start_may_be_followed_by_another(self) -> None:
        """A start that was refused leaves the key free for the next attempt."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(), None)
        rejected = ledger.append(key, _event(State.REJECTED, reason="PermissionDenied"))
        again = ledger.claim(key, _intent(), rejected)
        _same((State.INTENT, 2, None), (again.state, again.attempt, again.execution_id), "the second attempt")

    def test_new_generation_follows_a_settled_one(self) -> None:
        """A cleared step starts afresh: first attempt, no execution, nothing left of the former ending."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(generation="0"), None)
        ledger.append(key, _event(State.STARTED, execution_id="e-1"))
        settled = ledger.append(key, _event(State.SETTLED, raw_status="COMPLETED", status="SUCCEEDED"))
        claimed = ledger.claim(key, _intent(generation="1"), settled)
        fresh = (claimed.state, claimed.generation, claimed.attempt, claimed.execution_id, claimed.status)
        _same((State.INTENT, "1", 1, None, None), fresh, "the entry of a new generation")
        _same(claimed, ledger.read(key), "what was read of the new generation")

    def test_new_generation_remembers_what_the_former_left_running(self) -> None:
        """A generation that takes over from a running one keeps the id of that execution, so that it can be ended."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(generation="0"), None)
        started = ledger.append(key, _event(State.STARTED, execution_id="e-1"))
        claimed = ledger.claim(key, _intent(generation="1"), started)
        _same(("e-1", None), (claimed.former, claimed.execution_id), "the former and the own execution")

    def test_unknown_start_can_be_adopted(self) -> None:
        """A person's word turns an unknown fate into a known execution."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(), None)
        ledger.append(key, _event(State.UNKNOWN, reason="NoAnswer"))
        adopted = ledger.append(key, _event(State.STARTED, execution_id="e-9", adopted=True, reason="seen by hand"))
        _same((State.STARTED, "e-9", True), (adopted.state, adopted.execution_id, adopted.adopted), "the adopted entry")

    def test_unknown_start_keeps_its_correlation(self) -> None:
        """What a person has to look for is known from the claim on, and that of an earlier start besides."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(correlation_parameter="caseRef", correlation_id="tl-1"), None)
        _same("tl-1", _found(self.another(ledger), key).correlation_id, "the correlation id after a claim")
        unknown = ledger.append(key, _event(State.UNKNOWN))
        _same(("caseRef", "tl-1"), (unknown.correlation_parameter, unknown.correlation_id), "that of an unknown start")
        again = ledger.claim(key, _intent(correlation_parameter="caseRef", correlation_id="tl-2"), unknown)
        _same(("tl-2", ("tl-1",)), (again.correlation_id, again.suspect_correlation_ids), "those after a restart")
        started = ledger.append(key, _event(State.STARTED, execution_id="e-1"))
        _same(started, self.another(ledger).read(key), "the entry of a start with a correlation id")
        _same("tl-2", started.correlation_id, "the correlation id of a known start")

    def test_attempt_that_prepares_is_continued(self) -> None:
        """An attempt that has made something records it with one more intent, and stays the same attempt."""
        ledger, key = self.ledger(), _key()
        preparing = ledger.claim(key, _intent(preparing=True), None)
        _same(True, _found(ledger, key).preparing, "whether the attempt prepares")
        ready = ledger.claim(key, _intent(progress={"case_id": "c-1"}), preparing)
        _same(
            (1, False, {"case_id": "c-1"}), (ready.attempt, ready.preparing, dict(ready.progress)), "the same attempt"
        )
        _same(ready, ledger.read(key), "what was read of it")

    def test_verdict_about_an_older_entry_is_refused(self) -> None:
        """A person's word about an entry does not hit what came after that person looked."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(), None)
        seen = ledger.append(key, _event(State.UNKNOWN))
        after = ledger.append(key, _event(State.UNKNOWN))
        stale = _event(State.REJECTED, version=seen.version, actor="somebody")
        _refused(lambda: ledger.append(key, stale), "a verdict about an older entry")
        _same(after, ledger.read(key), "the entry after a stale verdict")
        fresh = _event(State.REJECTED, version=after.version, actor="somebody")
        _same(State.REJECTED, ledger.append(key, fresh).state, "the state after a verdict")

    def test_purged_key_stays_used(self) -> None:
        """A purge forgets what happened and not that it happened: nothing can be claimed or recorded after it."""
        ledger, key = self.ledger(), _key()
        ledger.claim(key, _intent(fingerprint="f" * 64), None)
        ledger.append(key, _event(State.STARTED, execution_id="e-1"))
        ledger.append(key, _event(State.SETTLED, raw_status="COMPLETED", status="SUCCEEDED"))
        grave = ledger.append(key, _event(State.PURGED))
        _same(Entry(version=4, state=State.PURGED, changed_at=MOMENT), grave, "what a purge leaves")
        for generation in ("0", "1"):
            _refused(lambda: ledger.claim(key, _intent(generation), grave), "a claim of a purged key")  # noqa: B023 -- called here
        _refused(lambda: ledger.append(key, _event(State.STARTED, execution_id="e-1")), "an event of a purged key")
        _same(grave, ledger.read(key), "the entry of a purged key")

    def test_preparation_is_one_attempt(self) -> None:
        """What an attempt has made is kept from intent to intent, and the attempt stays the same."""
        ledger, key = self.ledger(), _key()
        entry = ledger.claim(key, _intent(preparing=True), None)
        entry = ledger.claim(key, _intent(preparing=True, progress={"case_id": "c-Ω"}), entry)
        _same((True, {"case_id": "c-Ω"}), (entry.preparing, entry.progress), "the preparation")
        made = {"case_id": "c-Ω", "parameters_id": "p-1"}
        entry = ledger.claim(key, _intent(progress=made), entry)
        _same((False, made, 1, 0), (entry.preparing, entry.progress, entry.attempt, entry.restarts), "the attempt")
        started = ledger.append(key, _event(State.STARTED, execution_id="e-1"))
        _same((made, started), (started.progress, self.another(ledger).read(key)), "what is kept of it")

    def test_lost_preparation_is_refused(self) -> None:
        """Of two who prepare one start only one gets to send it."""
        self._needs_comparison()
        ledger, key = self.ledger(), _key()
        preparing = ledger.claim(key, _intent(preparing=True), None)
        ready = self.another(ledger).claim(key, _intent(progress={"case_id": "c-1"}), preparing)
        _refused(lambda: ledger.claim(key, _intent(progress={"case_id": "c-2"}), preparing), "a second start")
        _same(ready, ledger.read(key), "the entry after a lost preparation")

    def test_keys_do_not_know_each_other(self) -> None:
        """What happens to one key changes no other, however alike the keys are."""
        ledger, stem = self.ledger(), _key()
        keys = [f"{stem}-{number}" for number in range(50)]
        for key in keys:
            ledger.claim(key, _intent(fingerprint=key), None)
        for key in keys[::2]:
            ledger.append(key, _event(State.STARTED, execution_id=f"e-{key}"))
        for number, key in enumerate(keys):
            entry = _found(ledger, key)
            expected = (key, None) if number % 2 else (key, f"e-{key}")
            _same(expected, (entry.fingerprint, entry.execution_id), f"the entry of key number {number}")
        _same(None, ledger.read(stem), "the entry of a key that is the beginning of others")

    def _needs_comparison(self) -> None:
        if self.fenced:
            raise unittest.SkipTest("a fenced store need not compare claims")


def _key() -> str:
    return f"conformance-{uuid.uuid4().hex}"


def _intent(generation: str = "0", **fields: Any) -> Event:
    return _event(State.INTENT, generation=generation, deadline=MOMENT + 3600, **fields)


def _event(state: State, **fields: Any) -> Event:
    return Event(state=state, at=MOMENT, **fields)


def _found(ledger: Ledger, key: str) -> Entry:
    entry = ledger.read(key)
    if entry is None:
        raise AssertionError(f"The ledger has lost the entry of {key}.")
    return entry


def _same(expected: object, actual: object, what: str) -> None:
    # No assert: a suite that python -O turns off would let every store pass.
    if expected != actual:
        raise AssertionError(f"Expected {expected!r} as {what}, but it is {actual!r}.")


def _refused(write: Callable[[], object], what: str) -> None:
    try:
        written = write()
    except LedgerError:
        return
    raise AssertionError(f"The ledger accepted {what}: {written!r}.")


def _race(racers: int, claim: Callable[[str], Entry]) -> list[Entry | Exception]:
    """
    What each of the threads got, which all claim in the same moment.
    """
    gate = threading.Barrier(racers)
    outcomes: list[Entry | Exception] = []

    def run(name: str) -> None:
        gate.wait()
        try:
            outcomes.append(claim(name))
        except Exception as error:  # judged by the test
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(f"racer-{number}",)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
