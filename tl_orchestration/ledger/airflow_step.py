"""
What a step of Airflow is called in its ledger, and where Airflow's task state keeps its entry. Pure.

Tasks write it (``airflow_provider.ledger``), a person's verdict comes over the REST API
(:mod:`tl_orchestration.ledger.airflow_rest`); both have to look in the same place.
"""

from __future__ import annotations

import hashlib
import re
from typing import Self
from urllib.parse import quote

from attrs import frozen

from tl_orchestration.errors import InvalidRequest

_KEY = re.compile(r"([^/]+)/(.+)/([^/\[\]]+?)(?:\[(0|[1-9][0-9]{0,8})\])?")
_NOT_MAPPED = -1


def state_key(key: str) -> str:
    """
    Where an entry is kept in the store: short and plain, whatever the ledger's key is made of.
    """
    return f"transactionlink-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


@frozen
class AirflowStep:
    """
    A task instance, as a key names it.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = _NOT_MAPPED

    @classmethod
    def of(cls, key: str) -> Self:
        """
        The one that ``dag_id/run_id/task_id`` names, or ``dag_id/run_id/task_id[map_index]``.

        Raises:
            InvalidRequest: That is no such key.
        """
        found = _KEY.fullmatch(key)
        if found is None or not {".", ".."}.isdisjoint(found.groups()):
            raise InvalidRequest(
                "A step in Airflow's task state is named DAG_ID/RUN_ID/TASK_ID, with [MAP_INDEX] after it where it is"
                " mapped. A step with a key of your own is in the SQL ledger of its connection."
            )
        dag_id, run_id, task_id, index = found.groups()
        return cls(dag_id, run_id, task_id, _NOT_MAPPED if index is None else int(index))

    @property
    def path(self) -> str:
        """
        Of the task instance in the REST API (v2), below Airflow's address.
        """
        return f"{self._unmapped}/{self.map_index}"

    def state_path(self, key: str) -> str:
        """
        Of the entry of a key in the task's state, below Airflow's address.
        """
        return f"{self._unmapped}/state-store/{state_key(key)}?map_index={self.map_index}"

    @property
    def _unmapped(self) -> str:
        dag, run, task = (quote(part, safe="") for part in (self.dag_id, self.run_id, self.task_id))
        return f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}"


__all__ = ["AirflowStep", "state_key"]
