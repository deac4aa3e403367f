"""A link is handed over at least once, and a step that cannot know of it says so."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import EXECUTION_ID, NOW, SAME, FakeClock, entry, event, execution, handle, run_request
from tests.scripted import Crashed, Hindered
from tl_orchestration import Client, Execution, Status, Step
from tl_orchestration.claim import SETTLE_WINDOW
from tl_orchestration.delivery import given_up, hand_over, is_lost, link_lost, perform, perform_awaited
from tl_orchestration.errors import (
    InvalidRequest,
    LedgerError,
    LinkLost,
    LinkNotDelivered,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.exchange import AppendEvent, Command, Deliver, ReadLedger
from tl_orchestration.ledger import Entry, Event, MemoryLedger, State
from tl_orchestration.secret import Secret
from tl_orchestration.start import Attach, Begin, decide
from tl_orchestration.testing import FakeService, Script

LINK, TOKEN = "https://link.test/?token=page-4711", "page-4711"
KEY = "dag/run/task"


def interactive(**fields: Any) -> Execution:
    """An execution that waits for a person, as its start was answered."""
    return execution(**{"link": Secret(LINK), "token": Secret(TOKEN), **fields})


class Shared:
    """A ledger that other processes may write to at the same time."""

    fenced = False

    def __init__(self) -> None:
        inner = MemoryLedger()
        self.read, self.claim, self.append = inner.read, inner.claim, inner.append


class Fenced(Shared):
    """A ledger whose writers need not be waited for."""

    fenced = True


def service(*, shows_again: bool) -> FakeService:
    """A service whose polls have the link as well, or not."""
    script = Script(after=None, interactive=True, link_in_status=shows_again)
    return FakeService(definitions={"kyc-review": script})


def review() -> Any:
    return run_request(workflow_definition_id="kyc-review")


class Person:
    """Whoever is given links: all that came."""

    def __init__(self) -> None:
        self.links: list[str] = []

    def __call__(self, given: Execution) -> None:
        assert given.link is not None
        self.links.append(given.link.reveal())


def failing(given: Execution) -> None:
    """A callback that quotes the link in what it raises."""
    assert given.link is not None
    assert given.token is not None
    raise RuntimeError(f"cannot mail {given.link.reveal()} {given.token.reveal()}")


class TestIsLost:
    @pytest.mark.parametrize("state", [State.STARTED, State.LINK_DELIVERED, State.CANCEL_REQUESTED, State.SETTLED])
    @pytest.mark.parametrize("known", [True, False, None])
    @pytest.mark.parametrize("status", [Status.RUNNING, Status.UNKNOWN, Status.EXPIRED])
    @pytest.mark.parametrize("shown", [True, False])
    def test_every_case(self, state: State, known: bool | None, status: Status, shown: bool) -> None:
        """Lost is what was started for a person, was not delivered, goes on, and is not shown again."""
        found = interactive(status=status) if shown else execution(status)
        expected = state is State.STARTED and known is True and status is not Status.EXPIRED and not shown
        assert is_lost(found, entry(state, execution_id=EXECUTION_ID, interactive=known)) is expected

    def test_error_names_execution_step_and_ways_out(self) -> None:
        """Whoever reads it knows what to do, and a retry alone would not help."""
        error = link_lost("e-1", "my step")
        for words in ("Execution e-1", "step my step", "on_link_lost='restart'", "`tl cancel e-1`", "without on_link"):
            assert words in str(error)
        assert (error.execution_id, error.retryable) == ("e-1", False)


LOST: Mapping[str, Any] = {"cancel_requested": True, "link_lost": True}


class TestDecide:
    @pytest.mark.parametrize(
        ("state", "fields", "on_link_lost", "expected"),
        [
            (State.STARTED, {}, "restart", Attach("e-1")),
            (State.CANCEL_REQUESTED, LOST, "restart", Begin(cancel_first="e-1", own=True)),
            (State.CANCEL_REQUESTED, LOST, "fail", Attach("e-1")),
            (State.CANCEL_REQUESTED, {**LOST, "link_lost": False}, "restart", Attach("e-1")),
            (State.SETTLED, {**LOST, "status": "CANCELLED"}, "restart", Begin()),
            (State.SETTLED, {**LOST, "status": "SUCCEEDED"}, "restart", Attach("e-1")),
            (State.SETTLED, {**LOST, "status": "CANCELLED"}, "fail", Attach("e-1")),
            (State.SETTLED, {**LOST, "status": "CANCELLED", "link_lost": False}, "restart", Attach("e-1")),
        ],
    )
    def test_only_a_cancel_for_a_lost_link_is_followed_by_another_start(
        self, state: State, fields: dict[str, Any], on_link_lost: Any, expected: object
    ) -> None:
        """A crash between that cancel and the start that replaces it ends nothing; other cancels stay ends."""
        held = entry(state, **{"execution_id": "e-1", "interactive": True, **fields})
        assert decide(held, Step(key="k", generation="0", on_link_lost=on_link_lost), SAME) == expected

    def test_decision_to_give_up(self) -> None:
        """It is about the entry as it was read, and no link is in it."""
        held = entry(State.STARTED, execution_id="e-1", interactive=True)
        lost = given_up(held, NOW + 1)
        assert lost == event(
            State.CANCEL_REQUESTED,
            at=NOW + 1,
            execution_id="e-1",
            version=held.version,
            link_lost=True,
            reason="its link was lost",
        )

    def test_policy_is_checked(self) -> None:
        """Only what is documented is taken."""
        with pytest.raises(ValueError, match="on_link_lost"):
            Step(key="k", on_link_lost="ignore")  # type: ignore[arg-type]  # refused at run time, too


class TestHandOver:
    def commands(self, given: Execution, *replies: object) -> list[Command]:
        """What handing over asks for, with these replies."""
        flow, asked = hand_over(given, Person(), FakeClock().clock()), []
        answers = iter(replies)
        try:
            asked.append(next(flow))
            while True:
                asked.append(flow.send(next(answers, None)))
        except StopIteration:
            return asked

    def test_fresh_start(self) -> None:
        """Delivered, then recorded for the step; without a key there is nothing to record."""
        keyed = interactive(handle=handle(key=KEY))
        deliver, append = self.commands(keyed)
        assert isinstance(deliver, Deliver)
        assert deliver.execution is keyed
        assert append == AppendEvent(KEY, event(State.LINK_DELIVERED, execution_id=EXECUTION_ID))
        assert [type(one) for one in self.commands(interactive())] == [Deliver]

    @pytest.mark.parametrize(
        ("found", "kinds"),
        [
            (entry(State.STARTED, execution_id=EXECUTION_ID), [ReadLedger, Deliver, AppendEvent]),
            (entry(State.STARTED, execution_id=EXECUTION_ID, interactive=True), [ReadLedger, Deliver, AppendEvent]),
            (entry(State.STARTED, execution_id="another"), [ReadLedger]),
            (entry(State.LINK_DELIVERED, execution_id=EXECUTION_ID), [ReadLedger]),
            (entry(State.CANCEL_REQUESTED, execution_id=EXECUTION_ID), [ReadLedger]),
            (None, [ReadLedger]),
        ],
    )
    def test_found_again(self, found: Entry | None, kinds: list[type]) -> None:
        """What an earlier try has started is delivered unless that is on record, or it is to end."""
        again = interactive(handle=handle(key=KEY), reattached=True)
        assert [type(one) for one in self.commands(again, found)] == kinds

    @pytest.mark.parametrize("given", [execution(), interactive(status=Status.CANCELLED)])
    def test_nothing_to_deliver(self, given: Execution) -> None:
        """Without a link, or after the end, nobody is called."""
        assert self.commands(given) == []

    def test_command_does_not_show_the_link(self) -> None:
        """Nor the callable, whose repr is the caller's."""
        shown = repr(Deliver(Person(), interactive()))
        assert "Person" not in shown
        assert TOKEN not in shown


