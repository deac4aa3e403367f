"""
How a campaign stands, for people who look at its flow run; and the wait for its shards meanwhile.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from attrs import define, field
from prefect import get_run_logger

from prefect_blocks import showing
from tl_orchestration.batch.pace import Pace, counted
from tl_orchestration.errors import TransactionlinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from prefect.futures import PrefectFuture

    from tl_orchestration.batch import Batch, BatchOutcome, BatchSummary

#: Seconds between two looks at the campaign, for the log and the progress artifact.
_PACE = 5.0


@define
class BatchBoard:
    """
    How the campaign stands, for people: in the log, a progress artifact and a summary.
    """

    batch: Batch
    _bar: UUID | None = None
    _told: float = field(factory=time.monotonic)
    _pace: Pace = field(factory=Pace)

    def tell(self) -> None:
        """
        A line and a percentage, some seconds after the last ones at the earliest.
        """
        if time.monotonic() - self._told < _PACE:
            return
        self._told = time.monotonic()
        log = get_run_logger()
        try:
            summary = self.batch.summary()
        except TransactionlinkError as error:
            log.warning("How the campaign stands cannot be told now: %s", error)
            return
        held = "; starts are held, because they fail" if summary.breaker_open else ""
        log.info("%s; %s%s", counted(summary), self._pace.of(summary), held)
        self._show(summary)

    def conclude(self, futures: Sequence[PrefectFuture[dict[str, Any]]]) -> BatchSummary:
        """
        The campaign as its shards have left it, with their outcome; shown before anything is raised.

        Raises:
            TransactionlinkError: What a shard has failed with.
        """
        from attrs import evolve

        results: list[Any] = [future.result(raise_on_failure=False) for future in futures]
        errors = [result for result in results if isinstance(result, BaseException)]
        ended = [result for result in results if not isinstance(result, BaseException)]
        summary = evolve(
            self.batch.summary(), outcome=_outcome(ended), started_here=sum(one["started_here"] for one in ended)
        )
        self._show(summary)
        showing.batch_summary(summary, [type(error).__name__ for error in errors])
        if errors:
            raise errors[0]
        return summary

    def _show(self, summary: BatchSummary) -> None:
        if self._bar is None:
            self._bar = showing.batch_bar(summary.campaign, summary.rows)
        if self._bar is not None and summary.rows:
            showing.batch_progress(self._bar, 100.0 * (summary.rows - _unfinished(summary)) / summary.rows)


def wait_for(
    futures: Sequence[PrefectFuture[dict[str, Any]]], tell: Callable[[], None], until: float | None = None
) -> None:
    for future in futures:
        ended = _end_of(future)
        while not ended.wait(_PACE if until is None else max(0.0, until - time.monotonic())):
            if until is not None:
                return
            tell()


def _end_of(future: PrefectFuture[dict[str, Any]]) -> threading.Event:
    """
    Set once the task has ended. No server is asked, as the future's state would.
    """
    ended = threading.Event()

    def set_it(_: Any) -> None:
        ended.set()

    future.add_done_callback(set_it)
    return ended


def _outcome(shards: Sequence[Mapping[str, Any]]) -> BatchOutcome | None:
    """
    Of the shards together: the gravest of what they say. None: none of them has come to one.
    """
    from tl_orchestration.batch import BatchOutcome

    said = {shard["outcome"] for shard in shards}
    for outcome in (
        BatchOutcome.INTERRUPTED,
        BatchOutcome.CANCELLED,
        BatchOutcome.STOPPED,
        BatchOutcome.FINISHED,
        BatchOutcome.NOTHING_TO_START,
    ):
        if outcome.value in said:
            return outcome
    return None


def _unfinished(summary: BatchSummary) -> int:
    from tl_orchestration.batch.states import UNFINISHED

    return summary.count(*UNFINISHED)


__all__ = ["BatchBoard", "wait_for"]
