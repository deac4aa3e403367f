"""A start can be found by a random id among its parameters, which the ledger knows before the service does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import EXECUTION_ID, NOW, response, run_request
from tests.planted import FIRST_NAME
from tests.scripted import Crashed, World
from tests.steps import KEY, LOST, RUNNING, STEP, held, start
from tl_orchestration.correlation import Correlation, new_correlation
from tl_orchestration.errors import InvalidRequest, RateLimited, StartOutcomeUnknown
from tl_orchestration.fingerprint import fingerprint
from tl_orchestration.ledger import Entry, State
from tl_orchestration.models import Execution
from tl_orchestration.options import B3osOptions, LegacyOptions
from tl_orchestration.services.b3os import B3os
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.start import Step, decide

NAME = "caseRef"
NAMED = evolve(STEP, correlation_parameter=NAME)
RESTART = evolve(NAMED, on_unknown_start="restart")
CURRENT = Transactionlink(now=lambda: NOW)
PARAMETERS = response(200, {"parametersId": "parameters-1"})
OTHER_PARAMETERS = response(200, {"parametersId": "parameters-2"})
QUEUED = response(200, {"code": 200, "data": {"execution": {"id": EXECUTION_ID, "status": "workflow_queued"}}})


def begin(world: World, step: Step = NAMED, **fields: Any) -> Execution:
    """One try of a step at the current service."""
    return start(world, run_request(**fields), service=CURRENT, step=step)


def sent(world: World, path: str = "/workflows", member: str = "parameters") -> list[Any]:
    """The correlation ids that were sent there, in order."""
    found = []
    for body in world.bodies(path):
        parameters = body[member]
        assert isinstance(parameters, dict)
        found.append(parameters.get(NAME))
    return found


class TestName:
    @pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[2J", 7, b"caseRef", ["caseRef"], True])
    def test_what_cannot_be_a_name_is_refused(self, name: Any) -> None:
        """A step with such a name cannot be made."""
        with pytest.raises(ValueError, match="correlation_parameter must be the name of a parameter"):
            Step(key="k", correlation_parameter=name)

    def test_taken_name_is_refused(self) -> None:
        """A parameter of the caller's is never overwritten: nothing is sent, nothing recorded, no value shown."""
        world = World()
        with pytest.raises(InvalidRequest, match="'caseRef', which is among the parameters already") as caught:
            begin(world, parameters={NAME: FIRST_NAME})
        assert (world.requests, world.ledger.read(KEY)) == ([], None)
        assert FIRST_NAME not in str(caught.value)


class TestId:
    def test_is_random(self) -> None:
        """128 bits, so that no two starts share one."""
        made = {new_correlation(NAME).id for _ in range(100)}
        assert len(made) == 100
        assert all(re.fullmatch("tl-[0-9a-f]{32}", one) for one in made)

    def test_there_is_none_by_default(self) -> None:
        """A step that does not name a parameter sends and records nothing more than the request."""
        world = World([RUNNING])
        begin(world, STEP)
        assert [body["parameters"] for body in world.bodies("/workflows")] == [{"firstName": "Ada"}]
        assert not any("correlation" in name for name in held(world).to_dict())

    def test_is_sent_beside_the_parameters_and_recorded_with_the_intent(self) -> None:
        """What is recorded before the process dies at the start is what was sent."""
        world = World([Crashed])
        with pytest.raises(Crashed):
            begin(world)
        known = held(world)
        assert (known.state, known.correlation_parameter) == (State.INTENT, NAME)
        (body,) = world.bodies("/workflows")
        assert body["parameters"] == {"firstName": "Ada", NAME: known.correlation_id}

    def test_stays_with_the_execution(self) -> None:
        """It is known of a started execution as well."""
        world = World([RUNNING])
        begin(world)
        assert State.STARTED is held(world).state
        assert [held(world).correlation_id] == sent(world)

    def test_retry_is_no_changed_request(self) -> None:
        """A later try, with the name, without it, or with another, goes on with what was started."""
        world = World([RUNNING] * 4)
        begin(world)
        for step in (NAMED, STEP, evolve(NAMED, correlation_parameter="other")):
            assert begin(world, step).reattached
        assert len(sent(world)) == 1

    @given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.integers(), max_size=3))
    def test_fingerprint_is_the_same_with_and_without(self, parameters: dict[str, int]) -> None:
        """Law: what is recorded of a request, to notice a changed one, knows nothing of the id."""
        parameters.pop(NAME, None)
        worlds = [World([RUNNING]), World([RUNNING]), World([RUNNING])]
        for world, step in zip(worlds, (STEP, NAMED, NAMED), strict=True):
            begin(world, step, parameters=parameters)
        assert {held(world).fingerprint for world in worlds} == {
            fingerprint(run_request(parameters=parameters), b"secret").digest
        }
        assert [sent(world) != [None] for world in worlds] == [False, True, True]

    def test_each_attempt_has_its_own(self) -> None:
        """A start after a refusal is another start."""
        world = World([response(429), RUNNING])
        with pytest.raises(RateLimited):
            begin(world)
        begin(world)
        assert len(set(sent(world))) == 2
        assert sent(world)[1] == held(world).correlation_id
        assert held(world).suspect_correlation_ids == ()

    def test_restart_has_another_and_the_former_stays_known(self) -> None:
        """Both starts may run, so both can be looked for."""
        world = World([LOST, RUNNING])
        with pytest.raises(StartOutcomeUnknown):
            begin(world, RESTART)
        begin(world, RESTART)
        lost, restarted = sent(world)
        assert lost != restarted
        assert (held(world).suspect_correlation_ids, held(world).correlation_id) == ((lost,), restarted)
        assert Entry.from_dict(held(world).to_dict()) == held(world)