def error_of(on_link: Callable[[Execution], object], *, awaited: bool) -> LinkNotDelivered:
    """The error of a delivery, with whatever else a log would show of it."""
    command = Deliver(on_link, interactive())
    with pytest.raises(LinkNotDelivered) as caught:
        asyncio.run(perform_awaited(command)) if awaited else perform(command)
    return caught.value


async def failing_later(given: Execution) -> None:
    """A coroutine function that quotes the link in what it raises."""
    failing(given)


class TestPerform:
    @pytest.mark.parametrize(("on_link", "awaited"), [(failing, False), (failing, True), (failing_later, True)])
    def test_failure_tells_kind_place_and_execution_only(self, on_link: Any, awaited: bool) -> None:
        """The callback's own text may quote the link: it is in no part of the error, its context included."""
        error = error_of(on_link, awaited=awaited)
        assert re.search(r"raised RuntimeError \((test_delivery\.py:\d+)( > test_delivery\.py:\d+)?\), of", str(error))
        assert f"Execution {EXECUTION_ID} has started" in str(error)
        assert (error.execution_id, error.retryable) == (EXECUTION_ID, True)
        assert (error.__cause__, error.__context__) == (None, None)
        assert TOKEN not in "".join(traceback.format_exception(error)) + repr(error.__dict__)

    def test_deep_failure_names_some_calls(self) -> None:
        """However deep it fails, the message stays short."""

        def deep(given: Execution) -> None:
            deep(given)

        assert str(error_of(deep, awaited=False)).count("test_delivery.py:") == 8

    def test_coroutine_that_nobody_awaits_is_no_delivery(self) -> None:
        """A callable that only looks synchronous has delivered nothing."""
        error = error_of(lambda given: failing_later(given), awaited=False)
        assert "only AsyncClient awaits" in str(error)

    def test_what_is_awaited(self) -> None:
        """A callable may deliver at once, or return what delivers when it is awaited."""
        links: list[str] = []

        async def later(given: Execution) -> None:
            await asyncio.sleep(0)
            assert given.link is not None
            links.append(given.link.reveal())

        person = Person()
        asyncio.run(perform_awaited(Deliver(later, interactive())))
        asyncio.run(perform_awaited(Deliver(person, interactive())))
        assert links == person.links == [LINK]

    def test_stop_is_no_failure_of_the_callable(self) -> None:
        """What is no Exception, such as Ctrl-C, passes as it is."""

        def interrupted(given: Execution) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            perform(Deliver(interrupted, interactive()))


