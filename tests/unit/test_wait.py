"""One deadline, a budget for failures, one last poll; a cancel only of what is ours."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from tests.builders import EXECUTION_ID, NOW, FakeClock, entry, execution, handle, response, told
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidAnswer,
    InvalidRequest,
    LedgerError,
    NoAnswer,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    TransactionlinkError,
    WaitInterrupted,
    WaitTimeout,
)
from tl_orchestration.exchange import LAST_MOMENT, AppendEvent, Command, Request, Response, Sleep, once
from tl_orchestration.ledger.entry import Event, State
from tl_orchestration.models import Execution, Handle
from tl_orchestration.pacing import Pacing
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.status import Status
from tl_orchestration.wait import AFTERMATH, EXPIRY_GRACE, READ_YOUR_START, Patience, settle, wait

Outcome = Response | TransactionlinkError
Answers = Callable[[float], Outcome]

PATIENCE = Patience(pacing=Pacing(floor=10.0, cap=10.0, share=0.0, jitter=0.0))
DEADLINE = handle(deadline=NOW + 100)


def always(outcome: Outcome) -> Answers:
    """The same answer at any time."""
    return lambda passed: outcome


def later(before: Outcome, seconds: float, after: Outcome) -> Answers:
    """One answer until so many seconds have passed, then another."""
    return lambda passed: after if passed >= seconds else before


def in_turn(*outcomes: Outcome) -> Answers:
    """One answer after another; the last one stays."""
    left = list(outcomes)
    return lambda passed: left.pop(0) if len(left) > 1 else left[0]


class World:
    """
    Answers a wait's commands by a fake clock, and remembers them.
    """

    def __init__(
        self,
        poll: Answers,
        *,
        cancel: Answers | None = None,
        result: Answers | None = None,
        ledger: TransactionlinkError | None = None,
        request_takes: float = 0.0,
    ) -> None:
        self.time = FakeClock()
        self._answers = {
            "poll": poll,
            "cancel": cancel or always(response(200)),
            "result": result or always(response(404)),
        }
        self._ledger = ledger
        self._request_takes = request_takes
        self.polls: list[float] = []
        self.sleeps: list[float] = []
        self.requests: list[str] = []
        self.within: list[float | None] = []
        self.events: list[Event] = []

    def wait(self, waited_for: Handle, patience: Patience = PATIENCE, *, proven: bool = True) -> Execution:
        """Drive a wait to its end."""
        clock = self.time.clock()
        service = Transactionlink(now=clock.now, status_map={"TAUGHT": Status.SUCCEEDED})
        rng = random.Random(1)
        flow = wait(service, waited_for, patience, send=once, repeat=once, clock=clock, rng=rng, proven=proven)
        command: Command = next(flow)
        try:
            while True:
                outcome = self._perform(command)
                command = flow.throw(outcome) if isinstance(outcome, TransactionlinkError) else flow.send(outcome)
        except StopIteration as done:
            ended = done.value
        assert isinstance(ended, Execution)
        return ended

    def _perform(self, command: Command) -> Any:
        if isinstance(command, Sleep):
            assert command.seconds > 0
            self.sleeps.append(command.seconds)
            self.time.advance(command.seconds)
            return None
        if isinstance(command, AppendEvent):
            self.events.append(command.event)
            return self._ledger or entry(State.SETTLED)
        assert isinstance(command, Request)
        self.requests.append(command.operation)
        self.within.append(command.within)
        self.time.advance(self._request_takes)
        if command.operation == "poll":
            self.polls.append(self.time.passed)
        return self._answers[command.operation](self.time.passed)


class TestEnding:
    @pytest.mark.parametrize("literal", ["COMPLETED", "FAILED", "CANCELED", "EXPIRED", "TAUGHT"])
    def test_every_ending_is_returned_and_recorded(self, literal: str) -> None:
        """A wait returns an ended execution whatever its ending, and records literal and meaning."""
        world = World(later(told("RUNNING"), 25, told(literal)))
        ended = world.wait(handle(key="k"))
        assert (literal, True) == (ended.raw_status, ended.is_terminal)
        assert world.polls == [0, 10, 20, 30]
        assert [(State.SETTLED, EXECUTION_ID, literal, ended.status.value)] == [
            (one.state, one.execution_id, one.raw_status, one.status) for one in world.events
        ]

    def test_first_poll_comes_at_once(self) -> None:
        """An execution that has ended is seen without any sleep."""
        world = World(always(told("COMPLETED")))
        world.wait(DEADLINE)
        assert world.sleeps == []

    def test_without_a_key_nothing_is_recorded(self) -> None:
        """A bare execution has no ledger entry."""
        world = World(always(told("COMPLETED")))
        world.wait(handle())
        assert world.events == []

    @pytest.mark.parametrize("failure", [LedgerError("down"), LedgerError("another process owns it")])
    def test_ledger_does_not_change_the_outcome(self, failure: LedgerError, caplog: pytest.LogCaptureFixture) -> None:
        """An ending that cannot be recorded is reported, and returned all the same."""
        ended = World(always(told("COMPLETED")), ledger=failure).wait(handle(key="k"))
        assert Status.SUCCEEDED is ended.status
        assert "SETTLED could not be recorded" in caplog.text

    def test_each_change_is_told_once(self) -> None:
        """on_change is called with every poll that shows another literal, and with no other."""
        seen: list[str] = []
        patience = evolve(PATIENCE, on_change=lambda one: seen.append(one.raw_status))
        polls = in_turn(
            *(told(literal) for literal in ["PENDING", "RUNNING", "RUNNING", "ODD", "RUNNING", "COMPLETED"])
        )
        World(polls).wait(handle(), patience)
        assert seen == ["PENDING", "RUNNING", "ODD", "RUNNING", "COMPLETED"]

    @pytest.mark.parametrize("literal", ["ODD", "UNKNOWN", "COMPLETE"])
    def test_unknown_status_is_waited_for(self, literal: str) -> None:
        """A literal that nobody taught us does not end a wait."""
        world = World(later(told(literal), 50, told("COMPLETED")))
        assert Status.SUCCEEDED is world.wait(DEADLINE).status


class TestDeadline:
    def test_last_poll_is_at_the_deadline(self) -> None:
        """The last sleep is cut to the deadline, and an execution that ends there is still seen."""
        world = World(later(told("RUNNING"), 99.999, told("COMPLETED")))  # sums of seconds are not exact
        patience = Patience(pacing=Pacing.every(30.0))
        assert Status.SUCCEEDED is world.wait(DEADLINE, patience).status
        assert pytest.approx(world.polls[-1]) == 100.0

    def test_all_that_follows_has_a_few_seconds(self) -> None:
        """Poll, last poll, cancel and the poll after it must be over soon after the deadline, each in what is left."""
        world = World(always(told("RUNNING")), cancel=always(response(200)), request_takes=3.0)
        with pytest.raises(WaitTimeout):
            world.wait(handle(deadline=NOW + 12))
        # The requests leave at 0, 12 (a sleep was cut short), 15 and 18.
        assert world.requests == ["poll", "poll", "cancel", "poll"]
        assert world.within == [12 + LAST_MOMENT, LAST_MOMENT, AFTERMATH - 3, AFTERMATH - 6]

    def test_begun_after_it_there_is_as_much_time(self) -> None:
        """A wait that begins long after its deadline has the same few seconds, and each request at least one."""
        world = World(always(told("RUNNING")), cancel=always(response(200)), request_takes=9.5)
        with pytest.raises(WaitTimeout):
            world.wait(handle(deadline=NOW - 5000))
        assert world.within == [LAST_MOMENT, 1.0, 1.0]

    def test_without_a_deadline_the_settings_decide(self) -> None:
        """A request of a wait without an end has no limit of its own."""
        world = World(always(told("COMPLETED")))
        world.wait(Handle(execution_id=EXECUTION_ID))
        assert world.within == [None]

    def test_passed_deadline_still_polls_once(self) -> None:
        """A wait that begins after its deadline looks once before it gives up."""
        assert Status.SUCCEEDED is World(always(told("COMPLETED"))).wait(handle(deadline=NOW - 5)).status
        world = World(always(told("RUNNING")))
        with pytest.raises(WaitTimeout):
            world.wait(handle(deadline=NOW - 5))
        assert world.requests.count("cancel") == 1
        assert world.sleeps == []

    def test_wall_clock_that_jumps_does_not_matter(self) -> None:
        """The deadline is measured on the monotonic clock from the beginning of the wait."""
        world = World(always(told("RUNNING")))

        def jump(one: Execution) -> None:
            world.time.now += 1e6

        with pytest.raises(WaitTimeout):
            world.wait(DEADLINE, evolve(PATIENCE, on_change=jump))
        assert world.polls[-2] == 100.0

    @pytest.mark.parametrize(
        ("owned", "cancel_on_timeout", "cancelled"),
        [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
    )
    def test_only_the_owner_cancels_unless_told_otherwise(
        self, *, owned: bool, cancel_on_timeout: bool | None, cancelled: bool
    ) -> None:
        """The deadline cancels what we started, and nothing else, unless the caller says so."""
        world = World(always(told("RUNNING")), cancel=always(response(200)))
        patience = evolve(PATIENCE, cancel_on_timeout=cancel_on_timeout)
        with pytest.raises(WaitTimeout) as caught:
            world.wait(handle(deadline=NOW + 100, owned=owned), patience)
        assert cancelled is ("cancel" in world.requests)
        assert cancelled is caught.value.cancelled
        assert (
            caught.value.execution_id,
            caught.value.raw_status,
            caught.value.result_available,
        ) == (EXECUTION_ID, "RUNNING", None)
        assert ("It was cancelled." if cancelled else "It was left running.") in str(caught.value)

    def test_decision_to_cancel_is_recorded_first(self) -> None:
        """The ledger knows of the cancel before the service does, and of the ending afterwards."""
        world = World(later(told("RUNNING"), 100.5, told("CANCELLED")), request_takes=0.3)
        with pytest.raises(WaitTimeout):
            world.wait(handle(deadline=NOW + 100, key="k"))
        assert [one.state for one in world.events] == [State.CANCEL_REQUESTED, State.SETTLED]
        assert world.events[0].reason == "its deadline has passed"
        assert world.events[0].execution_id == EXECUTION_ID

    @pytest.mark.parametrize("failure", [response(404), response(503), response(400), NoAnswer("reset")])
    def test_cancel_that_fails_is_said(self, failure: Outcome, caplog: pytest.LogCaptureFixture) -> None:
        """A deadline whose cancel fails is a WaitTimeout that says so."""
        world = World(always(told("RUNNING")), cancel=always(failure))
        with pytest.raises(WaitTimeout, match=r"could not be cancelled: .* If it still runs") as caught:
            world.wait(DEADLINE)
        assert not caught.value.cancelled
        assert f"If it still runs: `tl cancel {EXECUTION_ID}`." in str(caught.value)
        assert f"tl cancel {EXECUTION_ID}" in caplog.text

    @pytest.mark.parametrize("answer", [response(200), response(400), response(409)])
    def test_execution_that_ends_before_its_cancel_is_returned(self, answer: Response) -> None:
        """If the cancel finds the execution ended by itself, that is its outcome, and it was not cancelled."""
        world = World(in_turn(*[told("RUNNING")] * 11, told("COMPLETED")), cancel=always(answer))
        ended = world.wait(handle(deadline=NOW + 100, key="k"))
        assert Status.SUCCEEDED is ended.status
        assert (world.events[-1].state, world.events[-1].raw_status) == (State.SETTLED, "COMPLETED")

    @pytest.mark.parametrize("result", [response(200, {"decision": "approve"}), response(404), response(403)])
    @pytest.mark.parametrize("cancel_on_timeout", [None, True])
    def test_unknown_status_is_never_cancelled(self, result: Response, cancel_on_timeout: bool | None) -> None:
        """What we cannot read may have ended: the deadline tries its result once and leaves it alone."""
        world = World(in_turn(told("RUNNING"), told("ODD")), result=always(result))
        patience = evolve(PATIENCE, cancel_on_timeout=cancel_on_timeout)
        with pytest.raises(WaitTimeout, match="status_map can teach it") as caught:
            world.wait(handle(deadline=NOW + 100, key="k"), patience)
        assert (world.requests.count("result"), world.requests.count("cancel")) == (1, 0)
        assert ("ODD", result.is_success, False) == (
            caught.value.raw_status,
            caught.value.result_available,
            caught.value.cancelled,
        )
        assert world.events == []

    def test_execution_that_was_never_seen_is_not_cancelled(self) -> None:
        """Where no poll has ever succeeded the status is not known, and nothing is cancelled."""
        world = World(always(response(503)))
        with pytest.raises(WaitTimeout, match="its status could not be asked") as caught:
            world.wait(DEADLINE)
        assert "cancel" not in world.requests
        assert caught.value.raw_status is None

    def test_failing_last_poll_does_not_hide_what_is_known(self) -> None:
        """An execution that was seen running is cancelled at the deadline though the last polls failed."""
        world = World(later(told("RUNNING"), 60, response(503)), cancel=always(response(200)))
        with pytest.raises(WaitTimeout, match="Its cancel was accepted"):
            world.wait(DEADLINE)
        assert "cancel" in world.requests

    def test_accepted_cancel_whose_end_is_not_seen_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        """A cancel that the service took counts as one, though the status after it could not be read."""
        polls = in_turn(*[told("RUNNING")] * 11, response(503))
        with pytest.raises(WaitTimeout, match="accepted, but its status since then could not be read") as caught:
            World(polls).wait(DEADLINE)
        assert caught.value.cancelled
        assert f"The service accepted the cancel of execution {EXECUTION_ID}" in caplog.text
        assert "could not be cancelled" not in caplog.text

    def test_no_deadline_waits_on(self) -> None:
        """An id alone, of which the service tells no expiry, is waited for however long it takes."""
        world = World(later(told("RUNNING"), 1e5, told("COMPLETED")))
        assert Status.SUCCEEDED is world.wait(Handle(execution_id=EXECUTION_ID)).status


class TestExpiry:
    def test_wait_goes_on_for_a_moment_after_the_expiry(self) -> None:
        """The service gets a grace to say itself how an expired execution has ended."""
        world = World(later(told("RUNNING"), 100 + EXPIRY_GRACE - 1, told("EXPIRED")))
        assert Status.EXPIRED is world.wait(handle(expires_at=NOW + 100)).status

    def test_expired_execution_ends_the_wait(self) -> None:
        """After the grace the wait ends, before its deadline, and says why."""
        world = World(always(told("RUNNING")))
        with pytest.raises(WaitTimeout, match="its expiry passed"):
            world.wait(handle(expires_at=NOW + 100, deadline=NOW + 9999))
        assert world.polls[-2] == 100 + EXPIRY_GRACE

    def test_earlier_limit_ends_the_wait(self) -> None:
        """Deadline or expiry, whichever comes first."""
        world = World(always(told("RUNNING")))
        with pytest.raises(WaitTimeout, match="its deadline passed at 2026-09-21T14:15:00"):
            world.wait(handle(expires_at=NOW + 9999, deadline=NOW + 100))

    def test_id_alone_learns_its_expiry_from_the_service(self) -> None:
        """A wait for a bare id ends after the expiry that the service tells, and cancels nothing."""
        world = World(always(told("RUNNING", expiresAt="2026-09-21T14:14:20Z")))
        with pytest.raises(WaitTimeout, match="its expiry passed at 2026-09-21T14:15:20"):
            world.wait(Handle(execution_id=EXECUTION_ID))
        assert world.polls[-1] == 60 + EXPIRY_GRACE
        assert "cancel" not in world.requests

    def test_service_knows_the_expiry_better(self) -> None:
        """An expiry that the service tells replaces the one that we asked for."""
        world = World(later(told("RUNNING", expiresAt="2026-09-21T14:18:20Z"), 320, told("COMPLETED")))
        assert Status.SUCCEEDED is world.wait(handle(expires_at=NOW + 100)).status


class TestFailures:
    TRANSIENT = (
        (response(500), ServerError),
        (response(503), ServerError),
        (response(408), ServerError),
        (response(429), RateLimited),
        (response(200, body=b"<html>", content_type="text/html"), InvalidAnswer),
        (response(200, body=b"{broken"), InvalidAnswer),
        (told(None), InvalidAnswer),
        (told("RUNNING", id="another"), InvalidAnswer),
        (response(302), InvalidAnswer),
        (NoAnswer("reset", sent=True), NoAnswer),
        (NoAnswer("refused", sent=False), NoAnswer),
        (InvalidAnswer("compressed"), InvalidAnswer),
    )

    @pytest.mark.parametrize(("failure", "kind"), TRANSIENT)
    def test_failures_are_outlived(self, failure: Outcome, kind: type[TransactionlinkError]) -> None:
        """A poll that fails, even the first one, does not end the wait for a healthy execution."""
        world = World(later(failure, 300, told("COMPLETED")))
        assert Status.SUCCEEDED is world.wait(handle()).status

    @pytest.mark.parametrize(("failure", "kind"), TRANSIENT)
    def test_unbroken_failure_ends_the_wait(self, failure: Outcome, kind: type[TransactionlinkError]) -> None:
        """Failures without a break for longer than the budget are raised, and nothing is cancelled."""
        world = World(later(told("RUNNING"), 50, failure))
        with pytest.raises(kind):
            world.wait(handle())
        assert 50 + 900 < world.time.passed <= 50 + 900 + 20
        assert {"poll"} == set(world.requests)

    def test_success_refills_the_budget(self) -> None:
        """Only unbroken failure counts: one good poll in between starts the budget anew."""
        world = World(
            lambda passed: told("COMPLETED") if passed >= 5000 else told() if passed % 800 < 10 else response(503)
        )
        assert Status.SUCCEEDED is world.wait(handle()).status

    @pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (403, PermissionDenied)])
    def test_refused_credential_fails_the_first_poll(self, status: int, kind: type[TransactionlinkError]) -> None:
        """A credential that nobody knows to have worked is said to be wrong at once."""
        world = World(always(response(status)))
        with pytest.raises(kind, match=EXECUTION_ID):
            world.wait(DEADLINE, proven=False)
        assert world.requests == ["poll"]

    def test_missing_permission_fails_the_first_poll(self) -> None:
        """A 403 at the first poll after a start is no rotation: it is said at once."""
        world = World(always(response(403)))
        with pytest.raises(PermissionDenied, match=EXECUTION_ID):
            world.wait(DEADLINE)
        assert world.requests == ["poll"]

    def test_missing_permission_is_forgiven_where_it_was_there(self) -> None:
        """A 403 from the first poll on, where an earlier poll is on record, is no permission that was never given."""
        world = World(later(response(403), 800, told("COMPLETED")))
        assert Status.SUCCEEDED is world.wait(handle(polled=True)).status

    def test_first_poll_of_another_process_may_meet_a_rotation(self) -> None:
        """A 401 to what has worked before is forgiven from the first poll on, for as long as the budget lasts."""
        assert Status.SUCCEEDED is World(later(response(401), 800, told("COMPLETED"))).wait(handle()).status
        world = World(always(response(401)))
        with pytest.raises(AuthenticationError):
            world.wait(handle())
        assert 900 < world.time.passed <= 900 + 20

    def test_caller_who_brings_a_new_credential_is_told_at_once(self) -> None:
        """Without a credential budget no refusal is forgiven."""
        with pytest.raises(AuthenticationError):
            World(always(response(401))).wait(handle(), evolve(PATIENCE, credential_budget=0.0))

    @pytest.mark.parametrize("status", [401, 403])
    def test_rotated_credential_is_outlived(self, status: int) -> None:
        """A credential that has worked before may fail for as long as the budget lasts."""
        polls = lambda passed: told("COMPLETED") if passed >= 800 else told() if passed < 50 else response(status)  # noqa: E731
        assert Status.SUCCEEDED is World(polls).wait(handle()).status
        with pytest.raises((AuthenticationError, PermissionDenied)):
            World(later(told(), 50, response(status))).wait(handle())

    def test_refused_credential_after_failures_is_still_a_first_poll(self) -> None:
        """Failed polls do not make a credential proven."""
        world = World(later(response(503), 50, response(403)))
        with pytest.raises(PermissionDenied):
            world.wait(handle())
        assert world.time.passed == 50

    def test_own_start_may_be_unknown_for_a_moment(self) -> None:
        """An execution that we have just started may be a 404 for a while, and no longer."""
        world = World(later(response(404), READ_YOUR_START, told("COMPLETED")))
        assert Status.SUCCEEDED is world.wait(handle()).status
        world = World(always(response(404)))
        with pytest.raises(NotFound):
            world.wait(handle())
        assert READ_YOUR_START < world.time.passed <= READ_YOUR_START + 10

    def test_unknown_id_of_others_is_an_error_at_once(self) -> None:
        """An id that the service does not know, and that we have not started, is wrong."""
        world = World(always(response(404)))
        with pytest.raises(NotFound):
            world.wait(handle(owned=False))
        assert world.sleeps == []

    @pytest.mark.parametrize("owned", [True, False])
    def test_execution_that_vanishes_is_asked_for_as_long_as_the_budget_lasts(self, *, owned: bool) -> None:
        """A 404 after good polls is a failure like any other."""
        polls = lambda passed: told("COMPLETED") if passed >= 500 else told() if passed < 50 else response(404)  # noqa: E731
        assert Status.SUCCEEDED is World(polls).wait(handle(owned=owned)).status

    @pytest.mark.parametrize("outcome", [response(400), response(410), response(422), WaitInterrupted("stop")])
    def test_other_errors_end_the_wait(self, outcome: Outcome) -> None:
        """A poll that is refused as wrong, and a stop, end the wait at once."""
        world = World(in_turn(told(), outcome))
        with pytest.raises((InvalidRequest, WaitInterrupted)):
            world.wait(DEADLINE)
        assert world.requests == ["poll", "poll"]

    @pytest.mark.parametrize(
        ("named", "slept"), [("3", 10.0), ("45", 45.0), ("Mon, 21 Sep 2026 14:14:20 GMT", 60.0), ("4000", 300.0)]
    )
    @pytest.mark.parametrize("status", [429, 503])
    def test_time_that_the_service_names_is_respected(self, status: int, named: str, slept: float) -> None:
        """The next poll waits for what Retry-After says, within reason, and never less than the pace."""
        world = World(in_turn(response(status, retry_after=named), told("COMPLETED")))
        world.wait(handle())
        assert [slept] == world.sleeps

    def test_named_time_does_not_pass_the_deadline(self) -> None:
        """A named delay is cut to the deadline like any other sleep."""
        world = World(later(response(429, retry_after="250"), 100, told("COMPLETED")))
        assert Status.SUCCEEDED is world.wait(DEADLINE).status
        assert world.sleeps == [100.0]


class TestPace:
    def test_polls_follow_the_pacing(self) -> None:
        """Intervals grow with the time waited."""
        world = World(later(told(), 3600, told("COMPLETED")))
        world.wait(handle(), Patience(pacing=Pacing(jitter=0.0)))
        assert world.sleeps[:10] == [1.0] * 10
        assert world.sleeps[-1] == 30.0
        assert len(world.polls) < 160

    def test_slow_answers_count_as_waiting(self) -> None:
        """Time spent in requests is part of the wait and of its deadline."""
        world = World(always(told()), request_takes=30.0)
        with pytest.raises(WaitTimeout):
            world.wait(handle(deadline=NOW + 100, owned=False))
        assert len(world.polls) == 3


def test_settling_records_literal_and_meaning() -> None:
    """settle writes what the service said and what we take it for."""
    clock = FakeClock().clock()
    flow = settle(execution(Status.PARTIAL, raw_status="HALF"), handle(key="k"), clock)
    command = next(flow)
    assert (
        AppendEvent(
            "k", Event(state=State.SETTLED, at=NOW, execution_id=EXECUTION_ID, raw_status="HALF", status="PARTIAL")
        )
        == command
    )
