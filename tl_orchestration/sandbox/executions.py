"""One execution: its status and result follow from its timestamps, so that nothing runs in the background."""

from collections.abc import Mapping
from typing import Any, Self

import attrs

from tl_orchestration.sandbox.definitions import FINAL, WITHOUT_RESULT, Definition, scripted_result


@attrs.frozen(kw_only=True)
class Execution:
    """
    An execution as it was committed; every change makes a new value. Times are epoch seconds.

    Args:
        definition_name: the `workflowDefinitionId` it was started with.
        definition: the script as it was then.
        record_id: as given at the start, or `None`.
        token: opens the hosted page; `None` unless interactive.
        finishes_at: when the scripted outcome arrives; `None` while that depends on a person, or for never.
        decision: what the result says; a person's word where the definition is interactive.
        ended: the final status set by a cancel or by force.
        result: set by force, in effect where `result_forced`.
    """

    id: str
    definition_name: str
    definition: Definition
    parameters: Mapping[str, Any] = attrs.field(repr=False)
    locale: str
    record_id: str | None
    started_at: float
    expires_at: float
    token: str | None = attrs.field(repr=False)
    finishes_at: float | None
    active_status: str
    decision: str | None
    ended: str | None = None
    result: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    result_forced: bool = False

    def status_at(self, now: float) -> str:
        """The status literal at this moment."""
        if self.ended is not None:
            return self.ended
        if self.finishes_at is not None and self.finishes_at <= min(now, self.expires_at):
            return self.definition.outcome
        return "EXPIRED" if self.expires_at <= now else self.active_status

    def is_finished_at(self, now: float) -> bool:
        """Whether nothing but force can change it any more, whatever its status is called."""
        ends_at = self.expires_at if self.finishes_at is None else min(self.expires_at, self.finishes_at)
        return self.ended is not None or ends_at <= now

    def result_at(self, now: float) -> Mapping[str, Any] | None:
        """The result document, or `None` where there is none or not yet."""
        if self.result_forced:
            return self.result
        status = self.status_at(now)
        if not self.is_finished_at(now) or status in {"CANCELLED", "EXPIRED"}:
            return None
        if self.definition.result is not None:
            return self.definition.result
        if self.decision is None or status in WITHOUT_RESULT:
            return None
        return scripted_result(self.decision, self.parameters)

    def waits_for_person_at(self, now: float) -> bool:
        """Whether the hosted page still has a decision to take."""
        return self.token is not None and self.decision is None and not self.is_finished_at(now)

    def decided(self, decision: str, now: float) -> Self:
        """After a person's decision: what is left is the definition's own work."""
        duration = self.definition.duration
        return attrs.evolve(self, decision=decision, finishes_at=None if duration is None else now + duration)

    def forced(self, status: str) -> Self:
        """
        With this status: for good if it is a final one, else until cancelled, expired or forced again.

        Only a final status outlives the expiry.
        """
        if status in FINAL:
            return attrs.evolve(self, ended=status)
        return attrs.evolve(self, ended=None, active_status=status, finishes_at=None)
