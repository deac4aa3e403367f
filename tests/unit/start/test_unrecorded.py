"""
Starts without a ledger.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import EXECUTION_ID, NOW, FakeClock, run_request, told
from tests.driving import Hand
from tests.unit.start.tries import REFUSALS, UNKNOWN_FATES, meet
from tl_orchestration.errors import StartOutcomeUnknown, TransactionlinkError
from tl_orchestration.exchange import once
from tl_orchestration.models import Execution
from tl_orchestration.services.transactionlink import Transactionlink
from tl_orchestration.start import start_unrecorded


class TestStartUnrecorded:
    def begun(self) -> Hand[Execution]:
        """A start without a ledger, held at its POST."""
        clock = FakeClock().clock()
        return Hand(
            start_unrecorded(Transactionlink(now=clock.now), run_request(), timeout=3600, clock=clock, start=once)
        )

    def test_answer_is_the_execution(self) -> None:
        """Without a ledger the caller gets an execution of his own with a deadline and no key."""
        execution = self.begun().reply(told()).returned
        assert (
            execution.id,
            execution.handle.key,
            execution.handle.deadline,
            execution.handle.owned,
        ) == (EXECUTION_ID, None, NOW + 3600, True)

    @pytest.mark.parametrize(("outcome", "kind"), REFUSALS)
    def test_refusal_is_raised(self, outcome: Any, kind: type[TransactionlinkError]) -> None:
        """A start that certainly did not happen raises its own error."""
        with pytest.raises(kind) as caught:
            meet(self.begun(), outcome)
        assert kind is type(caught.value)

    @pytest.mark.parametrize(("outcome", "kind"), UNKNOWN_FATES)
    def test_unknown_fate_is_named(self, outcome: Any, kind: type[TransactionlinkError]) -> None:
        """A start that may have happened is StartOutcomeUnknown also without a ledger, and names no ledger command."""
        with pytest.raises(StartOutcomeUnknown, match="Nothing was repeated") as caught:
            meet(self.begun(), outcome)
        assert isinstance(caught.value.__cause__, kind)
        assert caught.value.key is None
        assert "tl ledger" not in str(caught.value)
