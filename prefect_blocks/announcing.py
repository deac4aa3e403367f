"""
What a suspended flow run has said about its waiting, and how others find it: events and the pause key of its state.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4, uuid5

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

WAITING = "transactionlink.flow-run.waiting"
"""
Event: this flow run is about to be suspended until its executions have ended. Its resource is the flow run.
"""

WAITS_NO_MORE = "transactionlink.flow-run.waits-no-more"
"""
Event: this flow run goes on in the process that has announced :data:`WAITING`. Its resource is the flow run.
"""

WAITS_FOR = "transactionlink.flow-run.waits-for"
"""
Event: these executions, as related resources, are waited for by this flow run. The same ones make the same event, so
that Prefect keeps one however often the flow run is suspended for them.
"""

_KEY = re.compile(r"transactionlink-[0-9a-f-]{36}(?:-(?P<unended>[0-9]+))?")
"""
The pause key of a suspension of ours; Prefect keeps it in the state. Without a number it is by an older version.
"""

_RELATED = 50
"""
Executions in one event. Prefect refuses one with more than a hundred related resources.
"""

_EVENTS = UUID("0c3f4e0e-7a52-4f53-8b0a-1d7f2f0f6c55")

_PAGE = 200

MOST_EVENTS = 200
"""
Events that the server is handed at once.
"""


def pause_key(unended: int) -> str:
    """
    A new one each time: with one that the server has seen, the suspension would be passed over.
    """
    return f"transactionlink-{uuid4()}-{unended}"


def is_ours(key: str) -> bool:
    """
    Whether a pause key is of a suspension of ours.
    """
    return _KEY.fullmatch(key) is not None


def awaited(state: State[Any] | None) -> int | None:
    """
    For how many executions a flow run in this state is suspended; None: it is not, or for another reason.
    """
    if state is None or state.name != "Suspended":
        return None
    match = _KEY.fullmatch(state.state_details.pause_key or "")
    return None if match is None else int(match["unended"] or 1)


def waiting_flow_runs(client: SyncPrefectClient) -> Iterator[FlowRun]:
    """
    The flow runs that are suspended until an execution has ended, and for no other reason.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName

    suspended = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"])))
    offset = 0
    while page := client.read_flow_runs(flow_run_filter=suspended, limit=_PAGE, offset=offset):
        offset += len(page)
        for run in page:
            if awaited(run.state) is not None:
                yield run


def announce(
    client: SyncPrefectClient, flow_run_id: UUID, execution_ids: Sequence[str] = (), at: datetime | None = None
) -> None:
    """
    Say that a flow run waits, and for what. Returns only once the server has the events: unheard, nobody would wake the
    flow run.

    Args:
        at: Since when; default: now.
    """
    events = [event(WAITING, flow_run_id, at=at)]
    for first in range(0, len(execution_ids), _RELATED):
        events.append(event(WAITS_FOR, flow_run_id, execution_ids[first : first + _RELATED]))
    send(client, events)


def event(
    name: str, flow_run_id: UUID, execution_ids: Sequence[str] = (), at: datetime | None = None
) -> dict[str, Any]:
    identity = uuid5(_EVENTS, " ".join([str(flow_run_id), *execution_ids])) if execution_ids else uuid4()
    return {
        "id": str(identity),
        "event": name,
        "occurred": (at or datetime.now(UTC)).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}"},
        "related": [
            {"prefect.resource.id": f"transactionlink.execution.{one}", "prefect.resource.role": "execution"}
            for one in execution_ids
        ],
        "payload": {},
    }


def send(client: SyncPrefectClient, events: Sequence[dict[str, Any]]) -> None:
    """
    Hand events over; returns when the server has them.
    """
    for first in range(0, len(events), MOST_EVENTS):
        client.request("POST", "/events", json=list(events[first : first + MOST_EVENTS])).raise_for_status()


__all__ = [
    "MOST_EVENTS",
    "WAITING",
    "WAITS_FOR",
    "WAITS_NO_MORE",
    "announce",
    "awaited",
    "event",
    "is_ours",
    "pause_key",
    "send",
    "waiting_flow_runs",
]
