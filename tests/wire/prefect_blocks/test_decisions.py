"""
Whether a person decided, as a real server answers to what people and runners do.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelling, Paused, Running, Scheduled, Suspended

from prefect_blocks import decisions


@flow
def nothing() -> None:
    pass


def a_person_cancels(client: SyncPrefectClient, run: FlowRun) -> None:
    client.set_flow_run_state(run.id, Cancelling())


def its_runner_shuts_down(client: SyncPrefectClient, run: FlowRun) -> None:
    """As Prefect's runner does it: the state as it is, by another name, and by force."""
    assert run.state is not None
    cancelled = run.state.model_copy(update={"name": "Cancelled", "type": StateType.CANCELLED})
    client.set_flow_run_state(run.id, cancelled, force=True)


def awaiting(name: str) -> State[Any]:
    return State(type=StateType.SCHEDULED, name=name)


def paused(make: Callable[..., State[Any]]) -> State[Any]:
    return make(pause_key=str(uuid.uuid4()), timeout_seconds=300)


@pytest.mark.parametrize(
    ("state", "process"),
    [
        pytest.param(lambda: None, True, id="running"),
        pytest.param(lambda: Scheduled(), False, id="scheduled"),
        pytest.param(lambda: awaiting("AwaitingRetry"), True, id="waits for its retry"),
        pytest.param(lambda: awaiting("Resuming"), True, id="resumes"),
        pytest.param(lambda: paused(Suspended), True, id="suspended"),
        pytest.param(lambda: paused(Paused), True, id="paused in its process"),
    ],
)
def test_person_decides_and_runner_does_not(state: Callable[[], State[Any] | None], process: bool) -> None:
    """Whatever the flow run is at, a person's cancel is a decision, and the end of its runner is none."""
    for act, decided in {a_person_cancels: True, its_runner_shuts_down: False}.items():
        with get_client(sync_client=True) as client:
            run = client.create_flow_run(nothing)
            client.set_flow_run_state(run.id, Running(), force=True)
            if (reached := state()) is not None:
                client.set_flow_run_state(run.id, reached, force=True)
            if process:
                client.update_flow_run(run.id, infrastructure_pid="host:1")

            before = client.read_flow_run(run.id)

            act(client, before)

            reached = client.read_flow_run(run.id).state
            # Prefect 3.6.17 does not take the cancel of what is paused in its process.
            taken = reached is not None and (reached.is_cancelling() or reached.is_cancelled())
            assert decisions.somebody_decided(run.id) is (decided and taken)
            assert taken or (before.state is not None and before.state.name == "Paused")
