"""
Which steps are a subflow's: noted in the inputs of the outermost flow run, so that a cancel of the subflow ends those.

Prefect may give a subflow another id when its parent is retried, so its steps are kept with the outermost flow run. A
subflow that goes on with a step of a former one is marked like one that starts it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from prefect_blocks import inputs
from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import LedgerError

if TYPE_CHECKING:
    from prefect_blocks.identity import Scope

_PREFIX = "tlsub-"


def mark(where: Scope, step: str) -> None:
    """
    Note, before a step is started or found again, in which subflows that is. Doing it once more changes nothing.

    Args:
        step: Its key.

    Raises:
        LedgerError: Prefect does not take it.
    """
    from prefect import get_client

    if not where.subflows:
        return
    digest = hashlib.sha256(step.encode()).hexdigest()[:24]
    try:
        with get_client(sync_client=True) as client:
            for subflow in where.subflows:
                inputs.create(client, where.flow_run_id, f"{_PREFIX}{subflow}-{digest}", json.dumps({"step": step}))
    except PREFECT_FAILURES as error:
        raise LedgerError(
            f"The Prefect server does not take the note that step {step} is one of subflow run {where.subflows[0]}"
            f" ({type(error).__name__}). Nothing was sent; try again."
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

    try:
        with get_client(sync_client=True) as client:
            found = inputs.read(client, where.flow_run_id, f"{_PREFIX}{where.subflows[0]}-")
        return {str(json.loads(value)["step"]) for value in found.values()}
    except (*PREFECT_FAILURES, KeyError, TypeError) as error:
        raise LedgerError(
            f"What subflow run {where.subflows[0]} has started cannot be read ({type(error).__name__})."
        ) from None


__all__ = ["mark", "steps_of"]
