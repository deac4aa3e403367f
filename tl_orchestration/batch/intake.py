"""
One pass over a source on record: slices and rows, one transaction for each portion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, select, update

from tl_orchestration.batch.campaigns import Campaign
from tl_orchestration.batch.states import RowState
from tl_orchestration.batch.summary import LoadReport
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import campaigns, rows, slices
from tl_orchestration.errors import LedgerError
from tl_orchestration.fingerprint import Fingerprint

CHANGED = "changed after it had started"
CONFLICT = "several different records have this key"
WITHDRAWN = "the source no longer has it"
#: States in which a row has never been started, so that another record may take its place.
_REPLACEABLE = (RowState.PENDING, RowState.INVALID, RowState.REJECTED)


@frozen
class Incoming:
    """
    A record that can be run.
    """

    row: int
    key: str
    fingerprint: Fingerprint


@define
class Tally:
    """
    What became of a portion's records.
    """

    collapsed: int = 0
    changed: list[Incoming] = field(factory=list)
    conflicting: list[Incoming] = field(factory=list)


class Intake:
    """
    Writes what one loader reads.

    Args:
        campaign: As it was opened for loading.
        loader: The name under which it was.
    """

    def __init__(self, database: Database, campaign: Campaign, loader: str) -> None:
        self._database = database
        self._campaign = campaign
        self._loader = loader

    def take(self, locator: Mapping[str, Any], incoming: Sequence[Incoming], now: float) -> Tally:
        """
        Put a portion on record.

        Raises:
            LedgerError: Another process has taken the loading over, or the database cannot be written.
        """
        tally = Tally()
        with self._database.writing() as connection:
            self._hold(connection, {"loader_seen_at": now})
            slice_id = connection.execute(
                insert(slices)
                .values(
                    campaign=self._campaign.id,
                    load=self._campaign.load,
                    locator=dict(locator),
                    open=True,
                    due_at=0,
                )
                .returning(slices.c.id)
            ).scalar_one()
            known = self._known(connection, [one.key for one in incoming])
            new: dict[str, dict[str, Any]] = {}
            changes: list[dict[str, Any]] = []
            for one in incoming:
                found = new.get(one.key) or known.get(one.key)
                if found is None:
                    new[one.key] = self._new(one, slice_id)
                elif found["load"] == self._campaign.load:
                    self._again(found, one, tally)
                    if one.key in known:
                        changes.append(found)
                else:
                    self._renew(found, one, slice_id, tally)
                    changes.append(found)
            if new:
                connection.execute(insert(rows), list(new.values()))
            if changes:
                self._change(connection, changes)
        return tally

    def finish(self, source: str, report: LoadReport, now: float) -> tuple[int, int]:
        """
        End the pass: from now on rows can be started. Returns how many can, and how many were withdrawn.
        """
        mine = rows.c.campaign == self._campaign.id
        former = mine & (rows.c.load < self._campaign.load) & (rows.c.state == RowState.PENDING.value)
        with self._database.writing() as connection:
            self._hold(connection, {"loader_seen_at": now})
            withdrawn = connection.execute(
                update(rows).where(former).values(state=RowState.INVALID.value, reason=WITHDRAWN)
            ).rowcount
            accepted = connection.scalar(
                select(func.count()).where(
                    mine, rows.c.load == self._campaign.load, rows.c.state != RowState.INVALID.value
                )
            )
            connection.execute(
                delete(slices).where(slices.c.campaign == self._campaign.id, slices.c.load < self._campaign.load)
            )
            whole = report.to_dict() | {"accepted": accepted, "withdrawn": withdrawn}
            self._hold(connection, {"source": source, "report": whole, "loader": None})
        return accepted or 0, withdrawn

    def beat(self, now: float) -> None:
        """
        Say that this loader lives. One that has lost the loading says nothing.

        Raises:
            LedgerError: The database cannot be written.
        """
        with self._database.writing() as connection:
            connection.execute(update(campaigns).where(self._held()).values(loader_seen_at=now))

    def give_up(self) -> None:
        """
        Leave the loading to whoever wants it. One that has lost it leaves nothing, also not to a later life of its own.
        """
        with self._database.writing() as connection:
            connection.execute(update(campaigns).where(self._held()).values(loader=None))

    def _hold(self, connection: Connection, values: Mapping[str, Any]) -> None:
        held = connection.execute(update(campaigns).where(self._held()).values(**values))
        if held.rowcount != 1:
            raise LedgerError(f"Another process has taken over to load campaign {self._campaign.name}.")

    def _held(self) -> ColumnElement[bool]:
        return and_(
            campaigns.c.id == self._campaign.id,
            campaigns.c.loader == self._loader,
            campaigns.c.load == self._campaign.load,
        )

    def _known(self, connection: Connection, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        wanted = ("key", "slice", "load", "state", "fingerprint", "fingerprint_key_id", "reason")
        query = select(*(rows.c[name] for name in wanted)).where(
            rows.c.campaign == self._campaign.id, rows.c.key.in_(sorted(set(keys)))
        )
        return {row.key: dict(row._mapping) | {"before": row.state} for row in connection.execute(query)}

    def _new(self, one: Incoming, slice_id: int) -> dict[str, Any]:
        return {
            "campaign": self._campaign.id,
            "key": one.key,
            "slice": slice_id,
            "load": self._campaign.load,
            "state": RowState.PENDING.value,
            "attempt": 1,
            "restart": False,
            "fingerprint": one.fingerprint.digest,
            "fingerprint_key_id": one.fingerprint.key_id,
            "polls": 0,
            "reason": None,
        }

    def _again(self, found: dict[str, Any], one: Incoming, tally: Tally) -> None:
        """
        A key that this pass has met before.
        """
        if not one.fingerprint.differs_from(found["fingerprint"], found["fingerprint_key_id"]):
            tally.collapsed += 1
            return
        if found["reason"] != CONFLICT:
            tally.conflicting.append(one)
        if found["state"] in _REPLACEABLE:
            found["state"], found["reason"] = RowState.INVALID.value, CONFLICT

    def _renew(self, found: dict[str, Any], one: Incoming, slice_id: int, tally: Tally) -> None:
        """
        A key that an earlier pass has met.
        """
        found["slice"], found["load"] = slice_id, self._campaign.load
        if found["state"] == RowState.INVALID:
            found["state"], found["reason"] = RowState.PENDING.value, None
        if found["state"] in _REPLACEABLE:
            found["fingerprint"], found["fingerprint_key_id"] = one.fingerprint.digest, one.fingerprint.key_id
        elif one.fingerprint.differs_from(found["fingerprint"], found["fingerprint_key_id"]):
            tally.changed.append(one)

    def _change(self, connection: Connection, changes: Sequence[Mapping[str, Any]]) -> None:
        """
        A row that a worker moves on meanwhile keeps the state that it has moved to; where it can be read again is
        changed all the same.
        """
        here = (rows.c.campaign == self._campaign.id) & (rows.c.key == bindparam("b_key"))
        place, record = ["slice", "load"], ["state", "fingerprint", "fingerprint_key_id", "reason"]
        unique = {change["key"]: change for change in changes}.values()
        replaceable = [change for change in unique if change["before"] in _REPLACEABLE]
        unmoved = here & (rows.c.state == bindparam("b_before"))
        for where, names, also, chosen in (
            (unmoved, [*place, *record], ["key", "before"], replaceable),
            (here & (rows.c.load != bindparam("b_load")), place, ["key"], unique),
        ):
            if chosen:
                values: dict[str, Any] = {name: bindparam(f"b_{name}") for name in names}
                given = [{f"b_{name}": one[name] for name in (*names, *also)} for one in chosen]
                connection.execute(update(rows).where(where).values(**values), given)


__all__ = ["CHANGED", "CONFLICT", "WITHDRAWN", "Incoming", "Intake", "Tally"]
