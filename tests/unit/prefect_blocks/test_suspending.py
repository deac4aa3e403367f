"""
Where a flow run can be suspended, and for how long Prefect is told that it may take.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import State, StateDetails, StateType

from prefect_blocks import announcing, suspending

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def test_outside_of_a_flow() -> None:
    """A script has no flow run to suspend."""
    assert suspending.obstacle(asynchronous=False) == "it does not run in a flow"


def test_prefects_timeout_is_longer_than_ours() -> None:
    """Prefect fails a flow run at its own time-out without a hook: ours has to come first, also where it has passed."""
    assert (suspending._timeout(time.time() + 600) or 0) > 600 + 3600
    assert (suspending._timeout(time.time() - 600) or 0) > 3600
    assert suspending._timeout(None) is None


def test_each_suspension_has_a_key_of_its_own() -> None:
    """Prefect passes over a suspension whose key it has seen."""
    assert announcing.pause_key(1) != announcing.pause_key(1)


@pytest.mark.parametrize(
    ("name", "key", "count"),
    [
        pytest.param("Suspended", announcing.pause_key(1), 1, id="ours"),
        pytest.param("Suspended", announcing.pause_key(500), 500, id="the five hundredth"),
        ("Suspended", "transactionlink-12345678-1234-4234-8234-123456789012", 1),  # by an older version
        ("Suspended", "approval", None),
        ("Suspended", "1", None),
        ("Suspended", None, None),
        pytest.param("Paused", announcing.pause_key(1), None, id="a pause"),
        pytest.param("Resuming", announcing.pause_key(1), None, id="resuming"),
    ],
)
def test_only_our_suspensions_are_ours(name: str, key: str | None, count: int | None) -> None:
    """A flow run that is suspended for a person's approval waits for no execution."""
    kind = StateType.SCHEDULED if name == "Resuming" else StateType.PAUSED
    state: State[None] = State(type=kind, name=name, state_details=StateDetails(pause_key=key))
    assert announcing.awaited(state) == count
    assert announcing.awaited(None) is None


def test_announcement_is_the_same_each_time() -> None:
    """Many executions need several events, the same ones at each suspension, and none that Prefect would refuse."""
    flow_run_id, ids = uuid4(), [f"e{number}" for number in range(120)]

    def events() -> list[dict[str, Any]]:
        client = Sent()
        announcing.announce(cast("SyncPrefectClient", client), flow_run_id, ids)
        return client.events

    first, second = events(), events()
    assert [event["event"] for event in first] == [announcing.WAITING] + 3 * [announcing.WAITS_FOR]
    assert first[0]["id"] != second[0]["id"]
    assert [event["id"] for event in first[1:]] == [event["id"] for event in second[1:]]
    assert len({event["id"] for event in first}) == 4
    assert max(len(event["related"]) for event in first) <= 100
    related = [one["prefect.resource.id"] for event in first for one in event["related"]]
    assert related == [f"transactionlink.execution.{one}" for one in ids]


class Sent:
    """Takes events as a server does."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def request(self, method: str, path: str, *, json: list[dict[str, Any]]) -> httpx.Response:
        self.events += json
        return httpx.Response(204, request=httpx.Request(method, f"http://server{path}"))
