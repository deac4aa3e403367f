"""
One streaming pass over a source: every record is checked and mapped before anything is sent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrs import evolve

from tl_orchestration.batch.campaigns import Campaign, Campaigns
from tl_orchestration.batch.columns import BadRow
from tl_orchestration.batch.intake import CHANGED, CONFLICT, Incoming, Intake
from tl_orchestration.batch.places import Place
from tl_orchestration.batch.policy import Book, Policy
from tl_orchestration.batch.rejects import Rejects
from tl_orchestration.batch.sources import Portion, Source, Unreadable
from tl_orchestration.batch.summary import LoadReport
from tl_orchestration.database.engine import Database
from tl_orchestration.errors import InvalidRequest, LedgerError, StorageFailed
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.models import RunRequest

log = logging.getLogger(__name__)

#: Records of a slice: what a worker reads again at once, and starts.
SLICE = 200
#: How often somebody else's loading is looked at, seconds.
_LOOK = 0.5
#: How often a loader says that it lives: seconds at most, and a share of the lease.
_BEAT = 5.0
_BEATS = 6


class Loader:
    """
    Loads one campaign.

    Args:
        fingerprint: Of a request, keyed by the credential.
        output: Folder of the campaign's files; None: no reject files.
        worker: Who loads; a later life of it need not wait for the lease of a former one.
        now: Epoch seconds.
    """

    def __init__(
        self,
        database: Database,
        namespace: str,
        name: str,
        book: Book,
        *,
        fingerprint: Callable[[RunRequest], Fingerprint],
        output: Place | None,
        quota: str,
        policy: Policy,
        worker: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._campaigns = Campaigns(database, namespace)
        self._name = name
        self._book = book
        self._fingerprint = fingerprint
        self._output = output
        self._quota = quota
        self._policy = policy
        self._now = now
        self._worker = worker

    def load(self, *, again: bool, stop: Callable[[], bool] = lambda: False) -> LoadReport:
        """
        Load, unless this very source is loaded; wait while another process does. A source that is not there any more
        is not needed where it was loaded to its end and nothing is left to start.

        Raises:
            InvalidRequest: There are bad rows, and the policy says to stop then. Nothing can be started.
            InvalidSettings: The source has no such column, or the campaign runs another definition, keeps its results
                in another folder, or is worked on under another quota.
            StorageFailed, LedgerError: The source cannot be read, or the database not written.
        """
        try:
            source = self._book.source.with_columns(self._book.columns.key, self._book.columns.named())
            identity = self._identity(source)
        except StorageFailed as error:
            if again or not error.is_missing or (loaded := self._needed_no_more()) is None:
                raise
            return loaded
        while True:
            campaign, turn = self._campaigns.open_for_loading(
                self._name,
                definition=self._book.workflow_definition_id,
                quota=self._quota,
                output=None if self._output is None else str(self._output),
                source=identity,
                loader=self._worker,
                again=again,
                lease=self._policy.lease,
                now=self._now(),
            )
            if turn == "load":
                return self._read(campaign, source, identity, stop)
            if turn == "loaded":
                return evolve(campaign.loaded or LoadReport(), skipped=True)
            if stop():
                raise LedgerError(f"Stopped as asked, while another process loads campaign {self._name}.")
            time.sleep(_LOOK)

    def _needed_no_more(self) -> LoadReport | None:
        """
        What the source had, where nothing of it is left to start; else None.
        """
        found = self._campaigns.find(self._name)
        if found is None or not found.is_loaded or self._campaigns.starts_more(found):
            return None
        log.warning(
            "The source of campaign %s is not there any more. Nothing of it is to be started, so the campaign goes on"
            " without it.",
            self._name,
        )
        return evolve(found.loaded or LoadReport(), skipped=True, gone=True)

    def _identity(self, source: Source) -> str | None:
        told = source.identity()
        if told is None:
            return None
        definition, options = self._book.workflow_definition_id, self._book.options
        mapping = [repr(self._book.columns), definition]
        if options is not None:  # a keyed digest, for they may be personal
            mapping.append(self._fingerprint(RunRequest(definition, options=options)).digest)
        return hashlib.sha256(json.dumps([told, *mapping]).encode()).hexdigest()

    def _read(self, campaign: Campaign, source: Source, identity: str | None, stop: Callable[[], bool]) -> LoadReport:
        intake = Intake(self._database, campaign, self._worker)
        try:
            with self._alive(intake):
                report = self._taken(intake, Rejects(self._output, campaign.load), source, identity, stop)
        except BaseException:
            intake.give_up()
            raise
        log.info("Campaign %s: %d rows read, %d can be run.", self._name, report.read, report.accepted)
        return report

    @contextmanager
    def _alive(self, intake: Intake) -> Iterator[None]:
        """
        Say now and then that this loader lives, however long its source or its storage takes.
        """
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(min(_BEAT, self._policy.lease / _BEATS)):
                try:
                    intake.beat(self._now())
                except LedgerError as error:
                    log.debug("This loader could not say that it lives: %s", error)

        beating = threading.Thread(target=beat, name="batch-loader", daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()

    def _taken(
        self,
        intake: Intake,
        rejects: Rejects,
        source: Source,
        identity: str | None,
        stop: Callable[[], bool],
    ) -> LoadReport:
        report = LoadReport()
        for portion in source.portions(SLICE):
            if stop():
                raise LedgerError(f"Stopped as asked, while campaign {self._name} was loaded. Nothing was started.")
            incoming = self._checked(portion, report.read, rejects)
            tally = intake.take(portion.locator, incoming, self._now())
            for one in tally.conflicting:
                rejects.add(one.row, one.key, self._book.columns.key, CONFLICT)
            for one in tally.changed:
                rejects.note(one.row, one.key, CHANGED)
            report = evolve(
                report,
                read=report.read + len(portion.records),
                collapsed=report.collapsed + tally.collapsed,
                conflicting=report.conflicting + len(tally.conflicting),
                changed=report.changed + len(tally.changed),
            )
        rejects.flush()
        report = evolve(
            report,
            rejected=rejects.count - report.conflicting,
            samples=rejects.samples,
            rejects=rejects.files,
        )
        if self._policy.on_bad_rows == "stop" and not report.is_clean:
            raise InvalidRequest(
                f"Campaign {self._name}: {report.rejected} rows cannot be run and {report.conflicting} keys are"
                f" ambiguous, so nothing is started. {_first(report)}"
            )
        accepted, withdrawn = intake.finish(identity or "read", report, self._now())
        return evolve(report, accepted=accepted, withdrawn=withdrawn)

    def _checked(self, portion: Portion, before: int, rejects: Rejects) -> list[Incoming]:
        found = []
        for number, record in enumerate(portion.records, before + 1):
            key: str | None = None
            try:
                if isinstance(record, Unreadable):
                    raise BadRow(None, record.reason)
                key = self._book.columns.key_of(record)
                request = self._book.request_of(record)
            except BadRow as bad:
                rejects.add(number, key, bad.column, bad.reason)
            else:
                found.append(Incoming(number, key, self._fingerprint(request)))
        return found


def _first(report: LoadReport) -> str:
    if not report.samples:
        return ""
    one = report.samples[0]
    return f"The first: row {one['row']}, column {one['column']}: {one['reason']}."


__all__ = ["SLICE", "Loader"]
