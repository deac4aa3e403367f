"""
Every difference between the Airflow versions that this provider supports, with its reason.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import airflow
import airflow.sdk
from airflow.triggers.base import BaseTrigger

# Airflow 3.2 moved these into the SDK; 3.1 has them in the core.
try:
    from airflow.sdk.configuration import conf
except ImportError:
    from airflow.configuration import conf
try:
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowRuntimeError,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferralError,
        TaskDeferralTimeout,
    )
except ImportError:
    from airflow.exceptions import (  # type: ignore[attr-defined, no-redef]  # checked against 3.3
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferralError,
        TaskDeferralTimeout,
    )
    from airflow.sdk.exceptions import AirflowRuntimeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Connection

_CONNECTION = ("conn_id", "conn_type", "host", "port", "schema", "login", "password", "extra")

_RELEASE = tuple(int(part) for part in airflow.__version__.split(".")[:2])

#: Keep task state until its run is deleted. Airflow 3.3+ compares this value by identity; before, there is no store.
NEVER_EXPIRE: timedelta = getattr(airflow.sdk, "NEVER_EXPIRE", timedelta.max)

#: Before 3.3 a trigger that Airflow no longer wants is only cancelled, and has to do itself what ``on_kill`` is for.
HAS_TRIGGER_ON_KILL = hasattr(BaseTrigger, "on_kill")

#: From 3.4 a trigger's ``on_kill`` is called for a decision only, and a clear is one; 3.3 calls it when the trigger is
#: merely moved, too.
ON_KILL_IS_A_DECISION = _RELEASE >= (3, 4)

#: In 3.1 a question to the supervisor from another thread than the triggerer's event loop, or one that is cancelled
#: before its answer, ends the whole triggerer: the answers are then no longer in step.
ASKS_IN_THE_LOOP = _RELEASE < (3, 2)

#: Tasks have a ``retry_policy`` from 3.3 on.
HAS_RETRY_POLICY = find_spec("airflow.sdk.definitions.retry_policy") is not None

__all__ = [
    "ASKS_IN_THE_LOOP",
    "HAS_RETRY_POLICY",
    "HAS_TRIGGER_ON_KILL",
    "NEVER_EXPIRE",
    "ON_KILL_IS_A_DECISION",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowRuntimeError",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "TaskDeferralError",
    "TaskDeferralTimeout",
    "asset_states",
    "conf",
    "same_connection",
    "stats",
    "task_state_store",
    "task_states",
    "triggerer_task_states",
]


def asset_states(trigger: Any) -> list[Any]:
    """
    Where an asset watcher keeps its place: the state of each asset that it watches for (3.3+), else nothing. Airflow
    hands out the state of a single asset only, but equal watchers of several assets are one trigger.
    """
    accessors = getattr(trigger, "asset_state_store", None)
    return [] if accessors is None else list(accessors._by_name.values())


def task_states(**criteria: Any) -> dict[str, Any]:
    """
    States of tasks by run and task, as the supervisor of this process has them from the API server.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return RuntimeTaskInstance.get_task_states(**criteria)


async def triggerer_task_states(**criteria: Any) -> dict[str, Any]:
    """
    The same in a triggerer, whose event loop must not wait.
    """
    if not ASKS_IN_THE_LOOP:
        return await asyncio.to_thread(task_states, **criteria)
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import GetTaskStates

    question: Any = task_runner.SUPERVISOR_COMMS.asend(GetTaskStates(**criteria))
    states: dict[str, Any] = (await asyncio.shield(asyncio.ensure_future(question))).task_states
    return states


def same_connection(one: Connection, other: Connection) -> bool:
    """
    Whether two look-ups brought the same. Airflow 3.1 answers with rows of its database where a secrets backend knows
    the connection, and two rows are never equal.
    """
    return all(getattr(one, name) == getattr(other, name) for name in _CONNECTION)


def task_state_store(context: Mapping[str, Any]) -> Any | None:
    """
    The store that survives retries of a task (3.3+), or None where this Airflow has none.
    """
    return context.get("task_state_store")


def stats(*, triggerer: bool) -> Any:
    """
    What sends metrics in this process. Airflow 3.3 has the same functions in two modules and sets up one: the core's
    in a triggerer, the SDK's in a worker. Earlier versions have a class, 3.2 one for each of the two, 3.1 one for both.
    """
    try:
        module = import_module("airflow.observability.stats" if triggerer else "airflow.sdk.observability.stats")
    except ImportError:
        module = import_module("airflow.stats")
    return module if hasattr(module, "incr") else module.Stats
