"""
What is known of a campaign, in numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from attrs import asdict, field, frozen

from tl_orchestration.batch.states import FAILURES, UNFINISHED, RowState


def _listed(value: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(value)


@frozen(kw_only=True)
class LoadReport:
    """
    What a pass over the source found.

    Args:
        read: Records.
        accepted: Distinct keys that can be run, or have been.
        collapsed: Records that repeat another one.
        conflicting: Keys of which there are several different records; none of them is started.
        rejected: Records that cannot be run.
        changed: Keys that have started with another record than the source has now.
        withdrawn: Keys that the source no longer has, and that had not started.
        samples: Some of what was rejected, then of what changed: ``{"row", "key", "column", "reason"}``.
        rejects: Files with all of both.
        skipped: Whether nothing was read, because this source is loaded already.
        gone: Whether the source is not there any more; nothing was read, and nothing of it is left to start.
    """

    read: int = 0
    accepted: int = 0
    collapsed: int = 0
    conflicting: int = 0
    rejected: int = 0
    changed: int = 0
    withdrawn: int = 0
    samples: tuple[Mapping[str, Any], ...] = field(default=(), converter=_listed)
    rejects: tuple[str, ...] = field(default=(), converter=_listed)
    skipped: bool = False
    gone: bool = False

    @property
    def is_clean(self) -> bool:
        """
        Whether every record can be run.
        """
        return not (self.rejected or self.conflicting)

    def to_dict(self) -> dict[str, Any]:
        """
        As JSON values.
        """
        return asdict(self) | {"samples": [dict(one) for one in self.samples], "rejects": list(self.rejects)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> LoadReport:
        """
        Read what :meth:`to_dict` wrote.
        """
        return cls(**document)


class BatchOutcome(StrEnum):
    """
    How a call ended.

    ``FINISHED``: every row has come to its end. ``NOTHING_TO_START``: they had before, and this call started none.
    ``AT_CAP``: as many executions as may be are in flight, and the call was to return then. ``IN_FLIGHT``: nothing is
    left to start; some have not ended. ``STOPPED``: canary or ``max_starts`` is reached. ``CANCELLED``: a person
    cancelled the campaign. ``INTERRUPTED``: the call was told to stop. ``LEFT_TO_OTHERS``: what is left is with other
    workers. ``BREAKER_OPEN``: starts fail, and the call was not to wait.
    """

    FINISHED = "FINISHED"
    NOTHING_TO_START = "NOTHING_TO_START"
    AT_CAP = "AT_CAP"
    IN_FLIGHT = "IN_FLIGHT"
    STOPPED = "STOPPED"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"
    LEFT_TO_OTHERS = "LEFT_TO_OTHERS"
    BREAKER_OPEN = "BREAKER_OPEN"


@frozen(kw_only=True)
class BatchSummary:
    """
    A campaign in numbers; ``to_dict`` is small enough for a task's return value, and has no personal data.

    Args:
        campaign: Its name.
        outcome: How the call ended; None where this is no call's.
        counts: Rows by state; every state that there is.
        rows: All of them.
        started_here: Starts of this call.
        requests: Requests by operation, of all workers.
        polls_p95: Polls of an ended row, 95th percentile.
        unkept: Rows with a result that is in no part although the campaign has a folder: they ended in a run without.
        unread: Rows that the load took in and that could not be started, because the source has changed since.
        load: What the last pass over the source found.
        stop: A person's word: empty, ``DRAIN`` or ``CANCEL``.
        breaker_open: Whether starts are held because they fail.
        output: Where the results are.
        slowest: Key of the row that has been in flight for longest, and when it was started, epoch seconds.
    """

    campaign: str
    outcome: BatchOutcome | None = None
    counts: Mapping[RowState, int]
    started_here: int = 0
    requests: Mapping[str, int] = field(factory=dict)
    polls_p95: int | None = None
    unkept: int = 0
    unread: int = 0
    load: LoadReport | None = None
    stop: str = ""
    breaker_open: bool = False
    output: str | None = None
    slowest: tuple[str, float] | None = None

    @property
    def rows(self) -> int:
        return sum(self.counts.values())

    def count(self, *states: RowState) -> int:
        """
        Rows in any of these states.
        """
        return sum(self.counts.get(state, 0) for state in states)

    @property
    def in_flight(self) -> int:
        return self.count(RowState.STARTED)

    @property
    def pending(self) -> int:
        return self.count(RowState.PENDING)

    @property
    def unknown(self) -> int:
        return self.count(RowState.UNKNOWN)

    @property
    def failed(self) -> int:
        """
        Rows that have ended without success, whose results are missing, that were refused, or that the source no longer
        has as they were loaded; not those of unknown fate.
        """
        return self.count(*FAILURES, RowState.REJECTED) + self.unread

    @property
    def is_finished(self) -> bool:
        """
        Whether nobody has to do anything any more, except a person about what is unknown.
        """
        return self.count(*UNFINISHED) == 0

    def to_dict(self) -> dict[str, Any]:
        """
        As JSON values.
        """
        return {
            "campaign": self.campaign,
            "outcome": None if self.outcome is None else self.outcome.value,
            "rows": self.rows,
            "counts": {state.value: self.counts[state] for state in RowState if self.counts.get(state)},
            "in_flight": self.in_flight,
            "unknown": self.unknown,
            "failed": self.failed,
            "unkept": self.unkept,
            "unread": self.unread,
            "started_here": self.started_here,
            "requests": dict(self.requests),
            "polls_p95": self.polls_p95,
            "load": None if self.load is None else self.load.to_dict(),
            "stop": self.stop,
            "breaker_open": self.breaker_open,
            "output": self.output,
        }


__all__ = ["BatchOutcome", "BatchSummary", "LoadReport"]
