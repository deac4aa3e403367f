"""
What a flow run leaves on the Prefect server before it starts anything: a tag, by which the cleanup rule finds it, and
in a subflow which steps are that subflow's.

Prefect may give a subflow another id when its parent is retried, so its steps are kept with the outermost flow run. A
subflow that goes on with a step of a former one is marked like one that starts it.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING

from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import LedgerError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

    from prefect_blocks.identity import Scope

TAG = "transactionlink-executions"
"""
Of each flow run that has started executions.
"""

_PREFIX = "tlsub-"
_PAGE = 200


def mark(where: Scope, step: str) -> None:
    """
    Before a step is started, or found again. Doing it once more changes nothing.

    Args:
        step: Its key.

    Raises:
        LedgerError: Prefect does not take it.
    """
    try:
        for flow_run_id in (*where.subflows, where.flow_run_id):
            _tag(flow_run_id)
        if where.subflows:
            _note(where, step)
    except PREFECT_FAILURES as error:
        raise LedgerError(
            f"The Prefect server does not take the marks by which the executions of flow run {where.flow_run_id} are"
            f" found when it is cancelled ({type(error).__name__}). Nothing was sent; try again."
        ) from None


def steps_of(where: Scope) -> set[str] | None:
    """
    The keys of the steps of a flow run and of its subflows; None: all that are kept with it.

    Raises:
        LedgerError: The server cannot be reached, refuses, or a mark cannot be read.
    """
    if not where.subflows:
        return None
    from prefect import get_client

    found: dict[str, str] = {}
    try:
        with get_client(sync_client=True) as client:
            while True:
                page = client.filter_flow_run_input(
                    where.flow_run_id, f"{_PREFIX}{where.subflows[0]}-", _PAGE, set(found)
                )
                found |= {each.key: each.value for each in page}
                if len(page) < _PAGE:
                    break
        return {str(json.loads(value)["step"]) for value in found.values()}
    except (*PREFECT_FAILURES, KeyError, TypeError) as error:
        raise LedgerError(
            f"What subflow run {where.subflows[0]} has started cannot be read ({type(error).__name__})."
        ) from None


@lru_cache(maxsize=256)
def _tag(flow_run_id: UUID) -> None:
    """
    Once in each process.
    """
    from prefect import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    known = None if context is None else context.flow_run
    if known is not None and known.id == flow_run_id and TAG in known.tags:
        return
    with get_client(sync_client=True) as client:
        tags = client.read_flow_run(flow_run_id).tags
        if TAG not in tags:
            client.update_flow_run(flow_run_id, tags=[*tags, TAG])


def _note(where: Scope, step: str) -> None:
    from prefect import get_client

    digest = hashlib.sha256(step.encode()).hexdigest()[:24]
    with get_client(sync_client=True) as client:
        for subflow in where.subflows:
            _create(client, where.flow_run_id, f"{_PREFIX}{subflow}-{digest}", json.dumps({"step": step}))


def _create(client: SyncPrefectClient, flow_run_id: UUID, name: str, value: str) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        client.create_flow_run_input(flow_run_id, name, value)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 409:  # it is there already
            raise


__all__ = ["TAG", "mark", "steps_of"]
