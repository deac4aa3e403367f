"""
Every difference between the Airflow versions that this provider supports, with its reason.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import airflow.sdk

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Keep task state until its run is deleted. Airflow 3.3+ compares this value by identity; before, there is no store.
NEVER_EXPIRE: timedelta = getattr(airflow.sdk, "NEVER_EXPIRE", timedelta.max)


def task_state_store(context: Mapping[str, Any]) -> Any | None:
    """
    The store that survives retries of a task (3.3+), or None where this Airflow has none.
    """
    return context.get("task_state_store")
