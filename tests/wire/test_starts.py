"""A step starts one execution, whatever becomes of the answer; by both clients, with the sandbox as the oracle."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attrs import evolve

from tests.builders import event, run_request
from tests.remote import Remote
from tests.wire.conftest import OpenDoor
from tests.wire.doors import QUICK, QUICK_RETRY, Door, stored
from tl_orchestration import AsyncClient, Client, Execution, OrganizationToken, Settings, Status, Step
from tl_orchestration.claim import SETTLE_MARGIN, SETTLE_WINDOW
from tl_orchestration.errors import (
    AuthenticationError,
    InvalidRequest,
    InvalidSettings,
    LedgerError,
    NoAnswer,
    NotFound,
    PermissionDenied,
    RateLimited,
    RequestChanged,
    ServerError,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.exchange import Clock
from tl_orchestration.ledger import Entry, Event, MemoryLedger, State
from tl_orchestration.ledger.verdicts import adopt
from tl_orchestration.retry import RetryPolicy
from tl_orchestration.sandbox.settings import SANDBOX_JWT

POST = "POST /workflows"
GET = "GET /workflows/{id}"
KEY = "dag/run/task"


def kyc(name: str = "kyc-approve", **fields: Any) -> Any:
    """A request to run a definition of the sandbox."""
    return run_request(workflow_definition_id=name, **fields)


@pytest.fixture
def ledger() -> MemoryLedger:
    """
    A ledger that nobody has written to.
    """
    return MemoryLedger().for_namespace("tests")  # bound already, so that test and client read the same


@pytest.fixture
def step_client(remote: Remote, open_door: OpenDoor, ledger: MemoryLedger) -> Door:
    """
    A client of the sandbox with that ledger.
    """
    return open_door(remote.url, ledger=ledger)


def state(ledger: MemoryLedger, key: str = KEY) -> State | None:
    """How far the step has come, as the ledger knows."""
    entry = ledger.read(key)
    return None if entry is None else entry.state


class TestReattach:
    def test_same_key_is_the_same_execution(
        self, remote: Remote, open_door: OpenDoor, step_client: Door, ledger: MemoryLedger
    ) -> None:
        """Whoever runs with the same key gets the same execution, from this client and from any other on the ledger."""
        first = step_client.run(kyc("kyc-slow"), KEY)
        again = step_client.run(kyc("kyc-slow"), KEY)
        other = open_door(remote.url, ledger=ledger).run(kyc("kyc-slow"), Step(key=KEY))
        assert [first.id] * 3 == [first.id, again.id, other.id]
        assert [first.reattached, again.reattached, other.reattached] == [False, True, True]
        assert first.handle.deadline == again.handle.deadline == other.handle.deadline
        assert [first.id] == [start["execution_id"] for start in remote.starts()]

    def test_other_keys_are_other_executions(self, remote: Remote, step_client: Door) -> None:
        """Each key has its own execution, and no key has none to share."""
        ids = {step_client.run(kyc(), key).id for key in ("a", "b", None, None)}
        assert 4 == len(ids) == len(remote.starts())

    def test_ended_execution_is_found_again(self, remote: Remote, step_client: Door, ledger: MemoryLedger) -> None:
        """A retry of a step whose execution has ended gets that ending, and starts nothing."""
        remote.define("kyc-fail", duration=0)
        ended = step_client.wait(step_client.run(kyc("kyc-fail"), KEY))
        assert (state(ledger), ended.status) == (State.SETTLED, Status.FAILED)
        assert (ended.id, Status.FAILED) == (
            step_client.run(kyc("kyc-fail"), KEY).id,
            step_client.run(kyc("kyc-fail"), KEY).status,
        )
        assert len(remote.starts()) == 1

    def test_failed_execution_is_run_again_where_the_step_says_so(self, remote: Remote, step_client: Door) -> None:
        """retry_failed opens a new attempt after a failure, and none after a success."""
        remote.define("kyc-fail", duration=0)
        remote.define("kyc-approve", duration=0)
        for name, starts in (("kyc-fail", 2), ("kyc-approve", 3)):
            for _ in range(2):
                step_client.wait(step_client.run(kyc(name), Step(key=name, retry_failed=True)))
            assert starts == len(remote.starts())

    def test_nothing_is_started_beside_what_a_lost_cancel_left_running(
        self, remote: Remote, step_client: Door, ledger: MemoryLedger
    ) -> None:
        """A recorded cancel that failed ends no attempt: it is made good first, and until then nothing starts."""
        step = Step(key=KEY, retry_failed=True)
        first = step_client.run(kyc("kyc-slow"), step)
        remote.order("cancel", "status", status=503, times=8)
        for verb in (step_client.cancel, lambda _: step_client.run(kyc("kyc-slow"), step)):
            with pytest.raises(ServerError):
                verb(first)
            assert (state(ledger), len(remote.starts())) == (State.CANCEL_REQUESTED, 1)
        second = step_client.run(kyc("kyc-slow"), step)
        assert (step_client.poll(first.id).status, second.reattached) == (Status.CANCELLED, False)
        assert [start["execution_id"] for start in remote.starts()] == [first.id, second.id]

    def test_changed_request_is_refused(self, remote: Remote, step_client: Door) -> None:
        """A retry that asks for something else than the step has started fails, unless it may re-attach."""
        started = step_client.run(kyc("kyc-slow", parameters={"firstName": "Ada"}), KEY)
        changed = kyc("kyc-slow", parameters={"firstName": "Grace"})
        with pytest.raises(RequestChanged, match=started.id) as caught:
            step_client.run(changed, KEY)
        assert "Grace" not in str(caught.value)
        assert started.id == step_client.run(changed, Step(key=KEY, on_changed_request="reattach")).id
        assert len(remote.starts()) == 1

    def test_rotated_token_is_no_changed_request(
        self, remote: Remote, open_door: OpenDoor, step_client: Door, ledger: MemoryLedger
    ) -> None:
        """With another credential a change cannot be told, so a retry goes on."""
        started = step_client.run(kyc("kyc-slow"), KEY)
        other = open_door(remote.url, SANDBOX_JWT, ledger=ledger)
        assert started.id == other.run(kyc("kyc-slow", parameters={"changed": True}), KEY).id

    def test_new_generation_ends_the_former_and_starts_afresh(self, remote: Remote, step_client: Door) -> None:
        """A cleared step cancels what its former life left running, and starts its own."""
        former = step_client.run(kyc("kyc-slow"), Step(key=KEY, generation="0"))
        fresh = step_client.run(kyc("kyc-slow"), Step(key=KEY, generation="1"))
        assert former.id != fresh.id
        assert [former.id] == [cancel["execution_id"] for cancel in remote.cancels()]
        assert fresh.id == step_client.run(kyc("kyc-slow"), Step(key=KEY, generation="1")).id
        assert len(remote.starts()) == 2

    def test_cancel_of_ours_is_recorded(self, step_client: Door, ledger: MemoryLedger) -> None:
        """A cancel through the client ends the step's attempt in the ledger."""
        step_client.cancel(step_client.run(kyc("kyc-slow"), KEY))
        entry = ledger.read(KEY)
        assert entry is not None
        assert (entry.state, entry.cancel_requested, entry.status) == (State.SETTLED, True, "CANCELLED")

    def test_key_needs_a_ledger(self, remote: Remote, client: Door) -> None:
        """A key without a ledger could keep nothing from happening twice, so nothing is sent."""
        with pytest.raises(InvalidSettings, match="A key needs a ledger"):
            client.run(kyc(), KEY)
        assert remote.count(POST) == 0

    def test_another_process_may_wait_without_the_ledger(
        self, remote: Remote, client: Door, step_client: Door, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A wait for a step's execution in a process that has no ledger ends well; that it was not recorded is said."""
        remote.define("kyc-approve", duration=0)
        started = step_client.run(kyc(), KEY)
        assert Status.SUCCEEDED is client.wait(started).status
        assert "SETTLED could not be recorded" in caplog.text


class TestUnknownFate:
    def check_unknown(self, remote: Remote, client: Door, ledger: MemoryLedger, *, commits: int) -> StartOutcomeUnknown:
        """The start is unknown, was sent once, and is not sent again by the next try."""
        with pytest.raises(StartOutcomeUnknown) as caught:
            client.run(kyc(), KEY)
        assert (KEY, commits, 1) == (caught.value.key, len(remote.starts()), remote.count(POST))
        assert State.UNKNOWN is state(ledger)
        with pytest.raises(StartOutcomeUnknown, match="An earlier try of this step"):
            client.run(kyc(), KEY)
        assert (commits, 1) == (len(remote.starts()), remote.count(POST))
        return caught.value

    @pytest.mark.parametrize(
        ("fault", "commits", "cause"),
        [
            ({"kind": "lose"}, 1, NoAnswer),
            ({"kind": "drop"}, 0, NoAnswer),
            ({"kind": "status", "status": 500}, 0, ServerError),
            ({"kind": "status", "status": 502, "body": "<html>"}, 0, ServerError),
            ({"kind": "status", "status": 503, "headers": {"Retry-After": "0"}}, 0, ServerError),
            ({"kind": "status", "status": 504}, 0, ServerError),
            ({"kind": "status", "status": 408}, 0, ServerError),
            ({"kind": "status", "status": 200, "body": "<html>"}, 0, TransactionlinkError),
            ({"kind": "status", "status": 307, "headers": {"Location": "/elsewhere"}}, 0, TransactionlinkError),
        ],
    )
    def test_start_is_sent_once(
        self,
        remote: Remote,
        step_client: Door,
        ledger: MemoryLedger,
        fault: dict[str, Any],
        commits: int,
        cause: type[Exception],
    ) -> None:
        """A start whose answer is lost or broken is an outcome of its own, and no try sends it again."""
        remote.order("start", **fault)
        error = self.check_unknown(remote, step_client, ledger, commits=commits)
        assert isinstance(error.__cause__, cause)
        assert "tl ledger adopt" in str(error)

    def test_answer_that_comes_too_late_is_lost(
        self, remote: Remote, open_door: OpenDoor, ledger: MemoryLedger
    ) -> None:
        """A start that is not answered within the time-out may have happened: here it has."""
        remote.order("start", "hold", seconds=30)
        client = open_door(remote.url, ledger=ledger, settings=Settings(request_timeout=1.5))
        error = self.check_unknown(remote, client, ledger, commits=1)
        assert isinstance(error.__cause__, NoAnswer)
        assert error.__cause__.sent

    def test_without_a_ledger_it_is_the_same_error(self, remote: Remote, client: Door) -> None:
        """Also a start without a key is sent once, and its unknown fate has a name."""
        remote.order("start", "lose")
        with pytest.raises(StartOutcomeUnknown, match="dashboard"):
            client.run(kyc())
        assert (len(remote.starts()), remote.count(POST)) == (1, 1)

    def test_one_restart_on_the_callers_word(self, remote: Remote, step_client: Door, ledger: MemoryLedger) -> None:
        """on_unknown_start='restart' accepts one more start per generation, and no second one."""
        step = Step(key=KEY, on_unknown_start="restart")
        remote.order("start", "lose", times=2)
        with pytest.raises(StartOutcomeUnknown):
            step_client.run(kyc(), step)
        with pytest.raises(StartOutcomeUnknown):
            step_client.run(kyc(), step)
        assert len(remote.starts()) == 2
        with pytest.raises(StartOutcomeUnknown):
            step_client.run(kyc(), step)
        assert len(remote.starts()) == 2
        entry = ledger.read(KEY)
        assert entry is not None
        assert entry.restarts == 1

    def test_adopted_execution_is_gone_on_with(self, remote: Remote, step_client: Door, ledger: MemoryLedger) -> None:
        """Once a person has said which execution it was, the next try re-attaches to it."""
        remote.order("start", "lose")
        with pytest.raises(StartOutcomeUnknown):
            step_client.run(kyc(), KEY)
        found = remote.starts()[0]["execution_id"]
        ledger.append(KEY, event(State.STARTED, execution_id=found, adopted=True))
        execution = step_client.run(kyc(), KEY)
        assert (found, True) == (execution.id, execution.reattached)
        assert len(remote.starts()) == 1

    def test_start_judged_not_to_have_happened_is_made_up_for(
        self, remote: Remote, step_client: Door, ledger: MemoryLedger
    ) -> None:
        """Once a person has said that nothing runs, the next try starts."""
        remote.order("start", "drop")
        with pytest.raises(StartOutcomeUnknown):
            step_client.run(kyc(), KEY)
        ledger.append(KEY, event(State.REJECTED, reason="looked it up"))
        assert step_client.run(kyc(), KEY).id == remote.starts()[0]["execution_id"]
        assert len(remote.starts()) == 1


class TestCorrelation:
    STEP = Step(key=KEY, correlation_parameter="caseRef")

    def test_lost_start_is_found_by_what_the_error_names(
        self, remote: Remote, step_client: Door, ledger: MemoryLedger
    ) -> None:
        """The id in the message is the one that the service committed; the execution it leads to is gone on with."""
        step_client.run(kyc(), Step(key="other", correlation_parameter="caseRef"))
        remote.order("start", "lose")
        with pytest.raises(StartOutcomeUnknown) as caught:
            step_client.run(kyc(), self.STEP)
        lost = caught.value.correlation_id
        assert f"caseRef = {lost} among" in str(caught.value)
        (found,) = [start["execution_id"] for start in remote.starts() if start["parameters"].get("caseRef") == lost]
        with pytest.raises(StartOutcomeUnknown, match=str(lost)):
            step_client.run(kyc(), self.STEP)
        adopt(ledger, KEY, found, reason="in the dashboard", actor="tests", now=time.time() + 3600)
        execution = step_client.run(kyc(), self.STEP)
        assert (found, True, 2) == (execution.id, execution.reattached, len(remote.starts()))

    def test_restarted_start_can_be_told_from_the_lost_one(
        self, remote: Remote, step_client: Door, ledger: MemoryLedger
    ) -> None:
        """Each start that the service committed has an id of its own, and the ledger knows which is which."""
        step = evolve(self.STEP, on_unknown_start="restart")
        remote.order("start", "lose")
        with pytest.raises(StartOutcomeUnknown):
            step_client.run(kyc(), step)
        started = step_client.run(kyc(), step)
        entry = ledger.read(KEY)
        assert entry is not None
        assert [start["parameters"]["caseRef"] for start in remote.starts()] == [
            *entry.suspect_correlation_ids,
            entry.correlation_id,
        ]
        assert remote.starts()[1]["execution_id"] == started.id

    def test_taken_name_sends_nothing(self, remote: Remote, step_client: Door, ledger: MemoryLedger) -> None:
        """A parameter of the caller's own stays what it is."""
        with pytest.raises(InvalidRequest, match="among the parameters already"):
            step_client.run(kyc(parameters={"caseRef": "mine"}), self.STEP)
        assert (remote.count(POST), state(ledger)) == (0, None)

    def test_needs_a_ledger(self, remote: Remote, client: Door) -> None:
        """Without one nobody would know the id."""
        with pytest.raises(InvalidSettings, match="needs a ledger"):
            client.run(kyc(), self.STEP)
        assert remote.count(POST) == 0


class TestHarmlessFailures:
    def test_refusal_for_now_is_repeated(self, remote: Remote, step_client: Door, ledger: MemoryLedger) -> None:
        """A 429 says that the start was not processed, so it is sent again, and happens once."""
        remote.order("start", "status", status=429, headers={"Retry-After": "0"}, times=2)
        step_client.run(kyc(), KEY)
        assert (len(remote.starts()), remote.count(POST)) == (1, 3)
        assert State.STARTED is state(ledger)

    def test_lasting_refusal_for_now_is_told(self, remote: Remote, step_client: Door, ledger: MemoryLedger) -> None:
        """A 429 that does not go away is RateLimited, with nothing started and nothing in doubt."""
        remote.order("start", "status", status=429, times=9)
        with pytest.raises(RateLimited):
            step_client.run(kyc(), KEY)
        assert (0, QUICK_RETRY.attempts, State.REJECTED) == (len(remote.starts()), remote.count(POST), state(ledger))

    @pytest.mark.parametrize(
        ("token", "request_", "kind"),
        [
            ("tot_wrong", kyc(), AuthenticationError),
            ("tot_sandbox_no_run", kyc(), PermissionDenied),
            ("tot_sandbox", kyc("no-such-definition"), NotFound),
        ],
    )
    def test_refusal_is_definite(
        self,
        remote: Remote,
        open_door: OpenDoor,
        ledger: MemoryLedger,
        token: str,
        request_: Any,
        kind: type[TransactionlinkError],
    ) -> None:
        """A refused start did not happen: it is recorded so, sent once, and the next try may start."""
        client = open_door(remote.url, token, ledger=ledger)
        with pytest.raises(kind):
            client.run(request_, KEY)
        assert (len(remote.starts()), remote.count(POST), state(ledger)) == (0, 1, State.REJECTED)
        assert step_again(remote, open_door, ledger).id == remote.starts()[0]["execution_id"]

    def test_service_that_is_not_there_is_no_unknown_fate(self, open_door: OpenDoor, ledger: MemoryLedger) -> None:
        """A start that could not even connect has certainly not happened."""
        client = open_door("http://127.0.0.1:9", ledger=ledger)
        with pytest.raises(NoAnswer, match="Nothing was sent") as caught:
            client.run(kyc(), KEY)
        assert not caught.value.sent
        assert State.REJECTED is state(ledger)

    def test_ledger_that_is_not_there_prevents_the_start(self, remote: Remote, open_door: OpenDoor) -> None:
        """Without an acknowledged intent nothing is sent."""

        class Down(MemoryLedger):
            def claim(self, *arguments: Any) -> Any:
                raise LedgerError("The store cannot be reached.")

        with pytest.raises(LedgerError, match="cannot be reached"):
            open_door(remote.url, ledger=Down()).run(kyc(), KEY)
        assert remote.count(POST) == 0

    def test_wrong_expiry_sends_nothing(self, remote: Remote, step_client: Door, ledger: MemoryLedger) -> None:
        """An expiry that the service would refuse is found before the intent."""
        with pytest.raises(InvalidRequest, match="30 minutes and 30 days"):
            step_client.run(kyc(expires_at="2000-01-01T00:00:00Z"), KEY)
        assert (remote.count(POST), state(ledger)) == (0, None)


def step_again(remote: Remote, open_door: OpenDoor, ledger: MemoryLedger) -> Execution:
    """The next try of the step, with everything right."""
    return open_door(remote.url, ledger=ledger).run(kyc(), KEY)


class TestRace:
    """Many callers with one key; the losers are told, or find the winner's execution."""

    RACERS = 8

    def check(self, remote: Remote, outcomes: list[Any]) -> None:
        """One start; every caller has its execution, or a reason why he has not."""
        (start,) = remote.starts()
        executions = [outcome for outcome in outcomes if isinstance(outcome, Execution)]
        errors = [outcome for outcome in outcomes if not isinstance(outcome, Execution)]
        assert {start["execution_id"]} == {execution.id for execution in executions}
        assert all(isinstance(error, LedgerError | StartOutcomeUnknown) for error in errors), errors
        assert len(outcomes) == self.RACERS

    def test_threads(self, remote: Remote, ledger: MemoryLedger) -> None:
        """Of many threads that run one key at once, one starts."""
        outcomes: list[Any] = []
        gate = threading.Barrier(self.RACERS)
        with Client(OrganizationToken("tot_sandbox"), remote.url, ledger=ledger) as client:

            def run() -> None:
                gate.wait()
                try:
                    outcomes.append(client.run(kyc(), KEY))
                except TransactionlinkError as error:
                    outcomes.append(error)

            threads = [threading.Thread(target=run) for _ in range(self.RACERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.check(remote, outcomes)

    def test_tasks(self, remote: Remote, ledger: MemoryLedger) -> None:
        """Of many tasks that run one key at once, one starts."""

        async def main() -> list[Any]:
            async with AsyncClient(OrganizationToken("tot_sandbox"), remote.url, ledger=ledger) as client:
                runs = (client.run(kyc(), KEY) for _ in range(self.RACERS))
                return list(await asyncio.gather(*runs, return_exceptions=True))

        self.check(remote, asyncio.run(main()))

    def test_many_keys_at_once(self, remote: Remote, ledger: MemoryLedger) -> None:
        """A hundred steps at once start a hundred executions, through ten connections."""

        async def main() -> set[str]:
            async with AsyncClient(OrganizationToken("tot_sandbox"), remote.url, ledger=ledger) as client:
                runs = (client.run(kyc(), f"k-{number}") for number in range(100))
                return {execution.id for execution in await asyncio.gather(*runs)}

        ids = asyncio.run(main())
        assert len(ids) == 100
        assert ids == {start["execution_id"] for start in remote.starts()}


class Slow(MemoryLedger):
    """A ledger after whose writes some time has passed."""

    passed = takes = 0.0

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        claimed = super().claim(key, intent, after)
        self.passed += self.takes
        return claimed

    def clock(self) -> Clock:
        return Clock(now=lambda: time.time() + self.passed, monotonic=time.monotonic)


@pytest.fixture
def slow() -> Slow:
    """
    Such a ledger, bound already, so that test and client have the same.
    """
    ledger = Slow().for_namespace("tests")
    assert isinstance(ledger, Slow)
    return ledger


class TestAnnouncedTime:
    def test_start_that_comes_too_late_is_not_sent(self, remote: Remote, open_door: OpenDoor, slow: Slow) -> None:
        """When others may take an intent for one of unknown fate, its start does not leave any more."""
        client = open_door(remote.url, ledger=slow, clock=slow.clock())
        slow.takes = SETTLE_WINDOW
        with pytest.raises(NoAnswer, match="Nothing was sent") as caught:
            client.run(kyc(), KEY)
        entry = stored(client, KEY)
        assert entry is not None
        assert (caught.value.sent, entry.state, remote.count(POST)) == (False, State.REJECTED, 0)
        slow.takes = 0.0
        assert client.run(kyc(), KEY).id == remote.starts()[0]["execution_id"]

    def test_queue_for_a_connection_counts(self, remote: Remote, slow: Slow) -> None:
        """A start that is announced and then finds no free connection in time has not been sent."""
        slow.takes = SETTLE_WINDOW - SETTLE_MARGIN - Settings().request_timeout - 0.3

        async def main() -> None:
            options: dict[str, Any] = {"settings": Settings(max_connections=1), "retry": RetryPolicy(attempts=1)}
            async with AsyncClient(
                OrganizationToken("tot_sandbox"), remote.url, ledger=slow, clock=slow.clock(), **options
            ) as client:
                other = await client.run(kyc("kyc-slow"))
                remote.order("status", "hold", seconds=25)
                poll = asyncio.create_task(client.poll(other))
                while remote.count(GET) == 0:  # noqa: ASYNC110 -- another thread counts
                    await asyncio.sleep(0.01)
                with pytest.raises(NoAnswer, match="Nothing was sent"):
                    await client.run(kyc(), KEY)
                assert not poll.done()
                poll.cancel()
                entry = stored(client, KEY)
                assert entry is not None
                assert (entry.state, len(remote.starts())) == (State.REJECTED, 1)

        asyncio.run(main())

    def test_start_is_announced_when_it_can_leave(
        self, remote: Remote, ledger: MemoryLedger, let_go: threading.Event
    ) -> None:
        """What queues for a connection is not announced yet, so nobody can act on its fate meanwhile."""

        async def main() -> None:
            settings = Settings(max_connections=2)
            async with AsyncClient(
                OrganizationToken("tot_sandbox"), remote.url, ledger=ledger, settings=settings
            ) as client:
                remote.order("start", "hold", seconds=25, times=2)
                starts = [asyncio.create_task(client.run(kyc(), f"k-{number}")) for number in range(4)]
                while remote.count(POST) < 2:  # noqa: ASYNC110 -- another thread counts
                    await asyncio.sleep(0.01)
                assert [state(ledger, f"k-{number}") for number in range(4)] == [State.INTENT] * 2 + [None] * 2
                let_go.set()
                assert len({execution.id for execution in await asyncio.gather(*starts)}) == 4

        asyncio.run(main())


class TestCancelledTask:
    """Cancelling the task of a start loses nothing that is known."""

    def soon(self, happens: Callable[[], None]) -> Callable[[], None]:
        """Has something happen when the cancel was taken in."""

        def wait_for_it() -> None:
            asyncio.get_running_loop().call_later(0.2, happens)

        return wait_for_it

    def check(
        self,
        remote: Remote,
        ledger: MemoryLedger,
        cancel_when: Callable[[], bool],
        *,
        prepare: Callable[[], None],
        cancelled: Callable[[], None] = lambda: None,
    ) -> None:
        async def main() -> None:
            async with AsyncClient(OrganizationToken("tot_sandbox"), remote.url, ledger=ledger) as client:
                prepare()
                task = asyncio.create_task(client.run(kyc("kyc-slow"), KEY))
                while not cancel_when():  # noqa: ASYNC110 -- another thread decides
                    await asyncio.sleep(0.01)
                task.cancel()
                asyncio.get_running_loop().call_soon(cancelled)
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(main())

    def test_while_the_answer_is_awaited(
        self, remote: Remote, ledger: MemoryLedger, caplog: pytest.LogCaptureFixture, let_go: threading.Event
    ) -> None:
        """A start that was sent is answered and recorded first."""
        remote.order("start", "hold", seconds=25)
        self.check(
            remote, ledger, lambda: remote.count(POST) == 1, prepare=lambda: None, cancelled=self.soon(let_go.set)
        )
        (start,) = remote.starts()
        entry = ledger.read(KEY)
        assert entry is not None
        assert (entry.state, entry.execution_id) == (State.STARTED, start["execution_id"])
        assert f"The call was cancelled; execution {entry.execution_id}" in caplog.text

    def test_while_the_ledger_has_to_queue(self, remote: Remote, ledger: MemoryLedger, let_go: threading.Event) -> None:
        """A record that waits for a thread of a busy process is written."""
        free = threading.Event()

        def occupy() -> None:
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(1))

        def claimed() -> bool:
            if state(ledger) is State.INTENT and not busy:
                busy.append(asyncio.get_running_loop().run_in_executor(None, free.wait, 60))
            return len(remote.starts()) == 1

        def answered() -> None:
            let_go.set()
            asyncio.get_running_loop().call_later(0.5, free.set)

        busy: list[asyncio.Future[bool]] = []
        remote.order("start", "hold", seconds=25)
        self.check(remote, ledger, claimed, prepare=occupy, cancelled=answered)
        assert busy
        assert state(ledger) is State.STARTED

    def test_before_it_is_sent(self, remote: Remote) -> None:
        """A start that was announced and not sent is not sent any more, and that is recorded."""
        claiming, cancelled = threading.Event(), threading.Event()

        class Waiting(MemoryLedger):
            def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
                claiming.set()
                cancelled.wait(30)
                return super().claim(key, intent, after)

        ledger = Waiting().for_namespace("tests")
        self.check(remote, ledger, claiming.is_set, prepare=lambda: None, cancelled=cancelled.set)
        assert (state(ledger), remote.count(POST)) == (State.REJECTED, 0)

    @pytest.mark.usefixtures("_impatient")
    def test_while_the_id_cannot_be_recorded(self, remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
        """If the ledger stays down, the log has the id and the command that records it."""
        broken, cancelled = threading.Event(), threading.Event()

        class Broken(MemoryLedger):
            def append(self, key: str, event: Event) -> Entry:
                broken.set()
                cancelled.wait(30)
                raise OSError("the disk is full")

        self.check(remote, Broken(), broken.is_set, prepare=lambda: None, cancelled=cancelled.set)
        (start,) = remote.starts()
        assert f"tl ledger adopt {KEY} {start['execution_id']}" in caplog.text


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tl_orchestration.start._RECORD_DELAY", 0.05)


@pytest.mark.usefixtures("_impatient")
def test_ledger_of_ones_own_that_fails_loses_no_id(remote: Remote, open_door: OpenDoor) -> None:
    """Whatever a ledger raises after the start, the id is in the error."""

    class Broken(MemoryLedger):
        def append(self, key: str, event: Event) -> Entry:
            raise OSError("the disk is full")

    with pytest.raises(StartOutcomeUnknown) as caught:
        open_door(remote.url, ledger=Broken()).run(kyc(), KEY)
    assert caught.value.execution_id == remote.starts()[0]["execution_id"]


def test_state_changes_are_logged_once(remote: Remote, step_client: Door, caplog: pytest.LogCaptureFixture) -> None:
    """One line per change of status, none per poll."""
    remote.define("kyc-approve", duration=None)

    def end(execution: Execution) -> None:
        if not execution.is_terminal:
            remote.force(execution.id, status="COMPLETED")

    with caplog.at_level(logging.INFO, "tl_orchestration"):
        ended = step_client.wait(step_client.run(kyc(), KEY), patience=evolve(QUICK, on_change=end))
    lines = [record.getMessage() for record in caplog.records if record.name == "tl_orchestration.wait"]
    assert [f"Execution {ended.id} is RUNNING (RUNNING).", f"Execution {ended.id} is SUCCEEDED (COMPLETED)."] == lines
