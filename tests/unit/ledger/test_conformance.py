"""The conformance suite is worth its name: it lets no broken store pass."""

from __future__ import annotations

import subprocess
import sys
import time
import unittest
from collections.abc import Callable
from functools import partial

import pytest
from attrs import evolve

from tl_orchestration.ledger import Entry, Event, Ledger, MemoryLedger, State
from tl_orchestration.ledger.conformance import LedgerConformance
from tl_orchestration.ledger.entry import fold


class Overwriting(MemoryLedger):
    """Claims without looking."""

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        return self._write(key, fold(after, intent))


class Fenced(Overwriting):
    """Need not look: somebody else sees to it."""

    fenced = True


class Racy(MemoryLedger):
    """Looks, and writes a moment later."""

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        if self._entries.get(key) == after:
            time.sleep(0.01)
            return self._write(key, fold(after, intent))
        return super().claim(key, intent, after)


class Forgetful(MemoryLedger):
    """Acknowledges an append that it has not written."""

    def append(self, key: str, event: Event) -> Entry:
        return fold(self.read(key), event)


class Lenient(MemoryLedger):
    """Writes whatever it is given."""

    def append(self, key: str, event: Event) -> Entry:
        entry = self.read(key) or fold(None, event)
        return self._write(key, evolve(entry, state=event.state, version=entry.version + 1))


class Coarse(MemoryLedger):
    """Keeps whole seconds only."""

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        deadline = None if intent.deadline is None else float(int(intent.deadline))
        return super().claim(key, evolve(intent, deadline=deadline), after)


class Prefixing(MemoryLedger):
    """Cuts long keys."""

    def read(self, key: str) -> Entry | None:
        return super().read(key[:44])

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        return super().claim(key[:44], intent, after)

    def append(self, key: str, event: Event) -> Entry:
        return super().append(key[:44], event)


class Undead(MemoryLedger):
    """Forgets a purged key altogether."""

    def append(self, key: str, event: Event) -> Entry:
        entry = super().append(key, event)
        if event.state is State.PURGED:
            del self._entries[key]
        return entry


class Unaware(MemoryLedger):
    """Records a verdict whatever it was about."""

    def append(self, key: str, event: Event) -> Entry:
        return super().append(key, evolve(event, version=None))


class Narrow(MemoryLedger):
    """Has no column for what an attempt has made."""

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        return super().claim(key, evolve(intent, progress={}), after)


class Unnamed(MemoryLedger):
    """Has no column for what a person could look for."""

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        return super().claim(key, evolve(intent, correlation_id=None), after)


class Sticky(MemoryLedger):
    """Keeps what the former generation did."""

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        claimed = super().claim(key, intent, after)
        return claimed if after is None else self._write(key, evolve(after, state=State.INTENT))


def suite(ledger: Callable[[], Ledger], *, is_fenced: bool = False) -> list[Callable[[], None]]:
    """The shipped tests over one kind of ledger."""

    class Suite(LedgerConformance):
        fenced = is_fenced

        def ledger(self) -> Ledger:
            return ledger()

    tests = Suite()
    return [getattr(tests, name) for name in sorted(dir(tests)) if name.startswith("test_")]


def fails(test: Callable[[], None]) -> bool:
    """Whether the test fails, by an assertion or by any other error."""
    try:
        test()
    except unittest.SkipTest:
        return False
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    "broken",
    [Overwriting, Fenced, Racy, Forgetful, Lenient, Coarse, Prefixing, Undead, Unaware, Narrow, Unnamed, Sticky],
)
def test_broken_store_does_not_pass(broken: Callable[[], Ledger]) -> None:
    """Each way of breaking a store fails at least one test of the suite."""
    assert any(fails(test) for test in suite(broken))


def test_sound_store_passes_every_test() -> None:
    """The suite fails no store that obeys the laws."""
    assert [test for test in suite(MemoryLedger) if fails(test)] == []


def test_fenced_store_is_spared_the_comparison_only() -> None:
    """A store that says it is fenced skips the tests of lost claims, and runs all others."""
    skipped = []
    for test in suite(Fenced, is_fenced=True):
        try:
            test()
        except unittest.SkipTest:
            skipped.append(test.__name__)
    assert skipped == [
        "test_claim_after_a_stale_read_is_refused",
        "test_lost_claim_is_refused",
        "test_lost_preparation_is_refused",
        "test_one_of_many_racing_claims_wins",
    ]


def test_suite_without_a_ledger_says_so() -> None:
    """A subclass that forgets to make a ledger is told."""
    with pytest.raises(NotImplementedError, match="how a ledger is made"):
        LedgerConformance().ledger()


def test_suite_needs_no_test_framework() -> None:
    """A store can be tried where pytest is not installed, and with assertions switched off."""
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from tl_orchestration.ledger.conformance import LedgerConformance\n"
        "from tl_orchestration.ledger import MemoryLedger\n"
        "class Lost(MemoryLedger):\n"
        "    def read(self, key): return None\n"
        "class Suite(LedgerConformance):\n"
        "    def ledger(self): return Lost()\n"
        "Suite().test_claim_is_read_back()\n"
    )
    run = partial(subprocess.run, capture_output=True, text=True, check=False, timeout=60)
    finished = run([sys.executable, "-O", "-c", program])
    assert finished.returncode == 1
    assert "AssertionError: Expected" in finished.stderr
