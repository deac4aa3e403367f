"""
Every difference between the Airflow versions that this provider supports, with its reason.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import airflow
import airflow.sdk

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

#: Keep task state until its run is deleted. Airflow 3.3+ compares this value by identity; before, there is no store.
NEVER_EXPIRE: timedelta = getattr(airflow.sdk, "NEVER_EXPIRE", timedelta.max)


#: From 3.4 a trigger's ``on_kill`` is called for a decision only; 3.3 calls it when the trigger merely moves, too.
ON_KILL_IS_A_DECISION = tuple(int(part) for part in airflow.__version__.split(".")[:2]) >= (3, 4)

__all__ = [
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
    "conf",
    "stats",
    "task_state_store",
    "task_states",
]


def task_states(**criteria: Any) -> dict[str, Any]:
    """
    States of tasks by run and task, as the supervisor of this process has them from the API server.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return RuntimeTaskInstance.get_task_states(**criteria)


def task_state_store(context: Mapping[str, Any]) -> Any | None:
    """
    The store that survives retries of a task (3.3+), or None where this Airflow has none.
    """
    return context.get("task_state_store")


def stats(*, triggerer: bool) -> Any:
    """
    What sends metrics in this process. Airflow 3.3 has the same functions in two modules and sets up one: the core's
    in a triggerer, the SDK's in a worker. Earlier versions have one class.
    """
    try:
        return import_module("airflow.observability.stats" if triggerer else "airflow.sdk.observability.stats")
    except ImportError:
        return import_module("airflow.stats").Stats
