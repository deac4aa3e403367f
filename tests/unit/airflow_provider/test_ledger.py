"""
The ledger in Airflow's task state, over a store that behaves as Airflow's does (a real one is used end to end).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException

from airflow_provider.ledger import STATE_KEY, TaskStateLedger
from airflow_provider.versions import NEVER_EXPIRE
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import Event, State


class Store:
    """
    ``get`` and ``set`` of JSON values, as ``context["task_state_store"]`` has them.
    """

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.retentions: list[Any] = []
        self.broken = False

    def get(self, key: str, default: Any = None) -> Any:
        if self.broken:
            raise AirflowException("the API server is away")
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        if self.broken:
            raise AirflowException("the API server is away")
        self.values[key] = json.dumps(value)
        self.retentions.append(retention)


def test_entry_survives_the_try_that_wrote_it() -> None:
    """What one try records, the next one reads; it never expires by itself."""
    store = Store()
    first = TaskStateLedger(store)
    first.claim("step", Event(state=State.INTENT, at=1.0, generation="3", deadline=9.0), None)
    first.append("step", Event(state=State.STARTED, at=2.0, execution_id="e-1"))

    entry = TaskStateLedger(store).read("step")

    assert entry is not None
    assert (entry.state, entry.execution_id, entry.generation, entry.deadline) == (State.STARTED, "e-1", "3", 9.0)
    assert set(store.values) == {STATE_KEY}
    assert all(retention is NEVER_EXPIRE for retention in store.retentions)


def test_store_that_is_away_is_a_ledger_error() -> None:
    """A store that cannot be reached, or that refuses a try which lost the step, stops the start."""
    store = Store()
    store.broken = True

    with pytest.raises(LedgerError, match="cannot be reached or refuses"):
        TaskStateLedger(store).read("step")
    with pytest.raises(LedgerError, match="cannot be reached or refuses"):
        TaskStateLedger(store).claim("step", Event(state=State.INTENT, at=1.0), None)
