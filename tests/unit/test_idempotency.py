"""A keyed start has one key for all that is one start, and is repeated only where that was wanted."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from attrs import evolve

from tests.builders import EXECUTION_ID, NOW, SAME, FakeClock, entry, response, run_request
from tests.driving import Hand
from tests.scripted import Crashed, Mortal, Reaction, World
from tests.steps import KEY, LOST, RUNNING, STEP, held, start
from tl_orchestration.attempt import new_key, run_recorded
from tl_orchestration.errors import InvalidRequest, StartOutcomeUnknown
from tl_orchestration.exchange import Sleep, once
from tl_orchestration.ledger import State
from tl_orchestration.models import Execution
from tl_orchestration.options import B3osOptions
from tl_orchestration.services import Service
from tl_orchestration.services.b3os import B3os
from tl_orchestration.services.legacy import Legacy
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.start import Begin, Step, decide, start_unrecorded

SAME_KEY = evolve(STEP, on_unknown_start="repeat-same-key")
TO_B3OS = run_request(options=B3osOptions(source_system="s", source_entity_type="t"))
QUEUED = response(200, {"code": 200, "data": {"execution": {"id": EXECUTION_ID, "status": "workflow_queued"}}})


def begin(world: World, **options: Any) -> Execution:
    """One try of a step at B3OS."""
    return start(world, TO_B3OS, service=B3os(now=lambda: NOW), **options)


class TestIdempotencyKey:
    def sent(self, world: World) -> list[str]:
        return [str(body["idempotencyKey"]) for body in world.bodies("/v1/executions")]

    def test_is_random_and_recorded_with_the_intent(self) -> None:
        """Each start has one of its own, and the ledger knows it."""
        worlds = [World([QUEUED]), World([QUEUED])]
        for world in worlds:
            begin(world)
            assert [held(world).progress["idempotency_key"]] == self.sent(world)
        assert self.sent(worlds[0]) != self.sent(worlds[1])
        assert uuid.UUID(self.sent(worlds[0])[0]).version == 4

    def test_there_is_none_where_the_service_takes_none(self) -> None:
        """The other services' entries stay as they were."""
        for service, request in ((Transactionlink(now=lambda: NOW), run_request()), (None, run_request(parameters={}))):
            world = World([RUNNING])
            start(world, request, service=service)
            assert "progress" not in held(world).to_dict()

    def test_without_a_ledger_each_call_has_its_own(self) -> None:
        """A call is an attempt."""
        service = B3os(now=lambda: NOW)
        world = World([QUEUED, QUEUED])
        for _ in range(2):
            world.drive(start_unrecorded(service, TO_B3OS, timeout=60, clock=world.clock.clock(), start=once))
        assert len(set(self.sent(world))) == 2

    def test_lost_answer_is_not_repeated_by_default(self) -> None:
        """What the service makes of the key is documented nowhere, so it is no licence."""
        world = World([LOST])
        for _ in range(2):
            with pytest.raises(StartOutcomeUnknown):
                begin(world)
        assert len(world.requests) == 1

    @pytest.mark.parametrize("failure", [LOST, response(500), response(200), response(408)])
    def test_is_repeated_where_the_step_says_so(self, failure: Reaction) -> None:
        """A lost answer is followed by the same start with the same key, after a pause."""
        world = World([failure, failure, QUEUED])
        assert begin(world, step=SAME_KEY).id == EXECUTION_ID
        assert (len(world.requests), len(set(self.sent(world))), world.clock.passed) == (3, 1, 3.0)
        assert all(not request.repeatable for request in world.requests)
        assert State.STARTED is held(world).state

    def test_pause_before_a_repeat_cannot_be_stopped(self) -> None:
        """Whoever was stopped there would be told that nothing was started."""
        service, announced = B3os(now=lambda: NOW), entry(State.INTENT)
        flow = run_recorded(
            lambda: service.run(TO_B3OS, None, once, new_key(service)),
            KEY,
            announced,
            FakeClock().clock(),
            correlation=None,
            tries=2,
            unknown=False,
        )
        pause = Hand(flow).fail(LOST).asks(Sleep)
        assert not pause.stoppable

    def test_named_execution_is_not_asked_for_again(self) -> None:
        """A start in the wrong organization has happened, and its id is known."""
        elsewhere = response(200, {"code": 200, "data": {"id": EXECUTION_ID, "organizationId": "org_1"}})
        world = World([elsewhere])
        with pytest.raises(StartOutcomeUnknown) as caught:
            start(world, TO_B3OS, service=B3os(now=lambda: NOW, organization_id="org_2"), step=SAME_KEY)
        assert (caught.value.execution_id, len(world.requests)) == (EXECUTION_ID, 1)

    def test_is_given_up_after_some_repeats(self) -> None:
        """Then the fate is unknown, and the error does not say that nothing was repeated."""
        world = World([LOST, LOST, LOST])
        with pytest.raises(StartOutcomeUnknown, match="repeated only with the same idempotency key"):
            begin(world, step=SAME_KEY)
        assert State.UNKNOWN is held(world).state

    @pytest.mark.parametrize("refusal", [response(400), response(404), response(409), response(401), response(429)])
    def test_refused_repeat_does_not_show_that_nothing_runs(self, refusal: Reaction) -> None:
        """The service may refuse what it has already done: the fate stays unknown."""
        world = World([LOST, refusal])
        with pytest.raises(StartOutcomeUnknown):
            begin(world, step=SAME_KEY)
        assert (held(world).state, len(world.requests)) == (State.UNKNOWN, 2)

    def test_refusal_of_the_first_is_a_refusal(self) -> None:
        """Nothing was lost before it."""
        world = World([response(400)])
        with pytest.raises(InvalidRequest):
            begin(world, step=SAME_KEY)
        assert State.REJECTED is held(world).state

    def test_is_another_one_after_a_refusal(self) -> None:
        """A refused start is over; the next attempt is another one."""
        world = World([response(400), QUEUED])
        with pytest.raises(InvalidRequest):
            begin(world)
        begin(world)
        assert len(set(self.sent(world))) == 2

    def test_later_try_repeats_with_the_recorded_key_once(self) -> None:
        """After a crash the next try sends the same; what comes after a second unknown fate is a person's."""
        mortal = Mortal(2, after=False)
        world = World([QUEUED], ledger=mortal)
        with pytest.raises(Crashed):
            begin(world, step=SAME_KEY)
        survivor = World([LOST, LOST, LOST], ledger=mortal.inner)
        with pytest.raises(StartOutcomeUnknown):
            begin(survivor, step=SAME_KEY)
        assert set(self.sent(world)) == set(self.sent(survivor))
        with pytest.raises(StartOutcomeUnknown):
            begin(World(ledger=mortal.inner), step=SAME_KEY)

    def test_refusal_of_a_later_try_leaves_the_fate_unknown(self) -> None:
        """As within one try."""
        world = World([LOST, LOST, LOST, response(409)])
        for _ in range(2):
            with pytest.raises(StartOutcomeUnknown):
                begin(world, step=SAME_KEY)
        assert State.UNKNOWN is held(world).state

    @pytest.mark.parametrize(
        ("fields", "step"),
        [
            ({"progress": {}}, SAME_KEY),
            ({"fingerprint": "ef" * 32}, SAME_KEY),
            ({"fingerprint_key_id": "01" * 8}, SAME_KEY),
            ({"restarts": 1}, SAME_KEY),
            ({}, evolve(SAME_KEY, generation="1")),
            ({}, STEP),
        ],
    )
    def test_only_the_same_start_is_repeated(self, fields: dict[str, Any], step: Step) -> None:
        """No key, another request, one that cannot be compared, another life, twice: none of these is repeated."""
        known = {"progress": {"idempotency_key": "k"}}
        assert Begin(same_key=True) == decide(entry(State.UNKNOWN, **known), SAME_KEY, SAME)
        with pytest.raises(StartOutcomeUnknown):
            decide(entry(State.UNKNOWN, **known | fields), step, SAME)

    @pytest.mark.parametrize("service", [Transactionlink(now=lambda: NOW), Legacy(now=lambda: NOW)])
    def test_policy_needs_a_service_that_takes_a_key(self, service: Service) -> None:
        """Where there is no key, nothing is repeated, and nothing is sent or recorded either."""
        world = World()
        with pytest.raises(InvalidRequest, match="takes none"):
            start(world, run_request(), service=service, step=SAME_KEY)
        assert world.ledger.read(KEY) is None

    def test_restart_has_another_key(self) -> None:
        """A restart is meant to be another start."""
        world = World([LOST, QUEUED])
        with pytest.raises(StartOutcomeUnknown):
            begin(world)
        begin(world, step=evolve(STEP, on_unknown_start="restart"))
        assert len(set(self.sent(world))) == 2
