"""
Whether a person told this task to stop, as opposed to a worker that is going away.

A signal alone does not say: Airflow sends the same one for both. The state of the task does.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider import identity, versions

if TYPE_CHECKING:
    from airflow_provider.identity import TaskIdentity

log = logging.getLogger(__name__)

#: States that a task which is still executing is only ever given by somebody's decision to end it: marked failed or
#: successful, or its run ended by a person or a time-out (``skipped``), or deleted with everything in it (``removed``).
#: Not ``restarting``: a person who clears a running task wants it to run, and the next try, which knows whether it is
#: a new life of the task, decides.
DECIDED = frozenset({"failed", "success", "skipped", "removed"})

#: The state of a running task that a person has cleared.
_CLEARED = "restarting"

#: The state of a deferred task that waits on: its trigger was only moved to another triggerer.
_WAITS_ON = "deferred"

#: Whether this process has asked once (:func:`make_ready`).
_ready = False


def somebody_decided(context: Any, *, durable: bool = True) -> bool:
    """
    In a worker: ask Airflow for the state of this task. No clear answer counts as no decision.

    Args:
        durable: Whether the next try finds what this one has started. Where it does not, a clear is a decision.
    """
    try:
        state = _state_of(context["ti"])
    except Exception as error:  # whatever breaks here, the answer is that we do not know
        log.warning("Airflow did not say whether somebody stopped this task (%s).", type(error).__name__)
        return False
    log.info("Told to stop; Airflow has this task as %s.", state or "without a state")
    return _ends(state, durable=durable)


def ended_already(context: Any, *, durable: bool = True) -> bool:
    """
    In a worker, before it defers: whether somebody has ended the task and Airflow has not told its process yet, which
    takes until the next heartbeat. A task that defers then gets no trigger, so nobody else could act on the decision.
    """
    try:
        return _ends(_state_of(context["ti"]), durable=durable)
    except Exception as error:
        log.debug("Airflow did not say how this task is (%s).", type(error).__name__)
        return False


async def deferred_task_was_ended(ti: TaskIdentity | None, *, durable: bool, goes_on: bool = False) -> bool:
    """
    In a triggerer: whether somebody ended the task that was deferred, as opposed to a trigger that moves elsewhere. No
    clear answer counts as no decision.

    Args:
        durable: A task that was cleared finds by itself what its earlier life has started. Where it cannot, a clear
            ends the execution here; only while its next try is not deferred in turn, for that looks like a move.
        goes_on: A task that was cleared goes on with what its earlier life has started: a clear ends nothing, whatever
            the version calls a decision.
    """
    if versions.ON_KILL_IS_A_DECISION and not goes_on:
        return True
    if ti is None:
        return False
    try:
        state = _found(ti, await versions.triggerer_task_states(**_criteria(ti)))
    except Exception as error:
        log.warning("Airflow did not say whether somebody ended this task (%s).", type(error).__name__)
        return False
    log.info("Told to stop waiting; Airflow has this task as %s.", state or "without a state")
    return state in DECIDED or (not durable and state != _WAITS_ON)


async def make_ready(ti: TaskIdentity | None, *, goes_on: bool = False) -> None:
    """
    Ask once, when the first trigger of a process starts that will have to. The first question of its life costs a
    triggerer some seconds in which it does nothing else: better now than between a person's decision and the cancel.

    Args:
        goes_on: As in :func:`deferred_task_was_ended`.
    """
    global _ready
    if _ready or ti is None or (versions.ON_KILL_IS_A_DECISION and not goes_on):
        return
    _ready = True
    try:
        await versions.triggerer_task_states(**_criteria(ti))
    except Exception as error:
        log.debug("Airflow could not be asked for the state of a task (%s).", type(error).__name__)


def _state_of(ti: TaskIdentity) -> str | None:
    return _found(ti, versions.task_states(**_criteria(ti)))


def _ends(state: str | None, *, durable: bool) -> bool:
    return state in DECIDED or (not durable and state == _CLEARED)


def _criteria(ti: TaskIdentity) -> dict[str, Any]:
    return {"dag_id": ti.dag_id, "task_ids": [ti.task_id], "run_ids": [ti.run_id], "map_index": ti.map_index}


def _found(ti: TaskIdentity, states: dict[str, Any]) -> str | None:
    if not states:
        return "removed"
    found = list(states[ti.run_id].values())
    if len(found) != 1:
        raise LookupError(identity.step_key(ti))
    return None if found[0] is None else str(getattr(found[0], "value", found[0]))
