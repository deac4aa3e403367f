"""
Where a flow run can be suspended, and for how long Prefect is told that it may take.
"""

from __future__ import annotations

import time

from prefect_blocks import suspending


def test_outside_of_a_flow() -> None:
    """A script has no flow run to suspend."""
    assert suspending.obstacle(asynchronous=False) == "it does not run in a flow"


def test_prefects_timeout_is_longer_than_ours() -> None:
    """Prefect fails a flow run at its own time-out without a hook: ours has to come first, also where it has passed."""
    assert (suspending._timeout(time.time() + 600) or 0) > 600 + 3600
    assert (suspending._timeout(time.time() - 600) or 0) > 3600
    assert suspending._timeout(None) is None


def test_each_suspension_has_a_key_of_its_own() -> None:
    """Prefect passes over a suspension whose key it has seen."""
    assert suspending._key() != suspending._key()