class TestMessage:
    def test_names_what_to_look_for(self) -> None:
        """The error of the lost start says name and id, and so does every later try, from the ledger."""
        world = World([LOST])
        for step in (NAMED, STEP):
            with pytest.raises(StartOutcomeUnknown) as caught:
                begin(world, step)
            (lost,) = sent(world)
            assert caught.value.correlation_id == lost
            for sentence in (str(caught.value), caught.value.what):
                assert f"Look for caseRef = {lost} among the executions' parameters in the vendor's dash" in sentence
        assert (held(world).state, held(world).correlation_id) == (State.UNKNOWN, lost)

    def test_without_one_there_is_nothing_to_name(self) -> None:
        """Also of an entry that an earlier version wrote."""
        known = Entry.from_dict({"format": 1, "version": 2, "state": "UNKNOWN", "generation": "0", "changed_at": NOW})
        with pytest.raises(StartOutcomeUnknown, match="Look for it in the vendor's dashboard") as caught:
            decide(known, NAMED, fingerprint(run_request(), b"secret"))
        assert caught.value.correlation_id is None

    def test_id_is_written_as_a_person_reads_it(self) -> None:
        """Name, equals sign, id."""
        assert str(Correlation(NAME, "tl-1")) == "caseRef = tl-1"


class TestLegacy:
    def test_is_in_the_parameters_set(self) -> None:
        """What the service is asked to run with is made with the id in it, and the run refers to that."""
        world = World([PARAMETERS, RUNNING])
        start(world, run_request(), step=NAMED)
        assert sent(world, "/parameters") == [held(world).correlation_id]
        assert [body["parametersId"] for body in world.bodies("/workflows/run")] == ["parameters-1"]

    def test_is_sent_without_other_parameters(self) -> None:
        """A request without parameters then has one."""
        world = World([PARAMETERS, RUNNING])
        start(world, run_request(parameters={}), step=NAMED)
        assert [body["parameters"] for body in world.bodies("/parameters")] == [{NAME: held(world).correlation_id}]

    @pytest.mark.parametrize("parameters", [{}, {"firstName": "Ada"}])
    def test_crash_before_the_run_is_no_unknown_start(self, parameters: dict[str, Any]) -> None:
        """While only the parameters set is being made nothing can run; the next try makes one with its own id."""
        world = World([Crashed, PARAMETERS, RUNNING])
        with pytest.raises(Crashed):
            start(world, run_request(parameters=parameters), step=NAMED)
        assert held(world).preparing
        start(world, run_request(parameters=parameters), step=NAMED)
        assert len(set(sent(world, "/parameters"))) == 2
        assert (sent(world, "/parameters")[1], 1) == (held(world).correlation_id, held(world).attempt)
        assert held(world).suspect_correlation_ids == ()

    @pytest.mark.parametrize("failure", [response(400), LOST])
    @pytest.mark.parametrize(("before", "after"), [(NAMED, RESTART), (NAMED, STEP), (STEP, NAMED)])
    def test_parameters_set_with_an_id_serves_one_attempt(self, failure: Any, before: Step, after: Step) -> None:
        """The next attempt has another id or none, so it makes a set of its own; the case is used again."""
        request = run_request(options=LegacyOptions(first_name="Ada"))
        world = World([response(201, {"caseId": "case-1"}), PARAMETERS, failure, OTHER_PARAMETERS, RUNNING])
        with pytest.raises((InvalidRequest, StartOutcomeUnknown)):
            start(world, request, step=before)
        start(world, request, step=evolve(after, on_unknown_start="restart"))
        assert [path for path in world.paths if path == "/cases"] == ["/cases"]
        assert len(set(sent(world, "/parameters"))) == 2
        assert sent(world, "/parameters")[1] == held(world).correlation_id
        assert [body["parametersId"] for body in world.bodies("/workflows/run")] == ["parameters-1", "parameters-2"]


class TestB3os:
    REQUEST = run_request(options=B3osOptions(source_system="s", source_entity_type="t"))
    REPEAT = evolve(NAMED, on_unknown_start="repeat-same-key")

    def test_same_start_is_repeated_with_the_same_id(self) -> None:
        """In one try and in a later one, whatever that one's step says: the same key means the same request."""
        service = B3os(now=lambda: NOW)
        world = World([LOST, LOST, LOST, QUEUED])
        with pytest.raises(StartOutcomeUnknown) as caught:
            start(world, self.REQUEST, service=service, step=self.REPEAT)
        start(world, self.REQUEST, service=service, step=evolve(self.REPEAT, correlation_parameter=None))
        assert sent(world, "/v1/executions", "requestPayload") == [caught.value.correlation_id] * 4
        assert len({str(body["idempotencyKey"]) for body in world.bodies("/v1/executions")}) == 1