class TestClient:
    @pytest.mark.parametrize("on_link", ["mail", failing_later])
    def test_what_cannot_be_called_is_refused_before_the_start(self, on_link: Any) -> None:
        """A mistake in on_link starts nothing."""
        remote = service(shows_again=False)
        with remote.client() as client, pytest.raises(InvalidRequest, match="on_link"):
            client.run(review(), on_link=on_link)
        assert remote.requests == []

    def test_order(self) -> None:
        """The start is on record before the delivery, and the delivery after it; the entry holds neither link."""
        remote, ledger, seen = service(shows_again=False), Fenced(), []

        def deliver(given: Execution) -> None:
            seen.append((ledger.read(KEY), given))

        with remote.client(ledger=ledger) as client:
            started = client.run(review(), KEY, on_link=deliver)
        ((during, given),) = seen
        after = ledger.read(KEY)
        assert during is not None
        assert after is not None
        assert (during.state, during.interactive, during.execution_id) == (State.STARTED, True, started.id)
        assert (after.state, after.link_delivered) == (State.LINK_DELIVERED, True)
        assert given is started
        assert given.handle.key == KEY
        assert started.link is not None
        assert started.link.reveal() not in repr(during) + repr(after)

    def test_only_who_can_act_is_called(self) -> None:
        """An execution without a link calls nobody, and is recorded as one."""
        remote, ledger, person = FakeService(), Shared(), Person()
        with remote.client(ledger=ledger) as client:
            client.run(run_request(), KEY, on_link=person)
            client.run(run_request(), on_link=person)
        found = ledger.read(KEY)
        assert found is not None
        assert (person.links, found.interactive, found.link_delivered) == ([], False, False)

    def test_without_a_ledger(self) -> None:
        """A start without a key delivers at once, and a failure names what has started."""
        remote, person = service(shows_again=False), Person()
        with remote.client() as client:
            started = client.run(review(), on_link=person)
            with pytest.raises(LinkNotDelivered) as caught:
                client.run(review(), on_link=failing)
        assert person.links == [f"https://service.test/{started.id}"]
        assert caught.value.execution_id == remote.starts[1].execution_id

    def test_awaited(self) -> None:
        """AsyncClient awaits a coroutine function, also one that sleeps on the service's clock."""
        remote, ledger, given = service(shows_again=False), Shared(), []

        async def deliver(execution: Execution) -> None:
            await remote.clock.asleep(5)
            given.append(execution.id)

        async def main() -> Execution:
            async with remote.async_client(ledger=ledger) as client:
                return await client.run(review(), KEY, on_link=deliver)

        started = asyncio.run(main())
        found = ledger.read(KEY)
        assert found is not None
        assert (given, found.link_delivered) == ([started.id], True)

    def test_retry_of_a_failed_delivery_delivers(self) -> None:
        """Where the service shows the link again, the next try delivers, and the one after calls nobody."""
        remote, ledger, person = service(shows_again=True), Shared(), Person()
        with remote.client(ledger=ledger) as client:
            with pytest.raises(LinkNotDelivered):
                client.run(review(), KEY, on_link=failing)
            found = ledger.read(KEY)
            assert found is not None
            assert found.state is State.STARTED
            again = [client.run(review(), KEY, on_link=person) for _ in range(2)]
        assert person.links == [f"https://service.test/{remote.starts[0].execution_id}"]
        assert all(one.reattached for one in again)

    def test_lost_link_fails(self) -> None:
        """Where it does not, the step says so, and cancels nothing."""
        remote, ledger = service(shows_again=False), Fenced()
        with remote.client(ledger=ledger) as client:
            client.run(review(), KEY)
            with pytest.raises(LinkLost) as caught:
                client.run(review(), KEY, on_link=Person())
            assert client.run(review(), KEY).reattached
        assert caught.value.execution_id == remote.starts[0].execution_id
        assert (len(remote.starts), remote.cancels) == (1, [])

    @pytest.mark.parametrize("ending", [None, "COMPLETED"])
    def test_lost_link_is_replaced(self, ending: str | None, caplog: pytest.LogCaptureFixture) -> None:
        """restart cancels the execution that nobody can act in, and starts one whose link is delivered, once."""
        remote, ledger, person = service(shows_again=False), Fenced(), Person()
        step = Step(key=KEY, on_link_lost="restart")
        with remote.client(ledger=ledger) as client:
            lost = client.run(review(), step)
            if ending:
                remote.end(lost.id, ending)
            with caplog.at_level(logging.WARNING, "tl_orchestration"):
                again = client.run(review(), step, on_link=person)
            assert client.run(review(), step, on_link=person).id == again.id
        if ending:
            assert (again.id, person.links, remote.cancels) == (lost.id, [], [])
            return
        assert [one.execution_id for one in remote.cancels] == [lost.id]
        assert [one.execution_id for one in remote.starts] == [lost.id, again.id]
        assert person.links == [f"https://service.test/{again.id}"]
        assert f"gives execution {lost.id} up" in caplog.text
        found = ledger.read(KEY)
        assert found is not None
        assert (found.attempt, found.state, found.link_lost) == (2, State.LINK_DELIVERED, False)

    def test_request_that_cannot_start_ends_nothing(self) -> None:
        """A restart whose request has an expiry in the past leaves the execution and its record alone."""
        remote, ledger = service(shows_again=False), Fenced()
        begun = remote.clock.now()
        step = Step(key=KEY, on_link_lost="restart")
        request = run_request(workflow_definition_id="kyc-review", expires_at="2026-01-01T01:00:00+00:00")
        with remote.client(ledger=ledger) as client:
            client.run(request, step)
            remote.clock.advance(45 * 60)
            with pytest.raises(InvalidRequest, match="expires_at"):
                client.run(request, step, on_link=Person())
        found = ledger.read(KEY)
        assert found is not None
        assert (found.state, remote.cancels, found.changed_at) == (State.STARTED, [], begun)

    def test_another_process_may_still_be_delivering(self) -> None:
        """In a shared ledger a fresh start without a delivery is waited for, and lost only after the settle window."""
        remote, ledger = service(shows_again=False), Shared()
        step = Step(key=KEY, on_link_lost="restart")
        with remote.client(ledger=ledger) as client:
            started = client.run(review(), step)
            with pytest.raises(LedgerError, match="may still be handing its link over") as caught:
                client.run(review(), step, on_link=Person())
            assert caught.value.execution_id == started.id
            remote.clock.plan(1, lambda: ledger.append(KEY, Event(state=State.LINK_DELIVERED, at=0)))
            assert client.run(review(), step, on_link=failing).id == started.id
            assert remote.cancels == []

    def test_unrecorded_delivery_is_recorded_as_soon_as_the_ledger_is_back(self) -> None:
        """A ledger that is away for a moment costs neither the delivery nor its record."""
        remote, inner, refusals = service(shows_again=False), MemoryLedger(), [1, 1]

        def append(key: str, event: Event) -> Entry:
            if event.state is State.LINK_DELIVERED and refusals:
                refusals.pop()
                raise LedgerError("away")
            return inner.append(key, event)

        person = Person()
        with remote.client(ledger=Hindered(inner, inner.claim, append)) as client:
            client.run(review(), KEY, on_link=person)
        found = inner.read(KEY)
        assert found is not None
        assert (len(person.links), found.state) == (1, State.LINK_DELIVERED)

    def test_delivery_that_cannot_be_recorded_names_the_execution(self) -> None:
        """A ledger that stays away fails the try, which a retry may mend."""
        remote, inner = service(shows_again=False), MemoryLedger()

        def append(key: str, event: Event) -> Entry:
            if event.state is State.LINK_DELIVERED:
                raise LedgerError("away")
            return inner.append(key, event)

        with (
            remote.client(ledger=Hindered(inner, inner.claim, append)) as client,
            pytest.raises(LedgerError, match="away") as caught,
        ):
            client.run(review(), KEY, on_link=Person())
        assert caught.value.execution_id == remote.starts[0].execution_id


