"""
The ledger in Airflow's task state, over a store that answers as Airflow's does (a real one is used end to end).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider.ledger import TaskStateLedger
from airflow_provider.versions import NEVER_EXPIRE, AirflowException
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger import Event, State
from tl_orchestration.ledger.airflow_step import state_key
from tl_orchestration.ledger.conformance import LedgerConformance


class Store:
    """
    ``get`` and ``set`` of JSON values, as ``context["task_state_store"]`` has them.
    """

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.retentions: list[Any] = []
        self.broken = False
        self.superseded = False

    def get(self, key: str, default: Any = None) -> Any:
        if self.superseded:
            return default  # an old try's read finds nothing; it is not refused
        if self.broken:
            raise AirflowException("the API server is away")
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        if self.broken or self.superseded:
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
    assert set(store.values) == {state_key("step")}
    assert all(retention is NEVER_EXPIRE for retention in store.retentions)


def test_store_that_is_away_is_a_ledger_error() -> None:
    """A store that cannot be reached, or that refuses a try which lost the step, stops the start."""
    store = Store()
    store.broken = True

    with pytest.raises(LedgerError, match="cannot be reached or refuses"):
        TaskStateLedger(store).read("step")
    with pytest.raises(LedgerError, match="cannot be reached or refuses"):
        TaskStateLedger(store).claim("step", Event(state=State.INTENT, at=1.0), None)


def test_try_that_lost_the_step_cannot_claim_it() -> None:
    """An old try reads nothing, as if the step were new; that it cannot write is what keeps it from starting."""
    store = Store()
    ledger = TaskStateLedger(store)
    ledger.claim("step", Event(state=State.INTENT, at=1.0), None)
    store.superseded = True

    assert ledger.read("step") is None
    with pytest.raises(LedgerError):
        ledger.claim("step", Event(state=State.INTENT, at=2.0), None)


class TestConformance(LedgerConformance):
    """The shipped suite that every ledger passes."""

    fenced = True

    def ledger(self) -> TaskStateLedger:
        return TaskStateLedger(Store())
