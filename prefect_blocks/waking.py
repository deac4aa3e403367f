"""
Who waits for an execution on the Prefect server, and the events by which such a flow run is woken.

An event holds ids and the sender's word for what happened, and never what happened: that the flow asks the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid5

from prefect_blocks.announcing import WAITS_FOR

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

    from tl_orchestration.hints import Hint

ANNOUNCED = "transactionlink.execution.announced"
"""
Event: a webhook about this execution was verified. Its related resources are the flow runs that wait for it.
"""

WAKE = "transactionlink.flow-run.wake"
"""
Event: this flow run is suspended for an execution that was announced. Its resource is the flow run.
"""

_EXECUTION = "transactionlink.execution."
_FLOW_RUN = "prefect.flow-run."
_EVENTS = UUID("d0c5a3e2-0b6c-4b0e-9f0a-6f6f3d6d7e11")

PORTION = 50
"""
Executions of one question, and events of one answer: Prefect gives no more.
"""

_RUNS = 200
_PAGES = 20


def who_waits(client: SyncPrefectClient, execution_ids: Iterable[str]) -> dict[str, set[UUID]]:
    """
    The flow runs that have said, within the week for which Prefect keeps events, that they wait for these executions.

    Raises:
        prefect.exceptions.PrefectException, httpx.HTTPError: The server does not say.
    """
    ids = sorted(set(execution_ids))
    waiting: dict[str, set[UUID]] = {one: set() for one in ids}
    for first in range(0, len(ids), PORTION):
        for event in _events(client, [_EXECUTION + one for one in ids[first : first + PORTION]]):
            flow_run_id = _flow_run(event["resource"]["prefect.resource.id"])
            if flow_run_id is None:
                continue
            for related in event["related"]:
                execution_id = related["prefect.resource.id"].removeprefix(_EXECUTION)
                if execution_id in waiting:
                    waiting[execution_id].add(flow_run_id)
    return waiting


def _flow_run(resource_id: str) -> UUID | None:
    """
    Whose resource this is; None: no flow run's. Whoever reaches the server can send an event of any name.
    """
    try:
        return UUID(resource_id.removeprefix(_FLOW_RUN)) if resource_id.startswith(_FLOW_RUN) else None
    except ValueError:
        return None


def _events(client: SyncPrefectClient, related: Sequence[str]) -> Iterable[dict[str, Any]]:
    wanted = {"event": {"name": [WAITS_FOR]}, "related": {"id": list(related)}}
    page = client.request("POST", "/events/filter", json={"filter": wanted, "limit": PORTION}).json()
    for _ in range(_PAGES):
        yield from page["events"]
        if not page["next_page"]:
            return
        # The address is as the server sees itself, which behind a proxy is not as it is reached.
        token = parse_qs(urlsplit(page["next_page"]).query)["page-token"]
        page = client.request("GET", "/events/filter/next", params={"page-token": token[0]}).json()


def states(client: SyncPrefectClient, flow_run_ids: Iterable[UUID]) -> dict[UUID, State[Any]]:
    """
    The states of flow runs; those that the server does not know are left out.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    ids = sorted(set(flow_run_ids))
    found: dict[UUID, State[Any]] = {}
    for first in range(0, len(ids), _RUNS):
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=ids[first : first + _RUNS]))
        for run in client.read_flow_runs(flow_run_filter=chosen, limit=_RUNS):
            if run.state is not None:
                found[run.id] = run.state
    return found


def announced(hint: Hint, flow_run_ids: Iterable[UUID]) -> dict[str, Any]:
    """
    The event about a hint. It is the same whoever makes it, and however often.
    """
    facts = {"service": hint.service, "execution_id": hint.execution_id, "kind": hint.kind}
    return {
        "id": str(uuid5(_EVENTS, f"{hint.number} {hint.received_at!r} {' '.join(facts.values())}")),
        "event": ANNOUNCED,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {
            "prefect.resource.id": _EXECUTION + hint.execution_id,
            "prefect.resource.name": hint.execution_id,
            "transactionlink.service": hint.service,
            "transactionlink.kind": hint.kind,
        },
        "related": [
            {"prefect.resource.id": f"{_FLOW_RUN}{one}", "prefect.resource.role": "flow-run"}
            for one in sorted(flow_run_ids)[:PORTION]
        ],
        "payload": facts,
    }


def wake(flow_run_id: UUID, pause_key: str) -> dict[str, Any]:
    """
    The event that lets the automation resume a flow run. There is one for each suspension, whoever makes it.
    """
    return {
        "id": str(uuid5(_EVENTS, f"{flow_run_id} {pause_key}")),
        "event": WAKE,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"{_FLOW_RUN}{flow_run_id}"},
        "related": [],
        "payload": {},
    }


__all__ = ["ANNOUNCED", "PORTION", "WAKE", "announced", "states", "wake", "who_waits"]
