"""
Releasing the worker: the flow run is suspended, its process ends, and it begins again when a timer or an event says so.

Only what runs as the body of a deployed, top-level flow can be suspended; Prefect refuses everything else. Before it
is, the flow run announces that it waits, and for which executions (:mod:`prefect_blocks.announcing`). The timer of
:mod:`prefect_blocks.automations` listens to the former and to nothing else, so that it never resumes a flow run which
was suspended for another reason, such as a person's approval. Where the wait ends without a suspension, the flow run
takes its announcement back. By the latter, :mod:`prefect_blocks.forwarding` finds who waits for the execution that a
webhook is about.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import anyio
from attrs import define, field

from prefect_blocks import announcing
from prefect_blocks.submitted import Watch
from prefect_blocks.twins import Twin, blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prefect.context import FlowRunContext

    from prefect_blocks.run import TransactionlinkWorkflowRun
    from prefect_blocks.twins import Twofold

T = TypeVar("T")

log = logging.getLogger(__name__)

_NO_TIMER = (
    "nobody would wake it, because the Prefect server has no timer for that, or a disabled one;"
    " `python -m prefect_blocks automations create` makes it"
)

SLICE = 5.0
"""
Seconds of polling until the next look at whether the flow run can be suspended.
"""

_LATER = 60.0
"""
The same where a person has to act before it can be.
"""

_MOMENT = 1.0
"""
Seconds by which a look outlasts the deadline that it is to see.
"""

_UNANSWERED = 960.0
"""
Seconds of polling after a look in which no poll was answered: longer than a wait bears that, so that it can judge.
"""

_AWAKE = 60.0
"""
Seconds from the end of the timer's span until the flow run surely looks again: the server notices the end, a runner
starts a process.
"""

_TRIES = 3
"""
How often a server that does not take an announcement back is asked to.
"""

_LONGER = 86_400
"""
Seconds by which Prefect's own time-out is longer than our deadline. It fails the flow run without a hook and leaves the
execution running, so it must never come first; the timer wakes the flow run long before.
"""


def obstacle(*, asynchronous: bool) -> str | None:
    """
    Why what calls this cannot be suspended; None if it can.

    Args:
        asynchronous: Whether it can be awaited.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    context = FlowRunContext.get()
    if TaskRunContext.get() is not None:
        return "it waits in a task"
    if context is None or context.flow_run is None:
        return "it does not run in a flow"
    if context.flow_run.parent_task_run_id is not None:
        return "it waits in a subflow"
    if context.flow_run.deployment_id is None:
        return "the flow run has no deployment"
    if context.flow is not None and context.flow.isasync and not asynchronous:
        return "an async flow has to await atrigger() and await_for_completion()"
    return None


def unheard() -> str | None:
    """
    Why nobody would wake a flow run that is suspended; None if somebody would.

    Raises:
        prefect.exceptions.PrefectException, httpx.HTTPError: The server does not say.
    """
    from prefect_blocks.automations import timer_span

    return _NO_TIMER if timer_span() is None else None


def woken() -> bool:
    """
    Whether an earlier pass of this flow run was suspended by us.
    """
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return False
    return any(map(announcing.is_ours, context.flow_run.empirical_policy.pause_keys or ()))


def again() -> bool:
    """
    Whether this flow run has run before: it was retried, or we have suspended it.
    """
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and (context.flow_run.run_count > 1 or woken())


def grace(runs: Sequence[TransactionlinkWorkflowRun]) -> float:
    """
    Seconds of polling before the first suspension for these: the shortest ``suspend_after``, counted from the latest
    start. None of it is left where an earlier pass has spent it.
    """
    after = min((run.workflow.suspend_after for run in runs), default=0.0)
    return max(0.0, after - min((run.waited() for run in runs), default=0.0))


_announcing: dict[tuple[UUID, datetime], set[Suspension]] = {}
"""
The waits of this process that have announced and have not ended, by pass of a flow run. What was suspended stays: its
process ends.
"""

_announcements = threading.Lock()


