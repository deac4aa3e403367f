"""
The forwarder between an inbox and a real Prefect server: who is woken, by what, and what a restart costs. Its time is
the test's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateDetails, StateType
from prefect.events.actions import DoNothing
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_blocks import announcing, waking
from prefect_blocks.automations import WAKE_UP
from prefect_blocks.forwarding import EARLY, LOOKS, PATIENCE, Forwarder, forward, place_name
from tl_orchestration.errors import InvalidSettings, LedgerError
from tl_orchestration.webhooks.inbox import Arrival, Inbox


@flow
def waits() -> None:
    """Stands for any flow: it never runs."""


class Bench:
    """One inbox, one server, and flow runs in states of the test's choice."""

    def __init__(self, client: SyncPrefectClient, inbox: Inbox) -> None:
        self.client = client
        self.inbox = inbox
        self.now = 1000.0
        self.lose_automation: Callable[[], None] = lambda: None
        self.forwarder = self.another()
        self.deployment = client.create_deployment(client.create_flow(waits), f"d{uuid4()}")

    def another(self) -> Forwarder:
        return Forwarder(self.inbox, monotonic=lambda: self.now)

    def run(self) -> UUID:
        return self.client.create_flow_run_from_deployment(self.deployment).id

    def state(self, run: UUID) -> str:
        return str(self.client.read_flow_run(run).state_name)

    def set(self, run: UUID, kind: StateType, name: str, key: str | None = None) -> str | None:
        details = StateDetails(pause_key=key, pause_reschedule=kind is StateType.PAUSED)
        self.client.set_flow_run_state(run, State(type=kind, name=name, state_details=details), force=True)
        return key

    def suspend(self, run: UUID, unended: int = 1) -> str:
        key = announcing.pause_key(unended)
        self.set(run, StateType.PAUSED, "Suspended", key)
        return key

    def announce(self, run: UUID, *execution_ids: str) -> None:
        """As the flow run does; returns when it can be found."""
        announcing.announce(self.client, run, execution_ids)
        until(lambda: all(run in waking.who_waits(self.client, [one])[one] for one in execution_ids))

    def waiting(self, *execution_ids: str, unended: int = 1) -> UUID:
        run = self.run()
        self.announce(run, *execution_ids)
        self.suspend(run, unended)
        return run

    def arrive(self, execution_id: str, *, age: float = 0.0, kind: str = "WORKFLOW_COMPLETED") -> None:
        now = time.time() - age
        self.inbox.put([Arrival("transactionlink", execution_id, kind, uuid4().hex, now)])

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.forwarder.turn(self.client)

    def events(self, name: str, **match: Any) -> list[dict[str, Any]]:
        wanted = {"event": {"name": [name]}, **match}
        found: list[dict[str, Any]] = self.client.request("POST", "/events/filter", json={"filter": wanted}).json()[
            "events"
        ]
        return found

    def wakes(self, run: UUID) -> list[dict[str, Any]]:
        return self.events(waking.WAKE, resource={"id": [f"prefect.flow-run.{run}"]})

    def announced(self, execution_id: str) -> list[dict[str, Any]]:
        return self.events(waking.ANNOUNCED, resource={"id": [f"transactionlink.execution.{execution_id}"]})


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.05)


def new_id() -> str:
    return str(uuid4())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox.db'}")
    late = AutomationCore(
        name=WAKE_UP,
        trigger=EventTrigger(expect={"never"}, posture=Posture.Reactive, threshold=1),
        actions=[DoNothing()],
    )  # is there, and does not do it
    with get_client(sync_client=True) as client:
        automation = client.create_automation(late)
        bench = Bench(client, inbox)
        bench.lose_automation = lambda: client.delete_automation(automation)
        yield bench
        for one in client.read_automations_by_name(WAKE_UP):
            client.delete_automation(one.id)
    inbox.close()


