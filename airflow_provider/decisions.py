"""
Whether a person told this task to stop, as opposed to a worker that is going away.

A signal alone does not say: Airflow sends the same one for both. The state of the task does.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)

#: States that a task which is still executing is only ever given by somebody's decision to end it: marked failed or
#: successful, or its run ended by a person or a time-out (``skipped``). Not ``restarting``: a person who clears a
#: running task wants it to run, and the next try, which knows whether it is a new life of the task, decides.
DECIDED = frozenset({"failed", "success", "skipped", "removed"})


def somebody_decided(context: Any) -> bool:
    """
    Ask Airflow for the state of this task. No clear answer counts as no decision.
    """
    ti = context["ti"]
    try:
        states = ti.get_task_states(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
        )
        state = _only(states.get(ti.run_id))
    except Exception as error:  # whatever breaks here, the answer is that we do not know
        log.warning("Airflow did not say whether somebody stopped this task (%s).", type(error).__name__)
        return False
    log.info("Told to stop; Airflow has this task as %s.", state or "without a state")
    return state in DECIDED


def _only(states: Any) -> str | None:
    values = list(states.values()) if isinstance(states, dict) else []
    return str(getattr(values[0], "value", values[0])) if len(values) == 1 and values[0] is not None else None
