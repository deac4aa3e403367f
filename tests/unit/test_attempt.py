"""What a start has to make first is made once, whatever happens in between."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from attrs import evolve

from tests.builders import EXECUTION_ID, NOW, OTHER_ID, FakeClock, response, run_request
from tests.planted import FIRST_NAME, LAST_NAME, found_in
from tests.scripted import Crashed, Hindered, Mortal, Reaction, World
from tests.steps import LOST, RUNNING, STEP, held, start
from tl_orchestration.claim import SETTLE_WINDOW
from tl_orchestration.errors import (
    InvalidAnswer,
    InvalidRequest,
    LedgerError,
    NoAnswer,
    RateLimited,
    ServerError,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.exchange import once
from tl_orchestration.fingerprint import fingerprint
from tl_orchestration.ledger import Entry, Event, MemoryLedger, State
from tl_orchestration.models import Execution
from tl_orchestration.options import LegacyOptions
from tl_orchestration.services.legacy import Legacy
from tl_orchestration.start import start_unrecorded
from tl_orchestration.status import Status

ABOUT_ADA = run_request(options=LegacyOptions(first_name=FIRST_NAME, last_name=LAST_NAME))
ABOUT_BOB = run_request(options=LegacyOptions(first_name="Bob"))
CASE = response(201, {"caseId": "case-1"})
PARAMETERS = response(200, {"parametersId": "parameters-1"})
EVERYTHING = ["/cases", "/parameters", "/workflows/run"]


class TestLegacyStart:
    def test_three_posts_in_their_order(self) -> None:
        """Case, parameters, run; and the run names what was made."""
        world = World([CASE, PARAMETERS, RUNNING])
        execution = start(world, ABOUT_ADA)
        assert (execution.id, world.paths) == (EXECUTION_ID, EVERYTHING)
        assert world.bodies("/workflows/run") == [
            {"workflowDefinitionId": "kyc-approve", "caseId": "case-1", "parametersId": "parameters-1"}
        ]
        assert held(world).progress == {"case_id": "case-1", "parameters_id": "parameters-1"}
        assert (held(world).state, held(world).preparing, held(world).attempt) == (State.STARTED, False, 1)

    def test_handle_has_its_version_and_no_expiry(self) -> None:
        """What has no expiry is waited for until its deadline; the version goes along."""
        world = World([CASE, PARAMETERS, RUNNING])
        handle = start(world, ABOUT_ADA).handle
        assert (handle.api_version, handle.expires_at, handle.deadline, handle.owned) == (1, None, NOW + 3600, True)
        assert (handle.service, handle.execution_id) == ("transactionlink-legacy", EXECUTION_ID)

    def test_nothing_to_make_is_one_post_and_one_intent(self) -> None:
        """A case that exists, and no parameters: the intent is that of the start."""
        world = World([RUNNING])
        start(world, run_request(options=LegacyOptions(case_id=OTHER_ID), parameters={}))
        assert (world.paths, held(world).version) == (["/workflows/run"], 2)

    def test_each_intent_has_its_own_window(self) -> None:
        """However long the preparing took, whoever looks gives the start the whole time that it may take."""
        ledger, clock, windows = MemoryLedger(), FakeClock(), []

        def making(key: str, intent: Event, after: Entry | None) -> Entry:
            clock.advance(170)
            windows.append((intent.settles_at or 0.0) - intent.at)
            return ledger.claim(key, intent, after)

        start(World([CASE, PARAMETERS, RUNNING], Hindered(ledger, making, ledger.append), clock), ABOUT_ADA)
        assert windows == [SETTLE_WINDOW] * 3

    def test_run_that_has_ended_in_its_start_answer(self) -> None:
        """COMPLETED at once is a start like any other."""
        world = World([CASE, PARAMETERS, response(200, {"id": EXECUTION_ID, "status": "COMPLETED"})])
        assert Status.SUCCEEDED is start(world, ABOUT_ADA).status
        assert (held(world).state, held(world).execution_id) == (State.STARTED, EXECUTION_ID)

    @pytest.mark.parametrize("made", [0, 1])
    @pytest.mark.parametrize(
        ("failure", "error"),
        [
            (LOST, NoAnswer),
            (NoAnswer("refused", sent=False), NoAnswer),
            (response(500), ServerError),
            (response(429), RateLimited),
            (response(400), InvalidRequest),
            (response(200), InvalidAnswer),
            (InvalidAnswer("too large"), InvalidAnswer),
        ],
    )
    def test_failure_before_the_run_has_started_nothing(
        self, failure: Reaction, error: type[TransactionlinkError], made: int
    ) -> None:
        """Whatever becomes of the first two posts, it is no unknown start, and the next try makes only the rest."""
        world = World([CASE, PARAMETERS][:made]).will(failure)
        with pytest.raises(error):
            start(world, ABOUT_ADA)
        assert (State.REJECTED, EVERYTHING[: made + 1]) == (held(world).state, world.paths)
        world.requests.clear()
        world.will(*[CASE, PARAMETERS, RUNNING][made:])
        assert (EXECUTION_ID, EVERYTHING[made:]) == (start(world, ABOUT_ADA).id, world.paths)

    def test_what_was_given_up_is_recorded_with_time_and_reason(self) -> None:
        """The entry says when and why no execution has started; the intent's own facts stay."""
        ledger, clock, recorded = MemoryLedger(), FakeClock(), []

        def making(key: str, intent: Event, after: Entry | None) -> Entry:
            claimed = ledger.claim(key, intent, after)
            clock.now = NOW + 7  # by the time that the service answers
            return claimed

        def failing(key: str, event: Event) -> Entry:
            recorded.append(event)
            return ledger.append(key, event)

        world = World([CASE, response(403)], Hindered(ledger, making, failing), clock)
        with pytest.raises(TransactionlinkError):
            start(world, ABOUT_ADA)
        assert recorded == [Event(state=State.REJECTED, at=NOW + 7, reason="PermissionDenied", version=2)]
        assert (held(world).changed_at, held(world).deadline) == (NOW + 7, NOW + 3600)

    @pytest.mark.parametrize("failure", [LOST, response(500)])
    def test_what_may_have_been_left_behind_is_said(self, failure: Reaction, caplog: pytest.LogCaptureFixture) -> None:
        """An orphan at the service is logged, without the person that it is about."""
        with caplog.at_level(logging.WARNING), pytest.raises(TransactionlinkError):
            start(World([failure]), ABOUT_ADA)
        assert "no execution has started, but the service may have made a case" in caplog.text
        assert found_in(caplog.text) == []

    def test_what_was_never_sent_left_nothing_behind(self, caplog: pytest.LogCaptureFixture) -> None:
        """Then nothing is said of an orphan."""
        with caplog.at_level(logging.WARNING), pytest.raises(NoAnswer):
            start(World([NoAnswer("refused", sent=False)]), ABOUT_ADA)
        assert "may have made" not in caplog.text

    @pytest.mark.parametrize("failure", [LOST, response(500), response(200), response(200, {"status": "RUNNING"})])
    def test_lost_answer_of_the_run_is_an_unknown_start(self, failure: Reaction) -> None:
        """From the third post on it is as with every other service."""
        world = World([CASE, PARAMETERS, failure])
        for _ in range(2):
            with pytest.raises(StartOutcomeUnknown):
                start(world, ABOUT_ADA)
        assert (held(world).state, world.paths) == (State.UNKNOWN, EVERYTHING)

    def test_refused_run_keeps_what_was_made(self) -> None:
        """The next try goes on with case and parameters."""
        world = World([CASE, PARAMETERS, response(403), RUNNING])
        with pytest.raises(TransactionlinkError):
            start(world, ABOUT_ADA)
        assert start(world, ABOUT_ADA).id == EXECUTION_ID
        assert [*EVERYTHING, "/workflows/run"] == world.paths
        assert (held(world).state, held(world).attempt) == (State.STARTED, 2)

    @pytest.mark.parametrize(
        ("change", "again"),
        [
            ({"request": ABOUT_BOB}, True),
            ({"request": evolve(ABOUT_ADA, parameters={"a": 1})}, True),
            ({"identity": fingerprint(ABOUT_ADA, b"rotated")}, True),
            ({"step": evolve(STEP, generation="1")}, True),
            ({}, False),
        ],
    )
    def test_a_case_is_never_used_for_another_request(self, change: dict[str, Any], *, again: bool) -> None:
        """Another person, other parameters, a request that cannot be compared, a cleared step: all is made anew."""
        world = World([CASE, LOST])
        with pytest.raises(NoAnswer):
            start(world, ABOUT_ADA)
        world.requests.clear()
        world.will(*([response(201, {"caseId": "case-2"})] if again else []), PARAMETERS, RUNNING)
        start(world, **{"request": ABOUT_ADA, **change})
        assert ("/cases" in world.paths) is again
        assert ["case-2" if again else "case-1"] == [body["caseId"] for body in world.bodies("/workflows/run")]

    def test_ledger_holds_ids_and_no_person(self) -> None:
        """What was sent to make them is not kept."""
        world = World([CASE, PARAMETERS, RUNNING])
        start(world, ABOUT_ADA)
        assert found_in(str(held(world).to_dict())) == []

    def test_without_a_ledger(self) -> None:
        """The same three posts; and a lost case is no unknown start."""
        service = Legacy(now=lambda: NOW).for_request(ABOUT_ADA)

        def unrecorded(world: World) -> Execution:
            return world.drive(start_unrecorded(service, ABOUT_ADA, timeout=60, clock=world.clock.clock(), start=once))

        world = World([CASE, PARAMETERS, RUNNING])
        assert (
            unrecorded(world).id,
            unrecorded(world.will(CASE, PARAMETERS, RUNNING)).handle.api_version,
        ) == (EXECUTION_ID, 1)
        assert world.paths == EVERYTHING * 2
        with pytest.raises(NoAnswer):
            unrecorded(World([LOST]))
        with pytest.raises(StartOutcomeUnknown):
            unrecorded(World([CASE, PARAMETERS, LOST]))


