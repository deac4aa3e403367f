"""
One worker of a campaign: it claims slices, starts their rows, follows them to their ends, and keeps the outcomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from attrs import evolve, frozen

from tl_orchestration.batch.breaker import Breaker
from tl_orchestration.batch.buffers import Keeper, Recorder
from tl_orchestration.batch.campaigns import Campaign
from tl_orchestration.batch.feed import Due, Feed
from tl_orchestration.batch.following import Ending, Follower, as_ended, ended, of_row
from tl_orchestration.batch.presence import BEAT, Presence
from tl_orchestration.batch.rows import Row, Rows, Update
from tl_orchestration.batch.shares import Shares
from tl_orchestration.batch.starting import CHANGED, PutBack, Refused, Started, Starter
from tl_orchestration.batch.states import RowState
from tl_orchestration.batch.strays import Strays
from tl_orchestration.batch.summary import BatchOutcome, BatchSummary
from tl_orchestration.batch.throttle import ThrottledWire
from tl_orchestration.database.engine import DatabaseAway
from tl_orchestration.errors import (
    InvalidSettings,
    LedgerError,
    NotFound,
    StorageFailed,
    TransactionlinkError,
    WaitInterrupted,
    WaitTimeout,
)
from tl_orchestration.wait import EXPIRY_GRACE

log = logging.getLogger(__name__)

#: How often states are put on record, and how often the worker looks around, seconds.
_FLUSH = 0.2
_LOOK = 1.0
#: How often a person's word about the campaign is looked for, seconds.
_CAMPAIGN = 0.5
#: Rows that it takes from the dead at once.
_ADOPTED = 2000
#: How often it says who holds the quota while nothing of its own runs, seconds.
_HELD = 600.0
#: For how long a store or storage that fails is borne, and what waits for it meanwhile, seconds.
_PATIENCE = 120.0
_AGAIN = 5.0

#: Which rows a worker takes care of besides those that it starts.
FOLLOWED = (RowState.STARTED, RowState.ENDED)


@frozen(kw_only=True)
class Orders:
    """
    When a worker is done.

    Args:
        follow: Follow what is started; if not, only start, until the in-flight limit is reached, and keep what has
            ended.
        keep: Fetch results and keep outcomes; if not, only record that executions have ended.
        wait_for_others: Stay while other workers are at rows of this campaign.
        stop: Looked at several times a second; once it says so, the worker ends in good order.
        low_water: Return once so small a share of the in-flight limit is used; None: do not.
        comes_back: The worker has a name that a later life of it will have as well: where it is interrupted, its rows
            stay its own for a lease.
    """

    follow: bool = True
    keep: bool = True
    wait_for_others: bool = True
    stop: Callable[[], bool] = lambda: False
    low_water: float | None = None
    comes_back: bool = False


class Worker:
    """
    Args:
        campaign: As it was when the worker began.
        feed: What it starts; None: nothing.
        survey: The campaign in numbers, now.
        look: The campaign itself, now.
        unseen: What the ledger knows of rows with these keys, and their table does not.
    """

    def __init__(
        self,
        campaign: Campaign,
        name: str,
        *,
        rows: Rows,
        shares: Shares,
        strays: Strays,
        breaker: Breaker,
        feed: Feed | None,
        starter: Starter,
        follower: Follower,
        recorder: Recorder,
        keeper: Keeper,
        wire: ThrottledWire,
        survey: Callable[[], BatchSummary],
        look: Callable[[], Campaign],
        unseen: Callable[[Sequence[str]], Sequence[Update]],
    ) -> None:
        self._campaign = campaign
        self._name = name
        self._rows = rows
        self._shares = shares
        self._strays = strays
        self._breaker = breaker
        self._feed = feed
        self._starter = starter
        self._follower = follower
        self._recorder = recorder
        self._keeper = keeper
        self._survey = survey
        self._look = look
        self._unseen = unseen
        self._orders = Orders()
        self._tasks: set[asyncio.Task[None]] = set()
        self._awake = asyncio.Event()
        self._fatal: BaseException | None = None
        self._overdue = False
        self._looked = self._surveyed = float("-inf")
        self._running: dict[str, Row] = {}
        #: Which of these it has called off.
        self._called_off: set[str] = set()
        self._adopted = self._strayed = self._told = self._told_holders = float("-inf")
        self._straying: asyncio.Task[None] | None = None
        self._obeyed = False
        self._unloaded = False
        #: Since when something cannot be done for the store or the storage, by what it is.
        self._troubled_since: dict[str, float] = {}
        self._presence = Presence(rows, wire)
        self._refused = 0
        #: Keys of rows of which it was not seen what their starts have come to.
        self._unseen_keys: list[str] = []
        self.started = 0

    async def work(self, orders: Orders, on_progress: Callable[[BatchSummary], None] | None = None) -> BatchSummary:
        """
        Work until there is nothing left to do, or until the orders say to return.

        Raises:
            TransactionlinkError: What keeps rows from being started or followed. What is known is on record.
        """
        self._orders = orders
        await self._call(self._rows.enter, self._campaign.namespace, self._campaign.quota, time.time())
        writing = [asyncio.create_task(self._write_all()), asyncio.create_task(self._presence.keep())]
        outcome = BatchOutcome.INTERRUPTED
        try:
            await self._take_up_own()
            outcome = await self._until_done(on_progress)
            if self._unloaded and outcome in {BatchOutcome.STOPPED, BatchOutcome.LEFT_TO_OTHERS}:
                raise InvalidSettings(
                    f"Campaign {self._campaign.name} was being loaded again, and that has not come to its end: load it"
                    " again. What was in flight has been followed to its end, and is on record."
                )
        finally:
            await self._end(writing, outcome)
        if self._fatal is not None:
            raise self._fatal
        survey: BatchSummary = await self._call(self._survey)
        return evolve(survey, outcome=self._named(outcome), started_here=self.started)

    def _named(self, outcome: BatchOutcome) -> BatchOutcome:
        if outcome is not BatchOutcome.FINISHED or self._feed is None:
            return outcome
        did = self.started or self._refused or self._keeper.kept or self._feed.unread
        return BatchOutcome.FINISHED if did else BatchOutcome.NOTHING_TO_START

    def _takes(self, state: RowState) -> bool:
        return self._orders.keep if state is RowState.ENDED else self._orders.follow

    async def _until_done(self, on_progress: Callable[[BatchSummary], None] | None) -> BatchOutcome:
        while True:
            self._awake.clear()
            if self._orders.stop() or self._fatal is not None:
                return BatchOutcome.INTERRUPTED
            pause = 0.05
            try:
                await self._adopt()
                blocked = await self._fill()
                if blocked is not None:
                    pause = 0.25
                    if blocked is BatchOutcome.AT_CAP and self._orders.follow:
                        await self._make_room()
                await self._tell(on_progress)
                outcome = None if blocked is None else await self._outcome(blocked)
            except DatabaseAway as error:
                self._trouble("looked at", error)
                outcome, pause = None, _LOOK
            if outcome is not None:
                return outcome
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._awake.wait()

    async def _tell(self, on_progress: Callable[[BatchSummary], None] | None) -> None:
        if on_progress is not None and time.monotonic() - self._told >= _LOOK:
            self._told = time.monotonic()
            on_progress(evolve(await self._call(self._survey), started_here=self.started))

    async def _fill(self) -> BatchOutcome | None:
        """
        Start what may be started. Returns what keeps every row from it; None if only the moment does.
        """
        if time.monotonic() - self._looked >= _CAMPAIGN:
            self._looked = time.monotonic()
            self._campaign = await self._call(self._look)
            for what in ("looked at", "started", "followed"):
                self._troubled_since.pop(what, None)
            await self._obey()
        if self._feed is None:
            return BatchOutcome.IN_FLIGHT
        self._unloaded = False
        if self._campaign.stop:
            self._feed.hold()
            return BatchOutcome.CANCELLED
        if not self._campaign.is_loaded:
            self._feed.hold()
            seen_at = self._campaign.loader_seen_at or 0.0
            self._unloaded = self._campaign.loader is None or time.time() - seen_at > self._rows.lease
            return BatchOutcome.STOPPED if self._unloaded else BatchOutcome.LEFT_TO_OTHERS
        due = await self._feed.take(self._campaign.load)
        if isinstance(due, BatchOutcome):
            return due
        for one in due:
            self._spawn(self._run(one))
        return None

    async def _outcome(self, blocked: BatchOutcome) -> BatchOutcome | None:
        """
        How the call ends, if it does now.
        """
        if self._orders.low_water is not None:
            if time.monotonic() - self._surveyed < _LOOK:
                return None
            self._surveyed = time.monotonic()
            return await self._at_low_water()
        if self._tasks:
            return None
        if len(self._keeper):
            await self._keep()
            return None
        await self._recorder.flush()
        survey = await self._call(self._survey)
        if survey.is_finished:
            return BatchOutcome.FINISHED
        if survey.stop == "CANCEL" and not self._orders.follow and not self._obeyed:
            self._looked = float("-inf")  # said after the last look, and perhaps before the last start was on record
            return None
        open_rows = survey.in_flight + survey.count(RowState.ENDED)
        if blocked in {BatchOutcome.CANCELLED, BatchOutcome.STOPPED} and not open_rows:
            return blocked
        return await (self._left_to_follow(blocked) if not self._orders.follow else self._left(blocked))

    async def _left_to_follow(self, blocked: BatchOutcome) -> BatchOutcome:
        """
        Nothing can be started in this moment, and whoever called does not want to wait here.
        """
        if blocked in {BatchOutcome.AT_CAP, BatchOutcome.BREAKER_OPEN}:
            return blocked
        if await self._call(self._rows.in_flight, 1, owner=self._name):
            return BatchOutcome.IN_FLIGHT
        return BatchOutcome.LEFT_TO_OTHERS if await self._presence.leave_to_others() else BatchOutcome.IN_FLIGHT

    async def _left(self, blocked: BatchOutcome) -> BatchOutcome | None:
        """
        Rows are left that nobody can start now, or that others follow.
        """
        if self._orders.wait_for_others or blocked in {BatchOutcome.AT_CAP, BatchOutcome.BREAKER_OPEN}:
            return None
        return BatchOutcome.LEFT_TO_OTHERS if await self._presence.leave_to_others() else None

    async def _at_low_water(self) -> BatchOutcome | None:
        survey = await self._call(self._survey)
        if self._overdue or survey.is_finished:
            return BatchOutcome.IN_FLIGHT
        if not self._tasks and await self._call(self._rows.to_keep, time.time()):
            return BatchOutcome.IN_FLIGHT
        if survey.pending and not survey.stop:
            opens_at = await self._breaker.opens_at()
            if opens_at is not None:
                return BatchOutcome.BREAKER_OPEN if time.time() >= opens_at else None
            if await self._call(self._rows.claimable, time.time()):
                mine, used, most = await self._call(self._shares.used, self._campaign.id, time.time())
                # What other campaigns hold is not this one's to wait for.
                if used < most and mine <= (self._orders.low_water or 0.0) * (most - used + mine):
                    return BatchOutcome.AT_CAP
                if used >= most:
                    await self._make_room()
                return None
            if not await self._call(self._rows.others, time.time()):
                return None  # a slice that rests, such as after a 429, is free again soon
        return None if self._tasks else BatchOutcome.IN_FLIGHT

    async def _make_room(self) -> None:
        """
        The quota is full: see whether other campaigns hold shares of it that nobody looks after, and say who does.
        """
        now = time.monotonic()
        if now - self._strayed >= BEAT and (self._straying is None or self._straying.done()):
            self._strayed = now
            self._straying = asyncio.create_task(self._release_strays())
        if not self._tasks and now - self._told_holders >= _HELD:
            self._told_holders = now
            log.warning(
                "Campaign %s waits for room in the quota %s; in flight: %s. A campaign that nobody runs keeps its share"
                " until its executions end or are cancelled (`tl batch cancel`).",
                self._campaign.name,
                self._campaign.quota,
                await self._call(self._strays.holders) or "starts under way",
            )

    async def _release_strays(self) -> None:
        try:
            if await self._strays.release():
                self._awake.set()
        except LedgerError as error:
            log.debug("Executions that nobody follows could not be looked at: %s", error)

    async def _take_up_own(self) -> None:
        """
        Go on with what a former life of this worker has left.
        """
        states, after = [state for state in FOLLOWED if self._takes(state)], ""
        while own := await self._call(self._rows.adopt, time.time(), _ADOPTED, states, own_after=after):
            for row in own:
                self._spawn(self._take_up(row))
            after = own[-1].key

    async def _adopt(self) -> None:
        if time.monotonic() - self._adopted < BEAT:
            return
        self._adopted = time.monotonic()
        states = [state for state in FOLLOWED if self._takes(state)]
        now = time.time()
        grace = None if self._orders.follow else EXPIRY_GRACE
        for row in await self._call(self._rows.adopt, now, _ADOPTED, states, grace=grace):
            if row.key not in self._running:
                self._spawn(self._take_up(row))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._awake.set()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (asyncio.CancelledError, WaitInterrupted):
            raise
        except Exception as error:
            if self._fatal is None:
                self._fatal = error
            self._awake.set()

    async def _run(self, due: Due) -> None:
        assert self._feed is not None
        came: Started | Refused | PutBack | None = None
        try:
            came = await self._starter.start(due.row, due.request)
        except DatabaseAway as error:
            self._trouble("started", error)
            came = PutBack(time.time() + _AGAIN)
        finally:
            self._note(due.row, came)
            self._awake.set()
            await self._feed.came(due.part, came.due_at if isinstance(came, PutBack) else None)
        if isinstance(came, Started):
            await self._go_on(due.row, came)

    def _note(self, row: Row, came: Started | Refused | PutBack | None) -> None:
        """
        Have the store know what a start has come to; None: nothing, because the worker ends.
        """
        if isinstance(came, Started):
            self.started += not came.execution.reattached
            self._recorder.add(_as_started(row, came), unreserved=1)
        elif isinstance(came, Refused):
            self._refused += 1
            self._recorder.add(came.update, unreserved=1)
        else:
            self._recorder.add(None, unreserved=1)
            if came is None:
                self._unseen_keys.append(row.key)

    async def _go_on(self, row: Row, came: Started) -> None:
        execution = came.execution
        known = evolve(
            row,
            execution_id=execution.id,
            deadline=execution.handle.deadline,
            expires_at=execution.handle.expires_at,
            api_version=execution.handle.api_version,
            started_at=came.at,
            reason=CHANGED if came.changed else None,
        )
        if execution.is_terminal:
            await self._finish(known, ended(execution, 1))
            return
        if self._campaign.stop == "CANCEL":
            await self._follower.cancel([known])
        if self._orders.follow:
            await self._follow(known)

    async def _take_up(self, row: Row) -> None:
        if row.state is RowState.ENDED:
            self._keeper.add(await self._follower.outcome(row, of_row(row)))
        else:
            await self._follow(row)

    async def _obey(self) -> None:
        """
        Cancel what this worker has in flight, once a person has said so: whoever said it cannot see starts that were
        under way. One that only records endings cancels nothing.
        """
        if self._campaign.stop != "CANCEL":
            self._obeyed = False
            self._called_off.clear()
            return
        if not self._orders.keep:
            return
        if rows := [row for key, row in self._running.items() if key not in self._called_off]:
            self._called_off.update(row.key for row in rows)
            await self._follower.cancel(rows)
        if not self._orders.follow and not self._obeyed:
            self._obeyed = True
            await self._recorder.flush()
            after = ""
            while found := await self._call(self._rows.in_flight, _ADOPTED, owner=self._name, after=after):
                await self._follower.cancel(found)
                after = found[-1].key

    async def _follow(self, row: Row) -> None:
        self._running[row.key] = row
        try:
            ending = await self._ending(row)
        except WaitTimeout:
            self._overdue = True  # what a deadline asks for is a worker's to do
            return
        except NotFound as error:
            log.error("Row %s: %s", row.key, error)
            lost = {"reason": type(error).__name__}
            self._recorder.add(Update(key=row.key, attempt=row.attempt, state=RowState.UNKNOWN, values=lost))
            return
        finally:
            self._running.pop(row.key, None)
            self._called_off.discard(row.key)
        await self._finish(row, ending)

    async def _ending(self, row: Row) -> Ending:
        while True:
            try:
                return await self._follower.ending(self._follower.handle(row), row.started_at or time.time())
            except DatabaseAway as error:
                self._trouble("followed", error)
                await asyncio.sleep(_AGAIN)

    async def _finish(self, row: Row, ending: Ending) -> None:
        self._recorder.add(as_ended(row, ending))
        if self._orders.keep:
            self._keeper.add(await self._follower.outcome(row, ending))

    async def _write_all(self) -> None:
        """
        Put on record what has gathered, as long as this worker lives.
        """
        while True:
            await asyncio.sleep(_FLUSH)
            try:
                await self._recorder.flush()
                if self._keeper.is_due:
                    await self._keep()
            except (LedgerError, StorageFailed) as error:
                self._trouble("put on record", error)
            except Exception as error:
                self._fatal = self._fatal or error
                self._awake.set()
                return
            else:
                self._troubled_since.pop("put on record", None)

    def _trouble(self, what: str, error: TransactionlinkError) -> None:
        now = time.monotonic()
        level = logging.DEBUG if what in self._troubled_since else logging.WARNING
        since = self._troubled_since.setdefault(what, now)
        log.log(level, "Nothing can be %s now: %s", what, error)
        if now - since > _PATIENCE:
            self._fatal = self._fatal or error
            self._awake.set()

    async def _keep(self) -> None:
        await self._keeper.flush()
        self._awake.set()

    async def _end(self, writing: Sequence[asyncio.Task[None]], outcome: BatchOutcome) -> None:
        """
        End in good order: a start that is under way is finished, and everything that is known is written.
        """
        others = [*writing] if self._straying is None else [*writing, self._straying]
        for task in (*others, *self._tasks):
            task.cancel()
        await asyncio.gather(*others, *self._tasks, return_exceptions=True)
        returns = outcome in {BatchOutcome.AT_CAP, BatchOutcome.IN_FLIGHT, BatchOutcome.BREAKER_OPEN} or (
            outcome is BatchOutcome.INTERRUPTED and self._orders.comes_back
        )
        try:
            await self._recorder.flush()
            if self._unseen_keys:
                for update in await self._call(self._unseen, self._unseen_keys):
                    self._recorder.add(update)
                await self._recorder.flush()
            await self._keep()
            await self._presence.beat()
            await self._call(self._rows.leave, time.time(), returns=returns)
        except TransactionlinkError as error:
            log.warning("Not everything could be put on record; whoever goes on finds it by the ledger: %s", error)
            self._fatal = self._fatal or error

    async def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await asyncio.to_thread(function, *arguments, **named)


def _as_started(row: Row, came: Started) -> Update:
    handle = came.execution.handle
    values = {
        "execution_id": came.execution.id,
        "api_version": handle.api_version,
        "deadline": handle.deadline,
        "expires_at": handle.expires_at,
        "started_at": came.at,
        "reason": CHANGED if came.changed else None,
    }
    return Update(key=row.key, attempt=row.attempt, state=RowState.STARTED, values=values)


__all__ = ["FOLLOWED", "Orders", "Worker"]
