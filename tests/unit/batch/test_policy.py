"""What a campaign's limits and brakes may be."""

from __future__ import annotations

import math

import pytest

from tl_orchestration.batch import Limits, Policy
from tl_orchestration.errors import InvalidSettings


@pytest.mark.parametrize("value", [0, -1, math.inf, -math.inf, math.nan])
def test_a_limit_is_a_finite_number_above_zero(value: float) -> None:
    """Of a quota it would hold for every campaign that names it."""
    with pytest.raises(InvalidSettings, match="requests_per_second must be greater than zero and finite"):
        Limits(requests_per_second=value)
    with pytest.raises(InvalidSettings, match="timeout must be greater than zero and finite"):
        Policy(timeout=value)
