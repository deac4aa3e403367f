"""
Campaigns on record: what each one is, who loads it, and what a person has said about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import evolve, frozen
from sqlalchemy import Connection, Select, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tl_orchestration.batch.places import is_same
from tl_orchestration.batch.states import UNFINISHED, RowState
from tl_orchestration.batch.summary import LoadReport
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import campaigns, parts, requests, rows, slices, workers
from tl_orchestration.errors import InvalidSettings, LedgerError

Stop = Literal["", "DRAIN", "CANCEL"]


@frozen(kw_only=True)
class Campaign:
    """
    One row of the table.
    """

    id: int
    namespace: str
    name: str
    definition: str
    quota: str
    load: int
    source: str
    stop: str
    output: str | None
    created_at: float
    report: Mapping[str, Any] | None
    loader: str | None
    loader_seen_at: float | None

    @property
    def is_loaded(self) -> bool:
        return bool(self.source)

    @property
    def loaded(self) -> LoadReport | None:
        return None if self.report is None else LoadReport.from_dict(self.report)


class Campaigns:
    """
    The campaigns of one namespace.
    """

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._namespace = namespace

    def find(self, name: str) -> Campaign | None:
        """
        Raises:
            LedgerError: The database cannot be reached.
        """
        with self._database.reading() as connection:
            return self._find(connection, name)

    def named(self, name: str) -> Campaign:
        """
        Raises:
            InvalidSettings: There is no such campaign.
            LedgerError: The database cannot be reached.
        """
        found = self.find(name)
        if found is None:
            raise InvalidSettings(f"There is no campaign {name} of this service in {self._database.address}.")
        return found

    def open_for_loading(
        self,
        name: str,
        *,
        definition: str,
        quota: str,
        output: str | None,
        source: str | None,
        loader: str,
        again: bool,
        lease: float,
        now: float,
    ) -> tuple[Campaign, Literal["load", "wait", "loaded"]]:
        """
        Make the campaign where there is none, and say what whoever wants to load it has to do.

        Args:
            source: The identity of what is to be loaded; None: unknown until it is read.
            loader: Whoever it is; a later life of it takes over at once.
            again: Load although it is loaded.
            lease: Seconds after which a silent loader counts as gone.
            now: Epoch seconds.

        Raises:
            InvalidSettings: The campaign runs another definition, keeps its results in another folder, or is worked on
                under another quota.
        """
        with self._database.writing() as connection:
            insert = sqlite.insert(campaigns) if self._database.is_sqlite else postgresql.insert(campaigns)
            connection.execute(
                insert.values(
                    namespace=self._namespace,
                    name=name,
                    definition=definition,
                    quota=quota,
                    created_at=now,
                    load=0,
                    source="",
                    stop="",
                    output=output,
                ).on_conflict_do_nothing()
            )
            here = (campaigns.c.namespace == self._namespace) & (campaigns.c.name == name)
            connection.execute(update(campaigns).where(here).values(quota=campaigns.c.quota))  # locks it
            found = self._find(connection, name)
            if found is None:
                raise LedgerError(f"Campaign {name} was purged in this moment.")
            if found.definition != definition:
                raise InvalidSettings(
                    f"Campaign {name} runs the definition {found.definition}; give another definition a campaign of its"
                    " own."
                )
            self._check_output(connection, found, output, loader, now - lease)
            self._check_quota(connection, found, quota, loader, now - lease)
            changes: dict[str, Any] = {"quota": quota, "output": output or found.output}
            if found.is_loaded and not again and source in {None, found.source}:
                connection.execute(update(campaigns).where(here).values(**changes))
                return evolve(found, **changes), "loaded"
            seen = found.loader_seen_at or 0.0
            if found.loader is not None and found.loader != loader and now - seen < lease:
                return found, "wait"
            changes |= {
                "load": found.load + 1,
                "source": "",
                "loader": loader,
                "loader_seen_at": now,
            }
            connection.execute(update(campaigns).where(here).values(**changes))
            return evolve(found, **changes), "load"

    def keep_in(self, name: str, output: str, worker: str, lease: float, now: float) -> Campaign:
        """
        Put on record where a worker keeps a campaign's results.

        Raises:
            InvalidSettings: There is no such campaign, or it keeps them in another folder.
        """
        found = self.named(name)
        if found.output == output:
            return found
        here = campaigns.c.id == found.id
        with self._database.writing() as connection:
            connection.execute(update(campaigns).where(here).values(quota=campaigns.c.quota))  # locks it
            known = self._find(connection, name) or found
            self._check_output(connection, known, output, worker, now - lease)
            connection.execute(update(campaigns).where(here).values(output=output))
        return evolve(known, output=output)

    def starts_more(self, campaign: Campaign) -> bool:
        """
        Whether rows are left to start, and nobody has said that they are not to be.
        """
        if campaign.stop:
            return False
        pending = select(rows.c.key).where(rows.c.campaign == campaign.id, rows.c.state == RowState.PENDING.value)
        with self._database.reading() as connection:
            return connection.execute(pending.limit(1)).first() is not None

    def stop(self, name: str, how: Stop) -> None:
        """
        Put a person's word on record.

        Raises:
            InvalidSettings: There is no such campaign.
        """
        campaign = self.named(name)
        with self._database.writing() as connection:
            connection.execute(update(campaigns).where(campaigns.c.id == campaign.id).values(stop=how))

    def purge(self, name: str) -> int:
        """
        Forget a campaign: all but the ledger's entries and the files. Returns how many rows it had.

        Raises:
            InvalidSettings: There is no such campaign, or it has unfinished rows, or rows of unknown fate.
        """
        campaign = self.named(name)
        open_states = [state.value for state in (*UNFINISHED, RowState.UNKNOWN) if state is not RowState.PENDING]
        with self._database.writing() as connection:
            connection.execute(update(campaigns).where(campaigns.c.id == campaign.id).values(stop="DRAIN"))
            unfinished = connection.scalar(
                select(func.count()).where(rows.c.campaign == campaign.id, rows.c.state.in_(open_states))
            )
            if unfinished:
                raise InvalidSettings(
                    f"Campaign {name} has {unfinished} rows in flight, yet to be kept or of unknown fate: nothing was"
                    " purged."
                )
            count = connection.execute(delete(rows).where(rows.c.campaign == campaign.id)).rowcount
            for table in (slices, parts, workers, requests):
                connection.execute(delete(table).where(table.c.campaign == campaign.id))
            connection.execute(delete(campaigns).where(campaigns.c.id == campaign.id))
        return count

    def _check_output(
        self, connection: Connection, found: Campaign, output: str | None, worker: str, silent_since: float
    ) -> None:
        """
        The manifest names files of one folder: a campaign that has some, or that others work on, stays in it.
        """
        if output is None or found.output is None or is_same(output, found.output):
            return
        kept = select(parts.c.id).where(parts.c.campaign == found.id, parts.c.committed)
        others = _others(found, worker, silent_since)
        if connection.scalar(select(or_(kept.exists(), others.exists()))):
            raise InvalidSettings(
                f"Campaign {found.name} keeps its results in {found.output.removesuffix(f'/{found.name}')}: give that"
                " folder, or give another one a campaign of its own."
            )

    def _check_quota(
        self, connection: Connection, found: Campaign, quota: str, worker: str, silent_since: float
    ) -> None:
        """
        What runs counts in the campaign's quota: who works under the former one would not see it any more, and start
        beyond every limit.
        """
        if quota != found.quota and connection.scalar(select(_others(found, worker, silent_since).exists())):
            raise InvalidSettings(
                f"Others work on campaign {found.name} under the quota {found.quota}: give that one, or wait for their"
                " end."
            )

    def _find(self, connection: Connection, name: str) -> Campaign | None:
        query = select(campaigns).where(campaigns.c.namespace == self._namespace, campaigns.c.name == name)
        row = connection.execute(query).one_or_none()
        return None if row is None else _campaign(dict(row._mapping))


def _others(found: Campaign, worker: str, silent_since: float) -> Select[Any]:
    return select(workers.c.name).where(
        workers.c.campaign == found.id, workers.c.name != worker, workers.c.seen_at > silent_since
    )


def _campaign(row: Mapping[str, Any]) -> Campaign:
    return Campaign(**row)


__all__ = ["Campaign", "Campaigns", "Stop"]