@given(
    shows_again=st.booleans(),
    fenced=st.booleans(),
    on_link_lost=st.sampled_from(["fail", "restart"]),
    crashes=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=4),
)
def test_link_is_never_silently_lost(
    shows_again: bool, fenced: bool, on_link_lost: Any, crashes: list[tuple[int, bool]]
) -> None:
    """Law: wherever tries crash, one that returns a living execution has delivered its link, or an earlier one has."""
    remote, person = service(shows_again=shows_again), Person()
    ledger: Any = Fenced() if fenced else Shared()
    step = Step(key=KEY, on_link_lost=on_link_lost)
    for dies_at, after in [*crashes, (99, True)]:
        with remote.client(ledger=ledger) as client:
            die(client, dies_at, after=after)
            ending: Execution | BaseException
            try:
                ending = client.run(review(), step, on_link=person)
            except (Crashed, TransactionlinkError) as error:
                ending = error
        if isinstance(ending, Execution):
            assert remote.status(ending.id) == "RUNNING"
            assert f"https://service.test/{ending.id}" in person.links
        else:  # loud, and for a person to decide
            loses = not shows_again and on_link_lost == "fail"
            assert isinstance(ending, (Crashed, StartOutcomeUnknown, *((LinkLost,) if loses else ())))
        remote.clock.advance(2 * SETTLE_WINDOW)
    running = [one for one in remote.starts if remote.status(one.execution_id) == "RUNNING"]
    assert len(running) <= 1


def die(client: Client, at: int, *, after: bool) -> None:
    """Let the client's process die at that command, before or after it is carried out."""
    carry_out, passed = client._perform, []

    def perform(command: Command, stop: Callable[[], bool] | None) -> Any:
        passed.append(command)
        here = len(passed) - 1 == at
        if here and not after:
            raise Crashed
        reply = carry_out(command, stop)
        if here:
            raise Crashed
        return reply

    setattr(client, "_perform", perform)  # noqa: B010  # the one place that all commands pass
