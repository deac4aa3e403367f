"""What an attempt has made is kept with its intents, and nothing else is."""

from __future__ import annotations

import pytest

from tests.builders import entry, event
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import Entry, MemoryLedger, State

KEY = "k"


class TestEntry:
    def test_progress_survives_its_trip_through_json(self) -> None:
        """And costs nothing where there is none."""
        full = entry(State.INTENT, progress={"case_id": "c"}, preparing=True)
        assert full == Entry.from_dict(full.to_dict())
        assert {"progress", "preparing"}.isdisjoint(entry(State.INTENT).to_dict())

    @pytest.mark.parametrize("progress", [7, "text", ["a"], {"a": 1}, {"a": None}])
    def test_unreadable_progress_is_refused(self, progress: object) -> None:
        """A store's document is not trusted."""
        with pytest.raises(LedgerError, match="cannot be read"):
            Entry.from_dict(entry(State.INTENT).to_dict() | {"progress": progress})

    def test_preparing_ends_with_whatever_follows(self) -> None:
        """What is known of the outcome counts, not how far it had come."""
        ledger = MemoryLedger()
        ledger.claim(KEY, event(State.INTENT, preparing=True, progress={"case_id": "c"}), None)
        rejected = ledger.append(KEY, event(State.REJECTED))
        assert (rejected.preparing, rejected.progress) == (False, {"case_id": "c"})

    def test_taking_up_a_preparation_keeps_what_a_former_generation_left_running(self) -> None:
        """One more intent of the same attempt loses nothing."""
        ledger = MemoryLedger()
        ledger.claim(KEY, event(State.INTENT, generation="0"), None)
        running = ledger.append(KEY, event(State.STARTED, execution_id="e-1"))
        first = ledger.claim(KEY, event(State.INTENT, generation="1", preparing=True), running)
        second = ledger.claim(KEY, event(State.INTENT, generation="1", progress={"case_id": "c"}), first)
        assert ("e-1", 1, 0, first.version + 1) == (second.former, second.attempt, second.restarts, second.version)

    def test_preparation_of_another_generation_is_no_unknown_fate(self) -> None:
        """Nothing ran, so there is no suspect and no restart to count."""
        ledger = MemoryLedger()
        preparing = ledger.claim(KEY, event(State.INTENT, generation="0", preparing=True), None)
        anew = ledger.claim(KEY, event(State.INTENT, generation="1"), preparing)
        assert (anew.restarts, anew.suspects, anew.attempt) == (0, (), 1)
