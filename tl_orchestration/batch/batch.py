"""
A campaign, as its callers see it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from attrs import evolve

from tl_orchestration.batch import manifest, retries
from tl_orchestration.batch.breaker import Breaker
from tl_orchestration.batch.buffers import Keeper, Recorder
from tl_orchestration.batch.campaigns import Campaign, Campaigns
from tl_orchestration.batch.exports import exported
from tl_orchestration.batch.feed import Feed
from tl_orchestration.batch.fitting import fitted
from tl_orchestration.batch.following import Follower
from tl_orchestration.batch.grouped import GroupedLedger
from tl_orchestration.batch.loading import Loader
from tl_orchestration.batch.parts import Parts
from tl_orchestration.batch.places import PathOfAStorage, Place, place
from tl_orchestration.batch.policy import Book, Limits, Policy, checked_campaign
from tl_orchestration.batch.rows import Rows
from tl_orchestration.batch.shares import Shares
from tl_orchestration.batch.starting import Starter
from tl_orchestration.batch.states import FAILURES, RowState
from tl_orchestration.batch.strays import Strays
from tl_orchestration.batch.summary import BatchOutcome, BatchSummary, LoadReport
from tl_orchestration.batch.surveys import count_unkept, polls_p95, started_since, survey
from tl_orchestration.batch.thrift import Experience
from tl_orchestration.batch.throttle import Turns, throttled
from tl_orchestration.batch.unseen import BEFORE, unseen
from tl_orchestration.batch.worker import Orders, Worker
from tl_orchestration.client import AsyncClient
from tl_orchestration.credentials import B3osPublic
from tl_orchestration.database.engine import Database
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.fingerprint import Fingerprint, fingerprint
from tl_orchestration.ledger.entry import OPEN, UNDECIDED, State
from tl_orchestration.ledger.sql import SqlLedger
from tl_orchestration.models import RunRequest

log = logging.getLogger(__name__)

#: Part size that is waited for where results go nowhere, seconds.
_NO_PARTS = 0.5
_THREADS = 32
#: States of a ledger entry whose execution may run; and those of a start that may have come to something.
_OPEN = OPEN | UNDECIDED
_KNOWN = _OPEN | {State.SETTLED}
_ENDS = frozenset(
    {
        BatchOutcome.FINISHED,
        BatchOutcome.NOTHING_TO_START,
        BatchOutcome.STOPPED,
        BatchOutcome.CANCELLED,
        BatchOutcome.INTERRUPTED,
        BatchOutcome.LEFT_TO_OTHERS,
    }
)


class Batch:
    """
    One campaign: an execution for each row of a source, each started at most once, by any number of workers.

    Everything that is known of it is in the client's SQL ledger and in tables beside it, so any process with the same
    ledger, campaign and service goes on with it, whatever has become of the others.

    Args:
        client: With a :class:`~tl_orchestration.ledger.SqlLedger`. It stays the caller's to close.
        campaign: Its name; the same one continues the campaign, and every row of another one is started anew.
        book: What to start; None for whoever only looks, waits, cancels or retries. Its options are those of the
            client's service.
        output: Folder; parts, manifest and reject files go into a folder of the campaign's name in it, which stays the
            same once something is kept. None: no results are fetched.
        limits: The quota that it shares.
        policy: Brakes and formats.
        worker: Who works, the same over restarts of a shard, so that it finds its rows again at once; None: a new name.

    Raises:
        InvalidSettings: Something about these is wrong.
    """

    def __init__(
        self,
        client: AsyncClient,
        campaign: str,
        book: Book | None = None,
        *,
        output: str | Path | Place | PathOfAStorage | None = None,
        limits: Limits | None = None,
        policy: Policy | None = None,
        worker: str | None = None,
    ) -> None:
        if not isinstance(client.ledger, SqlLedger):
            raise InvalidSettings("A batch needs a client with an SqlLedger: it keeps the campaign beside the ledger.")
        if isinstance(client._credentials, B3osPublic):
            raise InvalidSettings(
                "A batch needs a key of B3OS: nobody could ask for its executions after their starts. Use B3osKey."
            )
        self.campaign = checked_campaign(campaign)
        self._comes_back = worker is not None
        self.worker = worker or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._client = client
        self._ledger = client.ledger
        self._book = None if book is None else fitted(book, client._service)
        self._output = None if output is None else place(output) / self.campaign
        self._limits = limits or Limits()
        self._policy = policy or Policy()

    @property
    def _database(self) -> Database:
        return self._ledger.database

    @property
    def _campaigns(self) -> Campaigns:
        return Campaigns(self._database, self._ledger.namespace)

    def _fingerprint(self, request: RunRequest) -> Fingerprint:
        return fingerprint(request, self._client._credentials.fingerprint_secret())

    def load(self, *, again: bool = False, stop: Callable[[], bool] = lambda: False) -> LoadReport:
        """
        Read the source once: check and map every row, and put its key on record. Nothing is sent.

        A source that is loaded already, and has not changed, is not read again; while another process loads it, this
        waits. One that was loaded to its end, and is not there any more, is not needed unless rows are left to start.

        Args:
            again: Read it whatever is known. A SQL query is read again only then.
            stop: Ends the pass, or the wait for another process; the next call begins anew.

        Raises:
            InvalidRequest: There are bad rows, and the policy says to stop then. Nothing can be started.
            InvalidSettings: A column is missing, or the campaign runs another definition, keeps its results in another
                folder, or is worked on under another quota.
            StorageFailed: The source cannot be read, or the reject file not written.
            LedgerError: The database cannot be used.
        """
        return self._loader(self._database, self._output).load(again=again, stop=stop)

    def check(self) -> LoadReport:
        """
        As :meth:`load`, into a database of its own that is thrown away: a dry run. Reject files are not written.
        """
        with tempfile.TemporaryDirectory(prefix="tl-batch-") as folder:
            database = Database(f"sqlite:///{folder}/check.db")
            try:
                return self._loader(database, None).load(again=False)
            finally:
                database.close()

    async def close(self) -> None:
        """
        Close the client's connections of this event loop, which :meth:`run` does by itself.
        """
        await self._client._wire.aclose()

    def _loader(self, database: Database, output: Place | None) -> Loader:
        if self._book is None:
            raise InvalidSettings("There is nothing to load: the batch was given no book.")
        return Loader(
            database,
            self._ledger.namespace,
            self.campaign,
            self._book,
            fingerprint=self._fingerprint,
            output=output,
            quota=self._limits.quota,
            policy=self._policy,
            worker=self.worker,
        )

    def summary(self) -> BatchSummary:
        """
        How the campaign stands.

        Raises:
            InvalidSettings: There is no such campaign.
        """
        campaign = self._campaigns.named(self.campaign)
        return self._whole(campaign, survey(self._database, campaign))

    def started_since(self, at: float) -> bool:
        """
        Whether any worker has started a row of the campaign since then.

        Args:
            at: Epoch seconds.

        Raises:
            InvalidSettings: There is no such campaign.
        """
        return started_since(self._database, self._campaigns.named(self.campaign), at)

    async def work(
        self,
        *,
        at_cap: Literal["wait", "return"] = "wait",
        wait_for_others: bool = True,
        stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[BatchSummary], None] | None = None,
    ) -> BatchSummary:
        """
        Start rows, follow them to their ends, keep what they have come to; go on with whatever others have left.

        Args:
            at_cap: ``return`` starts rows until the in-flight limit is reached, keeps what has ended, and returns
                without waiting for anything: with ``AT_CAP``, ``IN_FLIGHT`` or ``BREAKER_OPEN`` somebody has to
                :meth:`watch` and call this again.
            wait_for_others: Stay until the whole campaign is finished; if not, only until nothing is left that no other
                living worker takes care of.
            stop: Looked at several times a second. Once it is true, starts under way are finished, everything is put on
                record, and this returns ``INTERRUPTED``; executions go on.
            on_progress: Told about once a second, in the event loop.

        Raises:
            InvalidSettings: The campaign was not loaded, or keeps its results in another folder.
            TransactionlinkError: What other rows would meet as well: a token that is refused, a definition that is not
                there, a store or a service that is gone for too long. What is known is on record.
        """
        if self._book is None:
            raise InvalidSettings("There is nothing to work on: the batch was given no book.")
        orders = Orders(
            follow=at_cap == "wait", wait_for_others=wait_for_others, stop=stop, comes_back=self._comes_back
        )
        return await self._work(orders, self._book, on_progress)

    async def watch(
        self,
        *,
        low_water: float = 0.5,
        stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[BatchSummary], None] | None = None,
    ) -> BatchSummary:
        """
        Follow what is in flight, and start, cancel and fetch nothing: only that an execution has ended is put on
        record. For whoever waits in a worker's place, such as a trigger.

        Returns once a worker has something to do: no more than ``low_water`` of the quota's in-flight limit is used and
        rows are left to start; or the breaker may be probed; or nothing of this worker is in flight any more; or a
        deadline has passed, which :meth:`work` then does something about.

        Raises:
            InvalidSettings: There is no such campaign.
            TransactionlinkError: As :meth:`work`.
        """
        orders = Orders(keep=False, low_water=low_water, stop=stop, comes_back=self._comes_back)
        return await self._work(orders, None, on_progress)

    def run(
        self,
        *,
        wait_for_others: bool = True,
        stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[BatchSummary], None] | None = None,
        at_cap: Literal["wait", "return"] = "wait",
    ) -> BatchSummary:
        """
        :meth:`work` in an event loop of its own.
        """

        async def work() -> BatchSummary:
            # The ledger's calls wait in threads; those that wait together share a commit.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
            try:
                return await self.work(
                    at_cap=at_cap, wait_for_others=wait_for_others, stop=stop, on_progress=on_progress
                )
            finally:
                await self.close()

        return asyncio.run(work())

    async def _work(
        self, orders: Orders, book: Book | None, on_progress: Callable[[BatchSummary], None] | None
    ) -> BatchSummary:
        campaign = await asyncio.to_thread(self._campaigns.named, self.campaign)
        if book is not None and not campaign.is_loaded and campaign.loader is None and campaign.report is None:
            raise InvalidSettings(f"Campaign {self.campaign} was not loaded to its end: load it first.")
        database, policy = self._database, self._policy
        if self._output is not None:
            campaign = await asyncio.to_thread(
                self._campaigns.keep_in, self.campaign, str(self._output), self.worker, policy.lease, time.time()
            )
        shares = Shares(database, self._ledger.namespace, campaign.quota, policy.lease)
        rate = self._client._settings.requests_per_second
        shared = await asyncio.to_thread(shares.agree, self._limits, rate)
        ledger = GroupedLedger(self._ledger)
        client, wire = throttled(self._client, Turns(shares, shared.requests_per_second), ledger)
        breaker = Breaker(shares, policy.starts_at_once, policy.breaker_after)
        rows = Rows(database, campaign.id, self.worker, policy.lease)
        parts = Parts(database, campaign.id, self.worker, self._output, policy.format)
        if self._output is None:
            policy = evolve(policy, results=False, part_seconds=_NO_PARTS)
        recorder = Recorder(rows)
        feed = (
            None
            if book is None
            else Feed(
                campaign.id,
                self.worker,
                book,
                policy,
                rows=rows,
                shares=shares,
                breaker=breaker,
                recorder=recorder,
                fingerprint=self._fingerprint,
            )
        )
        worker = Worker(
            campaign,
            self.worker,
            rows=rows,
            shares=shares,
            strays=Strays(client, database, campaign, policy.lease),
            breaker=breaker,
            feed=feed,
            starter=Starter(client, ledger, self.campaign, policy, breaker),
            follower=Follower(client, self.campaign, policy, Experience(), decides=orders.keep, kept=rows.kept),
            recorder=recorder,
            keeper=Keeper(parts, policy.part_rows, policy.part_seconds),
            wire=wire,
            survey=lambda: survey(database, self._campaigns.named(self.campaign)),
            look=lambda: self._campaigns.named(self.campaign),
            unseen=lambda keys: unseen(database, campaign, _KNOWN, keys=keys),
        )
        try:
            if orders.keep:
                await asyncio.to_thread(self._take_in, campaign, rows, of=_given_up(campaign))
                await asyncio.to_thread(parts.sweep, time.time(), policy.lease)
            summary = await worker.work(orders, on_progress)
        finally:
            await client._watcher.close()
        if not orders.keep or summary.outcome not in _ENDS:
            return summary
        return await asyncio.to_thread(self._concluded, campaign, summary)

    def _concluded(self, campaign: Campaign, summary: BatchSummary) -> BatchSummary:
        whole = self._whole(campaign, summary)
        if whole.unkept:
            log.warning(
                "Campaign %s: the results of %d rows were not kept, because they ended in a run without its folder. `tl"
                " batch retry %s --state RESULT_MISSING`, and the next run with the folder asks for them and starts"
                " nothing.",
                *(campaign.name, whole.unkept, shlex.quote(campaign.name)),
            )
        if whole.outcome is BatchOutcome.CANCELLED:
            self._tell_under_way(campaign)
        if self._output is not None:
            self._write_manifest(self._output, campaign, whole)
        return whole

    def _tell_under_way(self, campaign: Campaign) -> None:
        if found := unseen(self._database, campaign, _OPEN, under_way=True):
            log.warning(
                "Campaign %s: of %d rows it is not known yet whether they have started: another worker is at them, or"
                " was lost. `tl batch cancel %s` in some minutes finds out, and cancels what runs.",
                *(campaign.name, len(found), shlex.quote(campaign.name)),
            )

    def _write_manifest(self, folder: Place, campaign: Campaign, whole: BatchSummary) -> None:
        """
        Another worker may end while this one writes, and write what it knows before: then this one's is written over it
        and is older. So it is written until it is so, or somebody lives who writes it later.
        """
        rows = Rows(self._database, campaign.id, self.worker, self._policy.lease)
        document = manifest.manifest(self._database, campaign, whole, time.time())
        while True:
            manifest.write(folder, document)
            now = time.time()
            whole = self._whole(campaign, survey(self._database, self._campaigns.find(self.campaign) or campaign))
            former, document = document, manifest.manifest(self._database, campaign, whole, now)
            if manifest.is_same(former, document) or rows.others(now):
                return

    def _whole(self, campaign: Campaign, summary: BatchSummary) -> BatchSummary:
        p95, unkept = polls_p95(self._database, campaign.id), count_unkept(self._database, campaign)
        return evolve(summary, polls_p95=p95, unkept=unkept)

    def retry(
        self,
        states: Iterable[RowState] = (*FAILURES, RowState.REJECTED, RowState.UNKNOWN),
        *,
        unknown: Literal["verdict", "restart"] = "verdict",
    ) -> int:
        """
        Let rows be started again, by whoever works next; those that lack their result only have it asked for again.
        Returns how many.

        Args:
            states: Of which rows: ``PARTIAL``, ``FAILED``, ``CANCELLED``, ``EXPIRED``, ``TIMED_OUT``,
                ``RESULT_MISSING``, ``REJECTED``, ``UNKNOWN``. With ``RESULT_MISSING`` also those that have succeeded
                and whose results were not kept, because no run had the campaign's folder yet.
            unknown: Of the unknown ones, those that a person has said something about (``tl ledger adopt`` or
                ``not-started``); ``restart``: all of them, which may start a customer's check twice.

        Raises:
            InvalidSettings: There is no such campaign, or a state cannot be retried.
        """
        campaign = self._campaigns.named(self.campaign)
        return retries.retry(self._ledger, campaign, frozenset(states), restart=unknown == "restart")

    async def cancel(self, *, drain: bool = False, only_mine: bool = False) -> int:
        """
        Start no more rows of the campaign, and cancel what is in flight. Returns how many cancels were accepted.

        Args:
            drain: Let what is in flight come to its end.
            only_mine: Cancel only what this worker owns, which works no more; the others go on with the campaign, and
                see to the ends of what was cancelled. Where there is no campaign yet, that is nothing.

        Raises:
            InvalidSettings: There is no such campaign.
        """
        if only_mine and await asyncio.to_thread(self._campaigns.find, self.campaign) is None:
            return 0
        campaign = await asyncio.to_thread(self._campaigns.named, self.campaign)
        if not only_mine:
            await asyncio.to_thread(self._campaigns.stop, self.campaign, "DRAIN" if drain else "CANCEL")
        if drain:
            return 0
        rows = Rows(self._database, campaign.id, self.worker, self._policy.lease)
        mine = self.worker if only_mine else None
        await asyncio.to_thread(self._take_in, campaign, rows, claimed_by=mine)
        shares = Shares(self._database, self._ledger.namespace, campaign.quota, self._policy.lease)
        shared = await asyncio.to_thread(shares.agree, self._limits, self._client._settings.requests_per_second)
        turns = Turns(shares, shared.requests_per_second)
        client, wire = throttled(self._client, turns, self._ledger)
        follower = Follower(client, self.campaign, self._policy, Experience())
        accepted, after = 0, ""
        try:
            while found := await asyncio.to_thread(rows.in_flight, 500, owner=mine, after=after):
                accepted += await follower.cancel(found)
                after = found[-1].key
        finally:
            await client._watcher.close()
            await asyncio.to_thread(rows.beat, None, wire.spent)
        if only_mine:
            await asyncio.to_thread(rows.leave, time.time(), returns=False)
        return accepted

    def _take_in(
        self,
        campaign: Campaign,
        rows: Rows,
        *,
        of: Sequence[RowState] = BEFORE,
        claimed_by: str | None = None,
    ) -> None:
        """
        Put on record what a worker could not that was killed between a start, or its announcement, and its record in
        the campaign.
        """
        if found := unseen(self._database, campaign, _OPEN, of=of, claimed_by=claimed_by):
            rows.record(found, 0)

    def resume(self) -> None:
        """
        Take a cancel back: rows can be started again.

        Raises:
            InvalidSettings: There is no such campaign.
        """
        self._campaigns.stop(self.campaign, "")

    def export(self, states: Iterable[RowState] = ()) -> Iterator[dict[str, Any]]:
        """
        Every row as the store knows it: key, state, execution, times, and where its result is.

        Args:
            states: Only rows in these; none: all.

        Raises:
            InvalidSettings: There is no such campaign.
        """
        return exported(self._database, self._campaigns.named(self.campaign).id, frozenset(states))

    def purge(self) -> int:
        """
        Forget the campaign, but for its files and the ledger's entries: its keys start nothing again. Returns how many
        rows it had.

        Raises:
            InvalidSettings: There is no such campaign, or something of it is in flight, has yet to be kept or is of
                unknown fate.
        """
        if found := unseen(self._database, self._campaigns.named(self.campaign), _OPEN, under_way=True):
            raise InvalidSettings(
                f"Of {len(found)} rows of campaign {self.campaign} the ledger knows a start that the campaign does not:"
                " their worker was lost. Run the campaign, or cancel it, which takes them in, those that were under way"
                " some minutes later; nothing was purged."
            )
        return self._campaigns.purge(self.campaign)


def _given_up(campaign: Campaign) -> Sequence[RowState]:
    """
    In which states nobody would try a row again, and so find that it has started already.
    """
    return BEFORE if campaign.stop else (RowState.INVALID,)


__all__ = ["Batch"]