class TestWaking:
    def test_event_then_resume(self, bench: Bench) -> None:
        """A flow run that waits gets its event at once, and is resumed if the automation does not do it."""
        one = new_id()
        run = bench.waiting(one)
        bench.arrive(one)
        bench.turn()
        until(lambda: len(bench.wakes(run)) == 1)
        (event,) = bench.announced(one)
        assert [each["prefect.resource.id"] for each in event["related"]] == [f"prefect.flow-run.{run}"]
        assert event["payload"] == {"service": "transactionlink", "execution_id": one, "kind": "WORKFLOW_COMPLETED"}
        assert bench.state(run) == "Suspended"
        bench.turn(PATIENCE + 2)
        assert bench.state(run) == "Resuming"
        bench.turn(PATIENCE + 2)
        assert len(bench.wakes(run)) == 1

    @pytest.mark.parametrize("resource", ["prefect.flow-run.{}x", "somebody.{}"])
    def test_event_of_a_stranger(self, bench: Bench, resource: str) -> None:
        """An event of that name about no flow run, which anybody can send, holds up nobody who waits beside it."""
        one, about = new_id(), resource.format(uuid4())
        event = announcing.event(announcing.WAITS_FOR, uuid4(), [one])
        announcing.send(bench.client, [event | {"resource": {"prefect.resource.id": about}}])
        until(lambda: bench.events(announcing.WAITS_FOR, resource={"id": [about]}))
        run = bench.waiting(one)
        bench.arrive(one)

        bench.turn()

        until(lambda: len(bench.wakes(run)) == 1)
        assert waking.who_waits(bench.client, [one]) == {one: {run}}

    def test_without_the_automation(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        """Where the automation was never made, that is said, and nobody waits for it."""
        bench.lose_automation()
        one = new_id()
        run = bench.waiting(one)
        bench.arrive(one)
        bench.turn()
        assert bench.state(run) == "Resuming"
        assert caplog.text.count("has no automation") == 1

    def test_announced_where_nobody_waits(self, bench: Bench) -> None:
        """Each hint makes one event, also where no flow run waits, and also where the sender's word was not read."""
        one, other = new_id(), new_id()
        bench.arrive(one)
        bench.arrive(other, kind="")
        for seconds in LOOKS:
            bench.turn(seconds)
        until(lambda: len(bench.announced(one)) == len(bench.announced(other)) == 1)

    def test_kept_aside_is_passed_over(self, bench: Bench) -> None:
        """A delivery that was not understood says nothing that could be told."""
        one = new_id()
        bench.arrive("")
        bench.arrive(one)
        bench.turn()
        until(lambda: len(bench.announced(one)) == 1)
        assert bench.announced("") == []
        bench.forwarder.keep(bench.client)
        assert bench.client.read_variable_by_name(place_name(bench.inbox)) is not None

    def test_before_the_suspension(self, bench: Bench) -> None:
        """A webhook that comes between the flow's last look and its suspension wakes it once it is suspended."""
        one, run = new_id(), bench.run()
        bench.set(run, StateType.RUNNING, "Running")
        bench.arrive(one)
        bench.turn()
        bench.announce(run, one)
        bench.turn(1)
        bench.turn(1)
        assert bench.state(run) == "Running"
        bench.suspend(run)
        bench.turn(1)
        until(lambda: len(bench.wakes(run)) == 1)
        bench.turn(PATIENCE + 2)
        assert bench.state(run) == "Resuming"

    def test_another_reason(self, bench: Bench) -> None:
        """A flow run that is suspended for a person's approval, after its execution, is left to the person."""
        one = new_id()
        run = bench.waiting(one)
        bench.set(run, StateType.PAUSED, "Suspended", "approval")
        bench.arrive(one)
        for _ in range(10):
            bench.turn(PATIENCE + 2)
        assert bench.state(run) == "Suspended"
        assert bench.wakes(run) == []

    def test_one_hint_wakes_once(self, bench: Bench) -> None:
        """A flow run that has looked and was suspended again is not woken by what woke it before."""
        one = new_id()
        run = bench.waiting(one)
        bench.arrive(one)
        bench.turn()
        bench.set(run, StateType.RUNNING, "Running")
        bench.suspend(run)
        for _ in range(20):
            bench.turn(PATIENCE + 2)
        assert bench.state(run) == "Suspended"
        until(lambda: len(bench.wakes(run)) == 1)
        bench.arrive(one)
        bench.turn()
        until(lambda: len(bench.wakes(run)) == 2)

    def test_several_flow_runs(self, bench: Bench) -> None:
        """Each flow run that waits for the same execution is woken."""
        one = new_id()
        runs = [bench.waiting(one) for _ in range(3)]
        bench.arrive(one)
        bench.turn()
        until(lambda: all(len(bench.wakes(run)) == 1 for run in runs))

    def test_more_than_one_answer_holds(self, bench: Bench) -> None:
        """However many wait for the same execution, each is found: Prefect gives its events by portions."""
        one, runs = new_id(), {uuid4() for _ in range(waking.PORTION + 5)}
        for run in runs:
            announcing.announce(bench.client, run, [one])
        until(lambda: waking.who_waits(bench.client, [one])[one] == runs)

    def test_ended_is_left(self, bench: Bench) -> None:
        """A flow run that has ended is not touched."""
        one = new_id()
        run = bench.waiting(one)
        bench.set(run, StateType.CANCELLED, "Cancelled")
        bench.arrive(one)
        bench.turn()
        bench.turn(PATIENCE + 2)
        assert bench.state(run) == "Cancelled"
        assert bench.wakes(run) == []


class TestMany:
    def test_woken_when_all_were_announced(self, bench: Bench) -> None:
        """A flow run that waits for many is begun when each was announced, not for every one of them."""
        ids = [new_id() for _ in range(60)]
        run = bench.waiting(*ids, unended=60)
        for one in ids[:59]:
            bench.arrive(one)
        bench.arrive(ids[0])
        bench.turn()
        bench.turn(PATIENCE + 2)
        assert bench.wakes(run) == []
        bench.arrive(ids[59])
        bench.turn()
        until(lambda: len(bench.wakes(run)) == 1)
        bench.turn(PATIENCE + 2)
        assert bench.state(run) == "Resuming"

    def test_announced_before_counts_for_the_former_suspension(self, bench: Bench) -> None:
        """Hints from long before a suspension do not count for it: the flow has looked since."""
        ids = [new_id(), new_id()]
        run = bench.waiting(*ids, unended=2)
        bench.forwarder.turn(bench.client)
        bench.arrive(ids[0], age=EARLY + 10)
        bench.arrive(ids[1])
        bench.turn()
        bench.turn(PATIENCE + 2)
        assert bench.state(run) == "Suspended"
        assert bench.wakes(run) == []


class TestRestart:
    def test_goes_on_where_the_last_one_was(self, bench: Bench) -> None:
        """What arrived while no forwarder ran is told, however long ago; what was told before makes no other event."""
        one, two = new_id(), new_id()
        bench.arrive(one)
        bench.turn()
        bench.turn(LOOKS[-1])
        for seconds in LOOKS:
            bench.turn(seconds)
        bench.forwarder = bench.another()
        bench.arrive(two, age=3600)
        bench.turn()
        until(lambda: len(bench.announced(two)) == 1)
        assert len(bench.announced(one)) == 1

    def test_pending_hint_survives(self, bench: Bench) -> None:
        """One that is killed while a hint waits for its flow run loses nothing: the next one waits for it."""
        one, run = new_id(), bench.run()
        bench.set(run, StateType.RUNNING, "Running")
        bench.announce(run, one)
        bench.arrive(one, age=600)  # older than what a forwarder without a place reads
        bench.client.create_variable(_place(bench.inbox, 0))
        bench.turn()
        bench.turn(10)
        bench.forwarder = bench.another()
        bench.suspend(run)
        bench.turn()
        until(lambda: len(bench.wakes(run)) == 1)

    def test_two_at_once(self, bench: Bench) -> None:
        """Two forwarders make the same events, and the flow run is resumed once."""
        one = new_id()
        run = bench.waiting(one)
        bench.arrive(one)
        second = bench.another()
        bench.turn()
        second.turn(bench.client)
        bench.turn(PATIENCE + 2)
        second.turn(bench.client)
        states = [state.name for state in bench.client.read_flow_run_states(run)]
        assert states.count("Resuming") == 1
        until(lambda: len(bench.wakes(run)) == 1)
        time.sleep(0.5)
        assert len(bench.wakes(run)) == len(bench.announced(one)) == 1

    @pytest.mark.parametrize("place", [10_000, "nonsense", {"a": 1}, None])
    def test_place_that_is_none(self, bench: Bench, place: Any) -> None:
        """A place beyond the inbox, as after a restore, or no place at all, is not believed: nothing would be told."""
        bench.client.create_variable(_place(bench.inbox, place))
        one = new_id()
        bench.arrive(one)
        bench.turn()
        until(lambda: len(bench.announced(one)) == 1)

    def test_empty_inbox(self, bench: Bench) -> None:
        """An inbox that was made anew is read from its beginning."""
        bench.client.create_variable(_place(bench.inbox, 10_000))
        bench.turn()
        one = new_id()
        bench.arrive(one)
        bench.turn(1)
        until(lambda: len(bench.announced(one)) == 1)

    def test_server_does_not_answer(self, bench: Bench) -> None:
        """While the server is away nothing is lost: the next turn does it."""
        one = new_id()
        run = bench.waiting(one)
        bench.turn()
        bench.arrive(one)
        with (
            temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
            away = SyncPrefectClient("http://127.0.0.1:1/api")
            with pytest.raises(Exception, match=r"[Cc]onnect"):
                bench.forwarder.turn(away)
        bench.turn(1)
        until(lambda: len(bench.wakes(run)) == 1)


class TestLoop:
    def test_goes_on_after_errors(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An inbox that cannot be read for a while is told once, and read again; the place is kept at the end."""
        monkeypatch.setattr("prefect_blocks.forwarding.INTERVAL", 0.05)
        failures = 3
        since = bench.inbox.since

        def fails(cursor: Any = None) -> Any:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise LedgerError("The database is down.")
            return since(cursor)

        monkeypatch.setattr(bench.inbox, "since", fails)
        one, stop = new_id(), threading.Event()
        run = bench.waiting(one)
        bench.arrive(one)
        # In 3.6.17 the test server's address is a setting of this context alone.
        thread = threading.Thread(target=copy_context().run, args=(forward, bench.inbox, stop))
        thread.start()
        try:
            until(lambda: len(bench.wakes(run)) == 1)
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()
        assert [record.levelname for record in caplog.records if "Forwarding waits" in record.message] == ["WARNING"]
        assert bench.client.read_variable_by_name(place_name(bench.inbox)) is not None

    def test_no_server_is_named(self, bench: Bench) -> None:
        """Without an address Prefect would start a server of its own: refused."""
        with temporary_settings({PREFECT_API_URL: None}), pytest.raises(InvalidSettings, match="PREFECT_API_URL"):
            forward(bench.inbox, threading.Event())


def _place(inbox: Inbox, value: Any) -> Any:
    from prefect.client.schemas.actions import VariableCreate

    return VariableCreate(name=place_name(inbox), value=value if isinstance(value, dict) else str(value))