#: Where the process dies, what the service has made by then, and what the next try does.
POINTS: list[tuple[str, int, bool, list[str], list[str] | None]] = [
    ("before the first intent", 1, False, [], EVERYTHING),
    ("after the first intent", 1, True, [], EVERYTHING),
    ("case made, id not recorded", 2, False, ["/cases"], EVERYTHING),
    ("case recorded", 2, True, ["/cases"], ["/parameters", "/workflows/run"]),
    ("parameters made, id not recorded", 3, False, ["/cases", "/parameters"], ["/parameters", "/workflows/run"]),
    ("intent to start recorded", 3, True, ["/cases", "/parameters"], None),
    ("run sent, id not recorded", 4, False, EVERYTHING, None),
]


class TestCrash:
    @pytest.mark.parametrize(("point", "write", "after", "before", "then"), POINTS)
    def test_next_try_makes_what_is_missing_and_starts_at_most_once(
        self, point: str, write: int, *, after: bool, before: list[str], then: list[str] | None
    ) -> None:
        """Nothing that is known is made again, and where the run may have been sent nothing is."""
        mortal = Mortal(write, after=after)
        world = World([CASE, PARAMETERS, RUNNING], ledger=mortal)
        with pytest.raises(Crashed):
            start(world, ABOUT_ADA)
        assert before == world.paths, point
        survivor = World([CASE, PARAMETERS, RUNNING][-len(then) :] if then else [], ledger=mortal.inner)
        if then is None:
            with pytest.raises(StartOutcomeUnknown):
                start(survivor, ABOUT_ADA)
            assert survivor.paths == [], point
        else:
            assert (EXECUTION_ID, then) == (start(survivor, ABOUT_ADA).id, survivor.paths), point
            assert held(survivor).attempt == 1, point

    def test_whoever_comes_back_late_starts_nothing(self) -> None:
        """A try that another one has overtaken while it prepared fails at its next write, and leaves that one alone."""
        world = World()
        slow = World([CASE, PARAMETERS, RUNNING], ledger=world.ledger)
        quick = World([PARAMETERS, RUNNING], ledger=world.ledger)
        original = slow.ledger.claim

        def overtaken(key: str, intent: Event, after: Entry | None) -> Entry:
            if intent.progress.get("parameters_id") and not quick.requests:
                assert start(quick, ABOUT_ADA).id == EXECUTION_ID
            return original(key, intent, after)

        slow.ledger = Hindered(world.ledger, overtaken)
        with pytest.raises(LedgerError):
            start(slow, ABOUT_ADA)
        assert (slow.paths, quick.paths) == (["/cases", "/parameters"], ["/parameters", "/workflows/run"])
        assert (held(world).state, held(world).execution_id) == (State.STARTED, EXECUTION_ID)

    def test_late_failure_rejects_nobody_elses_start(self) -> None:
        """A try whose case is refused after another one has taken over does not undo the other's intent."""
        world = World()
        slow = World([LOST], ledger=world.ledger)
        original = world.ledger.append

        def overtaken(key: str, event: Event) -> Entry:
            if event.state is State.REJECTED:
                found = held(world)
                intent = Event(state=State.INTENT, at=NOW, generation="0", fingerprint=found.fingerprint)
                world.ledger.claim(key, intent, found)
            return original(key, event)

        slow.ledger = Hindered(world.ledger, world.ledger.claim, overtaken)
        with pytest.raises(NoAnswer):
            start(slow, ABOUT_ADA)
        assert (held(world).state, held(world).preparing) == (State.INTENT, False)


def test_clock_of_a_repeat_is_the_flows_own() -> None:
    """Intents carry the time of their writing, so that others can tell how fresh they are."""
    world = World([CASE, PARAMETERS, RUNNING], clock=FakeClock(NOW))
    times: list[float] = []
    original = world.ledger.claim

    def noting(key: str, intent: Event, after: Entry | None) -> Entry:
        times.append(intent.at)
        world.clock.advance(10)
        return original(key, intent, after)

    world.ledger = Hindered(world.ledger, noting)
    start(world, ABOUT_ADA)
    assert times == [NOW, NOW + 10, NOW + 20]
