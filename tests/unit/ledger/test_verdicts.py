"""A person's word about a start of unknown fate: taken where it settles something, refused everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import NOW, event
from tl_orchestration.claim import SETTLE_WINDOW
from tl_orchestration.errors import InvalidRequest, KeyPurged, LedgerError
from tl_orchestration.ledger import Entry, Event, Ledger, MemoryLedger, SqlLedger, State
from tl_orchestration.ledger.records import Records
from tl_orchestration.ledger.verdicts import adopt, not_started

LATER = NOW + 2 * SETTLE_WINDOW


class FencedLedger(MemoryLedger):
    """A store in which whoever lost the step cannot write."""

    fenced = True


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return MemoryLedger() if request.param == "memory" else SqlLedger(f"sqlite:///{tmp_path}/ledger.db")


def adopted(ledger: Ledger, now: float = LATER) -> Entry:
    return adopt(ledger, "k", "e-9", reason="  seen in\nthe dashboard ", actor="jo", now=now)


def judged(ledger: Ledger, now: float = LATER) -> Entry:
    return not_started(ledger, "k", reason="not in the dashboard", actor="jo", now=now)


def wrote(ledger: Ledger, *states: State, **fields: str) -> None:
    """An entry that has gone through these states after its intent."""
    ledger.claim("k", event(State.INTENT), None)
    for state in states:
        ledger.append("k", event(state, **fields))


@pytest.mark.parametrize("states", [[], [State.UNKNOWN]])
class TestTaken:
    def test_adopt(self, ledger: Ledger, states: list[State]) -> None:
        """An execution that was found becomes the step's; the reason is kept on one line."""
        wrote(ledger, *states)
        entry = adopted(ledger)
        assert (entry.state, entry.execution_id, entry.adopted) == (State.STARTED, "e-9", True)
        assert (entry.reason, entry.consumed_by) == ("seen in the dashboard", None)
        assert ledger.read("k") == entry

    def test_not_started(self, ledger: Ledger, states: list[State]) -> None:
        """A start that did not happen is recorded as one that was refused."""
        wrote(ledger, *states)
        entry = judged(ledger)
        assert (entry.state, entry.execution_id, entry.reason) == (State.REJECTED, None, "not in the dashboard")
        assert ledger.read("k") == entry


