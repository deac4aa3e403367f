"""
When a step gives its worker up: at once if it is mapped, after a moment if not, or when it was told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow_versions import TaskDeferred
from tests.unit.airflow_provider.services import connect
from tests.unit.airflow_provider.test_steps import context, step

if TYPE_CHECKING:
    from tests.remote import Remote


@pytest.mark.parametrize(
    ("map_index", "defer_after", "defers"), [(-1, None, False), (0, None, True), (0, 5, False), (-1, 0, True)]
)
def test_mapped_step_defers_at_once(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, map_index: int, defer_after: float | None, *, defers: bool
) -> None:
    """defer_after is 0 for an element of a mapped task unless it is given; each starts its execution first."""
    connect(monkeypatch, remote.url, "transactionlink")
    remote.define("kyc-approve", duration=0.2)
    given: Any = context()
    given["ti"].map_index = map_index
    task = step(deferrable=True, defer_after=defer_after)
    if defers:
        with pytest.raises(TaskDeferred):
            task.execute(given)
    else:
        assert task.execute(given)["status"] == "SUCCEEDED"
    assert len(remote.starts()) == 1
