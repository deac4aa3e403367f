"""One execution: its status and result follow from its timestamps, so that nothing runs in the background."""

import uuid
from collections.abc import Mapping
from itertools import accumulate
from math import inf
from typing import Any, Self

import attrs

from tl_orchestration.sandbox.definitions import FINAL, WITHOUT_RESULT, Definition, scripted_result


@attrs.frozen(kw_only=True)
class Execution:
    """
    An execution as it was committed; every change makes a new value. Times are epoch seconds.

    Args:
        service: the API it was started by, and lives in.
        definition_name: the `workflowDefinitionId` it was started with.
        definition: the script as it was then.
        record_id: as given at the start, or `None`.
        case_id: likewise; only the legacy API has cases.
        expires_at: `inf` where the service knows no expiry.
        phases: statuses before the script begins, each with the time when it is over.
        token: opens the hosted page; `None` unless interactive.
        finishes_at: when the scripted outcome arrives; `None` while that depends on a person, or for never.
        decision: what the result says; a person's word where the definition is interactive.
        ended: the final status set by a cancel or by force, at `ended_at`.
        result: set by force, in effect where `result_forced`.
    """

    id: str
    service: str
    definition_name: str
    definition: Definition
    parameters: Mapping[str, Any] = attrs.field(repr=False)
    locale: str | None
    record_id: str | None
    case_id: str | None
    started_at: float
    expires_at: float
    token: str | None = attrs.field(repr=False)
    finishes_at: float | None
    active_status: str
    decision: str | None
    phases: tuple[tuple[str, float], ...] = ()
    ended: str | None = None
    ended_at: float | None = None
    result: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    result_forced: bool = False

    def status_at(self, now: float) -> str:
        """The status literal at this moment."""
        if self.ended is not None:
            return self.ended
        for status, until in self.phases:
            if now < until:
                return status
        if self.finishes_at is not None and self.finishes_at <= min(now, self.expires_at):
            return self.definition.outcome
        return "EXPIRED" if self.expires_at <= now else self.active_status

    @property
    def link_id(self) -> str | None:
        """Opens the hosted page where links end in a uuid; `None` unless interactive."""
        return None if self.token is None else str(uuid.UUID(self.token[:32], version=4))

    @property
    def begins_at(self) -> float:
        """When its script begins."""
        return self.phases[-1][1] if self.phases else self.started_at

    def over_at(self, now: float) -> float | None:
        """When it was over, or `None` where it is not."""
        if self.ended is not None:
            return self.ended_at
        ends_at = self.expires_at if self.finishes_at is None else min(self.expires_at, self.finishes_at)
        return ends_at if ends_at <= now else None

    def is_finished_at(self, now: float) -> bool:
        """Whether nothing but force can change it any more, whatever its status is called."""
        return self.over_at(now) is not None

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

    def forced(self, status: str, now: float) -> Self:
        """
        With this status: for good if it is a final one, else until cancelled, expired or forced again.

        Only a final status outlives the expiry.
        """
        if status in FINAL:
            return attrs.evolve(self, phases=(), ended=status, ended_at=now)
        return attrs.evolve(self, phases=(), ended=None, ended_at=None, active_status=status, finishes_at=None)


def begun(definition: Definition, now: float, phases: Mapping[str, float | None], **members: Any) -> Execution:
    """
    A new execution.

    Args:
        definition: its script.
        now: epoch seconds.
        phases: seconds in each status before the script begins; `None`: for ever.
        members: all other members of an execution.
    """
    ends = list(accumulate((inf if seconds is None else seconds for seconds in phases.values()), initial=now))
    by_itself = definition.duration is not None and not definition.interactive
    return Execution(
        definition=definition,
        started_at=now,
        phases=tuple(zip(phases, ends[1:], strict=True)),
        finishes_at=ends[-1] + (definition.duration or 0) if by_itself else None,
        active_status=definition.active_status,
        decision=None if definition.interactive else definition.decision,
        **members,
    )
