"""A process may be killed at any point of the start protocol: nothing starts twice, and no recorded id is lost."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import frozen

from tests.faults.mortal import PENDING, Nursery, Order, Outcome, nursery, started
from tests.remote import Remote
from tl_orchestration.claim import SETTLE_WINDOW
from tl_orchestration.ledger import Entry, SqlLedger, State
from tl_orchestration.ledger.records import Records
from tl_orchestration.ledger.verdicts import adopt, not_started

SOAK = bool(os.environ.get("SOAK"))
#: When every intent counts as a start of unknown fate, also one that may be sent three times.
LATE = 4 * SETTLE_WINDOW
#: How long the sandbox keeps an answer back that must not arrive before the kill, seconds; no longer than there is
#: somebody to answer.
_HELD = 90.0


@pytest.fixture(scope="module")
def tries() -> Iterator[Nursery]:
    with nursery() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the ledger is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def ledger(url: str) -> Iterator[SqlLedger]:
    """The ledger that the tries use."""
    ledger = SqlLedger(url, "mortal")
    yield ledger
    ledger.close()


@frozen
class Scene:
    """
    One step, one service, one ledger; and how to try.
    """

    tries: Nursery
    remote: Remote
    ledger: SqlLedger
    url: str
    key: str
    options: Mapping[str, Any]

    def attempt(self, generation: str, *, later: float = 0.0, dies_at: int | None = None) -> Outcome:
        order = Order(
            ledger=self.url,
            service=self.remote.url,
            key=self.key,
            generation=generation,
            later=later,
            dies_at=dies_at,
            **self.options,
        )
        return self.tries.attempt(order)

    def entry(self) -> Entry | None:
        return self.ledger.read(self.key)

    def started(self, generation: str) -> list[str]:
        return started(self.remote, self.key, generation)


def fresh(scene: Scene) -> str:
    """A step that was never tried."""
    return "0"


def refused(scene: Scene) -> str:
    """A step whose first start was refused."""
    scene.remote.order("start", "status", status=400, definition=scene.key)
    assert scene.attempt("0").error == "InvalidRequest"
    return "0"


def running(scene: Scene) -> str:
    """A step whose execution was started by an earlier try."""
    assert scene.attempt("0").error is None
    return "0"


def judged(scene: Scene) -> str:
    """A cleared step whose lost start a person has found, and adopted."""
    scene.remote.order("start", "lose", definition=scene.key)
    assert scene.attempt("0").error == "StartOutcomeUnknown"
    (lost,) = scene.started("0")
    adopt(scene.ledger, scene.key, lost, reason="found", actor="jo", now=time.time())
    return "1"


def cleared(scene: Scene) -> str:
    """A step that was cleared while its execution ran."""
    assert scene.attempt("0").error is None
    return "1"


#: What has happened before the try that is killed; the commands of that try; and what its kill may leave.
HISTORIES: dict[str, tuple[Callable[[Scene], str], list[str], set[str]]] = {
    "first try": (fresh, ["ReadLedger", "ClaimStart", "run", "append STARTED"], {"nothing", "intent", "id"}),
    "retry after a refusal": (
        refused,
        ["ReadLedger", "ClaimStart", "run", "append STARTED"],
        {"nothing", "intent", "id"},
    ),
    "retry of a start": (running, ["ReadLedger", "poll"], {"id"}),
    "adopted": (judged, ["ReadLedger", "append STARTED", "poll", "append STARTED"], {"id"}),
    "cleared": (
        cleared,
        ["ReadLedger", "cancel", "poll", "ClaimStart", "run", "append STARTED"],
        {"nothing", "intent", "id"},
    ),
    "three posts": (
        fresh,
        ["ReadLedger", "ClaimStart", "prepare", "ClaimStart", "prepare", "ClaimStart", "run", "append STARTED"],
        {"nothing", "preparing", "intent", "id"},
    ),
    "same key": (fresh, ["ReadLedger", "ClaimStart", "run", "append STARTED"], {"nothing", "repeated", "id"}),
}
#: What the tries of a history are, if not those of the current API with default options.
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "three posts": {"api": "transactionlink-legacy"},
    "same key": {"api": "b3os", "on_unknown_start": "repeat-same-key", "correlation_parameter": "caseRef"},
}


#: Histories whose try is also killed between the statements of one command.
WITHIN = set(HISTORIES) if SOAK else {"first try"}


@pytest.mark.parametrize("history", HISTORIES)
def test_kill_at_any_point(history: str, tries: Nursery, remote: Remote, ledger: SqlLedger, url: str) -> None:
    """Killed anywhere, a try leaves what the next one starts, goes on with, or calls unknown; never two."""
    prepare, commands, leaves = HISTORIES[history]
    stem = f"{history.replace(' ', '-')}-{uuid.uuid4().hex[:8]}"

    def scene(name: str) -> Scene:
        remote.define(f"{stem}-{name}", like="kyc-slow")
        return Scene(tries, remote, ledger, url, f"{stem}-{name}", OPTIONS.get(history, {}))

    probe = scene("probe")
    points = probe.attempt(prepare(probe)).points
    assert [name for name in points if name.removeprefix("after ") in commands] == [
        f"after {name}" for name in commands
    ]
    assert (PENDING in points) is ("run" in commands)
    assert {"before COMMIT", "after INSERT tl_ledger_trail"} <= set(points) or leaves == {"id"}
    chosen = {number: name for number, name in enumerate(points) if history in WITHIN or _is_outside(name)}
    left = Counter(_killed_at(scene(str(number)), prepare, number, name) for number, name in chosen.items())
    assert set(left) == leaves
    assert left.total() == len(chosen)


@pytest.mark.parametrize("shown_again", [True, False])
@pytest.mark.parametrize("on_link_lost", ["fail", "restart"])
def test_kill_around_a_delivery(
    shown_again: bool,
    on_link_lost: Literal["fail", "restart"],
    tries: Nursery,
    remote: Remote,
    url: str,
    tmp_path: Path,
) -> None:
    """Killed anywhere, a try leaves a link that was or will be delivered, or one that the next try calls lost."""
    remote.vary(link_in_status=shown_again)
    stem, ends = f"review-{uuid.uuid4().hex[:8]}", Counter[str]()

    def attempt(name: str, **options: Any) -> Outcome:
        links = str(tmp_path / name)
        return tries.attempt(
            Order(ledger=url, service=remote.url, key=name, links=links, on_link_lost=on_link_lost, **options)
        )

    remote.define(f"{stem}-probe", like="kyc-review")
    points = attempt(f"{stem}-probe").points
    assert [name for name in points if "Deliver" in name] == ["before Deliver", "after Deliver"]
    for number, name in enumerate(points):
        if not _is_outside(name) or name == PENDING:
            continue
        key = f"{stem}-{number}"
        remote.define(key, like="kyc-review")
        assert attempt(key, dies_at=number).killed
        again = attempt(key, later=LATE)
        ends[str(again.error)] += 1
        if again.error is None:
            delivered = [line.split() for line in (tmp_path / key).read_text().splitlines()]
            assert again.execution_id in [made for made, _ in delivered]
            assert attempt(key, later=LATE).execution_id == again.execution_id
            assert len((tmp_path / key).read_text().splitlines()) == len(delivered)
    loses = not shown_again and on_link_lost == "fail"
    assert set(ends) == {"None", "StartOutcomeUnknown", *(["LinkLost"] if loses else [])}


def _is_outside(name: str) -> bool:
    return not any(verb in name for verb in ("SELECT", "INSERT", "UPDATE"))


def _killed_at(scene: Scene, prepare: Callable[[Scene], str], number: int, name: str) -> str:
    generation = prepare(scene)
    before = scene.started("0") + scene.started("1")
    if name == PENDING:
        scene.remote.order("start", "hold", seconds=_HELD, definition=scene.key)
    assert scene.attempt(generation, dies_at=number).killed, f"{name} was never hit"
    entry = scene.entry()
    made = [each for each in scene.started("0") + scene.started("1") if each not in before]
    assert len(made) <= 1
    _check_trail(scene, entry)
    if entry is not None and entry.state is State.INTENT and entry.preparing:
        assert made == []
        _check_prepares(scene, generation, entry)
        return "preparing"
    if entry is not None and entry.state is State.INTENT and "on_unknown_start" in scene.options:
        _check_repeats(scene, generation, entry, made)
        return "repeated"
    if entry is not None and entry.state is State.INTENT:
        _check_unknown(scene, generation, made)
        return "intent"
    if entry is not None and entry.execution_id is not None and entry.belongs_to(generation):
        assert made in ([], [entry.execution_id])
        _check_goes_on(scene, generation, entry.execution_id)
        return "id"
    assert made == [], f"killed at {name}, the ledger has lost what was started"
    _check_starts(scene, generation)
    return "nothing"


def _check_trail(scene: Scene, entry: Entry | None) -> None:
    found = Records(scene.ledger.database).find(scene.key, "mortal")
    versions = [line.version for record in found for line in Records(scene.ledger.database).trail(record)]
    assert versions == list(range(1, entry.version + 1 if entry else 1))


def _check_unknown(scene: Scene, generation: str, made: list[str]) -> None:
    """Not taken for a crash at once; later an unknown fate, whatever happened, until a person has looked."""
    before = scene.started(generation)
    assert scene.attempt(generation).error == "LedgerError"
    assert scene.attempt(generation, later=LATE).error == "StartOutcomeUnknown"
    assert scene.started(generation) == before
    said = {"reason": "looked", "actor": "jo", "now": time.time() + LATE}
    if made:
        adopt(scene.ledger, scene.key, made[0], **said)  # type: ignore[arg-type]  # as named
        _check_goes_on(scene, generation, made[0])
    else:
        not_started(scene.ledger, scene.key, **said)  # type: ignore[arg-type]  # as named
        _check_starts(scene, generation)


def _check_prepares(scene: Scene, generation: str, entry: Entry) -> None:
    """Not taken for a crash at once; later the next try makes only what is not on record, and starts."""
    assert scene.attempt(generation).error == "LedgerError"
    cases, sets = len(scene.remote.cases()), len(scene.remote.parameter_sets())
    _check_starts(scene, generation, later=LATE)
    assert len(scene.remote.cases()) - cases == ("case_id" not in entry.progress)
    assert len(scene.remote.parameter_sets()) - sets == ("parameters_id" not in entry.progress)


def _check_repeats(scene: Scene, generation: str, entry: Entry, made: list[str]) -> None:
    """Not taken for a crash at once; later the same start is sent again, and what it made before is found by it."""
    assert scene.attempt(generation).error == "LedgerError"
    again = scene.attempt(generation, later=LATE)
    assert again.error is None
    assert scene.started(generation) == [again.execution_id]
    assert made in ([], [again.execution_id])
    after = scene.entry()
    assert after is not None
    assert (after.progress, after.correlation_id) == (entry.progress, entry.correlation_id)
    _check_goes_on(scene, generation, str(again.execution_id))


def _check_starts(scene: Scene, generation: str, *, later: float = 0.0) -> None:
    """The next try starts, once, and all later ones go on with that."""
    first = scene.attempt(generation, later=later)
    assert (first.error, first.reattached) == (None, False)
    assert scene.started(generation) == [first.execution_id]
    _check_goes_on(scene, generation, str(first.execution_id))


def _check_goes_on(scene: Scene, generation: str, execution_id: str) -> None:
    """Every try goes on with that execution, at once and later, and none starts another."""
    before = scene.started(generation)
    for later in (0.0, LATE) if SOAK else (LATE,):
        again = scene.attempt(generation, later=later)
        assert (again.error, again.execution_id, again.reattached) == (None, execution_id, True)
    assert scene.started(generation) == before
    assert len(before) <= 1