@pytest.mark.parametrize("verdict", [adopted, judged])
class TestRefused:
    @pytest.mark.parametrize(
        ("states", "says"),
        [
            ([State.STARTED], "known that it has started execution e-1"),
            ([State.STARTED, State.CANCEL_REQUESTED], "known that it has started execution e-1"),
            ([State.STARTED, State.SETTLED], r"has started execution e-1, which has ended \(FAILED\)"),
        ],
    )
    def test_known_start(
        self, ledger: Ledger, verdict: Callable[[Ledger], Entry], states: list[State], says: str
    ) -> None:
        """What is known needs no verdict, and the refusal says what is known."""
        wrote(ledger, *states, execution_id="e-1", status="FAILED")
        before = ledger.read("k")
        with pytest.raises(LedgerError, match=f"nothing to decide about k: it.*{says}"):
            verdict(ledger)
        assert ledger.read("k") == before

    def test_refused_start(self, ledger: Ledger, verdict: Callable[[Ledger], Entry]) -> None:
        """Where nothing was started, the next try starts without a verdict."""
        wrote(ledger, State.REJECTED)
        with pytest.raises(LedgerError, match="nothing was started, and the next try starts"):
            verdict(ledger)

    def test_start_that_was_not_sent(self, ledger: Ledger, verdict: Callable[[Ledger], Entry]) -> None:
        """While an attempt only prepares, nothing can run, and the next try goes on without a verdict."""
        ledger.claim("k", event(State.INTENT, preparing=True, progress={"case_id": "c-1"}), None)
        with pytest.raises(LedgerError, match="has not been sent yet"):
            verdict(ledger)

    def test_unknown_key(self, ledger: Ledger, verdict: Callable[[Ledger], Entry]) -> None:
        """A key that nobody used is no entry, and becomes none."""
        with pytest.raises(LedgerError, match="holds nothing for k"):
            verdict(ledger)
        assert ledger.read("k") is None

    def test_purged_key(self, ledger: Ledger, verdict: Callable[[Ledger], Entry]) -> None:
        """A tombstone stays one."""
        wrote(ledger, State.REJECTED)
        ledger.append("k", event(State.PURGED))
        with pytest.raises(KeyPurged):
            verdict(ledger)

    def test_start_that_may_be_on_its_way(self, ledger: Ledger, verdict: Callable[[Ledger, float], Entry]) -> None:
        """While a process may still be starting, nobody can know what will come of it; the refusal says until when."""
        wrote(ledger)
        with pytest.raises(LedgerError, match=r"may be starting k just now.* at 2026-09-21T14:16:20"):
            verdict(ledger, NOW + SETTLE_WINDOW - 1)
        assert verdict(ledger, NOW + SETTLE_WINDOW).state is not State.INTENT

    def test_start_of_a_slow_client(self, ledger: Ledger, verdict: Callable[[Ledger, float], Entry]) -> None:
        """An intent says itself until when its process may be at it, whatever the settings of whoever judges."""
        ledger.claim("k", event(State.INTENT, settles_at=NOW + 750), None)
        with pytest.raises(LedgerError, match=r"may be starting k just now.* at 2026-09-21T14:25:50"):
            verdict(ledger, NOW + 749)
        assert verdict(ledger, NOW + 750).state is not State.INTENT

    def test_fenced_start_is_on_nobodys_way(self, ledger: Ledger, verdict: Callable[[Ledger, float], Entry]) -> None:
        """In a fenced store an intent is a former try's, however young."""
        fenced = FencedLedger()
        wrote(fenced)
        assert verdict(fenced, NOW + 1).version == 2

    def test_entry_that_moved_on(
        self, ledger: Ledger, verdict: Callable[[Ledger], Entry], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A verdict on what was read does not hit a start that began after it was read."""
        wrote(ledger, State.UNKNOWN)
        original = type(ledger).append

        def overtaken(self: Ledger, key: str, said: Event) -> Entry:
            self.claim(key, event(State.INTENT, at=LATER), self.read(key))
            return original(self, key, said)

        monkeypatch.setattr(type(ledger), "append", overtaken)
        with pytest.raises(LedgerError, match="changed since it was read"):
            verdict(ledger)
        assert getattr(ledger.read("k"), "state", None) is State.INTENT


@pytest.mark.parametrize("execution_id", ["", "a/b", "a b", "../x", "e" * 129, " e-1"])
def test_what_is_no_execution_id(ledger: Ledger, execution_id: str) -> None:
    """What could not be asked for is not adopted."""
    wrote(ledger, State.UNKNOWN)
    with pytest.raises(InvalidRequest, match="execution id"):
        adopt(ledger, "k", execution_id, reason="r", actor="jo", now=LATER)


def test_verdict_needs_a_reason(ledger: Ledger) -> None:
    """A verdict without a reason is refused."""
    wrote(ledger, State.UNKNOWN)
    with pytest.raises(InvalidRequest, match="needs a reason"):
        adopt(ledger, "k", "e-1", reason=" \n", actor="jo", now=LATER)
    with pytest.raises(InvalidRequest, match="needs a reason"):
        not_started(ledger, "k", reason="", actor="jo", now=LATER)


def test_trail_names_the_person(tmp_path: Path) -> None:
    """The trail has who said what, and why; processes are told from people."""
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db", actor="worker 7")
    wrote(ledger, State.UNKNOWN)
    judged(ledger)
    ledger.claim("k", event(State.INTENT, at=LATER), ledger.read("k"))
    ledger.append("k", event(State.UNKNOWN))
    adopted(ledger, LATER)
    records = Records(ledger.database)
    (record,) = records.find("k")
    said = [(line.actor, line.action, line.execution_id, line.reason) for line in records.trail(record)]
    assert said == [
        ("worker 7", "claim", None, None),
        ("worker 7", "record", None, None),
        ("jo", "not-started", None, "not in the dashboard"),
        ("worker 7", "claim", None, None),
        ("worker 7", "record", None, None),
        ("jo", "adopt", "e-9", "seen in the dashboard"),
    ]