@define(eq=False)
class Suspension:
    """
    Suspends the flow run in one wait, as soon as it can be.

    Args:
        say: Tells a reason why it is not, in the log of the run; it is told the same one often.
        tasks: That run beside the wait.
    """

    say: Callable[[str], object]
    tasks: Watch = field(factory=Watch)
    _of: tuple[UUID, datetime] | None = field(default=None, init=False)

    def around(self, wait: Twofold[T]) -> Twofold[T]:
        """
        The wait. If it ends in this process, whatever its ending, the timer is told that this one waits no more: else
        it would resume the flow run out of a suspension for another reason.
        """
        try:
            found = yield from wait
        except (Exception, asyncio.CancelledError):
            yield from self._end()
            raise
        yield from self._end()
        return found

    def attempt(
        self, runs: Sequence[TransactionlinkWorkflowRun], unended: Sequence[TransactionlinkWorkflowRun]
    ) -> Twofold[float]:
        """
        End this process; the flow run begins again when it is resumed. Returns only if it cannot be suspended now: for
        how many seconds to poll until it is tried again.

        Args:
            runs: All that the flow run waits for, in the same order each time.
            unended: Those of them that have not ended.

        Raises:
            Pause: Prefect's own signal, for its engine.
        """
        from prefect import suspend_flow_run
        from prefect.exceptions import Pause
        from prefect.flow_runs import asuspend_flow_run

        seconds = yield from blocking(partial(self._hindered, unended))
        ids = [run.execution_id for run in runs]
        if seconds is not None or not (yield from blocking(partial(self._announce, ids))):
            return SLICE if seconds is None else seconds
        how: dict[str, Any] = {"timeout": _timeout(_latest(unended)), "key": announcing.pause_key(len(unended))}
        before = datetime.now(UTC)
        try:
            with _refusals():
                yield from Twin(partial(suspend_flow_run, **how), partial(asuspend_flow_run, **how))
        except Pause:
            # Again: if the suspension took long, the timer has fired for a flow run that was not suspended yet.
            yield from blocking(partial(_announced, (), before))
            raise
        return SLICE

    def _announce(self, execution_ids: Sequence[str]) -> bool:
        self._of = _pass()
        with _announcements:
            _announcing.setdefault(self._of, set()).add(self)
        return _announced(execution_ids)

    def _end(self) -> Twofold[None]:
        if self._of is not None:
            yield from _shielded(partial(self._take_back, self._of))

    def _take_back(self, of: tuple[UUID, datetime]) -> None:
        """
        Only the last wait takes back what several have announced. The event has the time at which that was so: one that
        begins then has announced later, and its announcement stands.
        """
        with _announcements:
            waits = _announcing[of]
            waits.remove(self)
            if waits:
                return
            del _announcing[of]
            event = announcing.event(announcing.WAITS_NO_MORE, of[0])
        for _ in range(_TRIES):
            if _sent(event):
                return
            time.sleep(_MOMENT)
        log.warning("The timer may resume this flow run once, also out of a suspension for another reason.")

    def _hindered(self, unended: Sequence[TransactionlinkWorkflowRun]) -> float | None:
        """
        For how long the flow run cannot be suspended; None: it can.
        """
        from prefect_blocks.automations import timer_span
        from prefect_blocks.versions import PREFECT_FAILURES

        if any(run.unanswered for run in unended):
            return _UNANSWERED
        quiet = self.tasks.none_go_on(_here())
        if not quiet:
            if quiet is False:
                self.say("This flow run keeps its process while tasks that it has started go on.")
            return SLICE
        try:
            span = timer_span()
        except PREFECT_FAILURES as error:
            log.warning("Prefect did not say whether it has a timer (%s).", type(error).__name__)
            return _LATER
        if span is None:
            self.say(f"This flow run keeps its process: {_NO_TIMER}.")
            return _LATER
        ends = [end for run in unended for end in (run.handle.deadline, run.handle.expires_at) if end is not None]
        left = min(ends, default=math.inf) - time.time()
        if left <= span.total_seconds() + _AWAKE:
            self.say("This flow run keeps its process now: a deadline or an expiry comes before the timer.")
            return max(SLICE, left + _MOMENT)
        return None


def _announced(execution_ids: Sequence[str], at: datetime | None = None) -> bool:
    from prefect import get_client

    from prefect_blocks.versions import PREFECT_FAILURES

    flow_run = _here().flow_run
    assert flow_run is not None
    try:
        with get_client(sync_client=True) as client:
            announcing.announce(client, flow_run.id, execution_ids, at)
    except PREFECT_FAILURES as error:
        log.warning("Prefect did not take the event that this flow run waits (%s).", type(error).__name__)
        return False
    return True


def _sent(event: dict[str, Any]) -> bool:
    from prefect import get_client

    from prefect_blocks.versions import PREFECT_FAILURES

    try:
        with get_client(sync_client=True) as client:
            announcing.send(client, [event])
    except PREFECT_FAILURES as error:
        log.warning("Prefect did not take the event that this flow run waits no more (%s).", type(error).__name__)
        return False
    return True


def _shielded(call: Callable[[], None]) -> Twin[None]:
    """
    In an event loop in a thread, and to its end: a time-out cancels whatever is awaited, again and again.
    """

    async def there() -> None:
        with anyio.CancelScope(shield=True):
            await asyncio.to_thread(call)

    return Twin(call, there)


def _pass() -> tuple[UUID, datetime]:
    """
    Which flow run this is, and which pass of it.
    """
    context = _here()
    assert context.flow_run is not None, "obstacle() was asked before"
    return context.flow_run.id, context.start_time


def _here() -> FlowRunContext:
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    assert context is not None, "obstacle() was asked before"
    return context


def _latest(runs: Sequence[TransactionlinkWorkflowRun]) -> float | None:
    deadlines = [run.handle.deadline for run in runs]
    return None if None in deadlines else max(deadline for deadline in deadlines if deadline is not None)


def _timeout(deadline: float | None) -> int | None:
    return None if deadline is None else math.ceil(max(0.0, deadline - time.time())) + _LONGER


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """
    A server that has no time for the suspension, or does not want it, is no reason to fail.
    """
    from prefect_blocks.versions import PREFECT_FAILURES

    try:
        yield
    except PREFECT_FAILURES as error:
        log.warning("This flow run keeps its process for now: Prefect did not suspend it (%s).", error)


__all__ = [
    "SLICE",
    "Suspension",
    "again",
    "grace",
    "obstacle",
    "unheard",
    "woken",
]
