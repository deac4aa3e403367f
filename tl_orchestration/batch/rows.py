"""
The rows of a campaign from a worker's side: slices to start, executions to watch, outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, bindparam, case, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tl_orchestration.batch.states import RowState
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import campaigns, requests, rows, slices, workers

#: Which states a row may be in before it comes into another one. One that another pass over the source has taken out
#: while it was being started has started all the same.
_BEFORE = {
    RowState.STARTED: (RowState.PENDING, RowState.UNKNOWN, RowState.INVALID),
    RowState.ENDED: (RowState.PENDING, RowState.STARTED, RowState.UNKNOWN, RowState.INVALID),
    RowState.REJECTED: (RowState.PENDING,),
    RowState.INVALID: (RowState.PENDING,),
    RowState.UNKNOWN: (RowState.PENDING, RowState.STARTED, RowState.INVALID),
}
#: What an update may write, besides the state.
_FIELDS = (
    "execution_id",
    "api_version",
    "deadline",
    "expires_at",
    "started_at",
    "ended_at",
    "status",
    "raw_status",
    "revision",
    "reason",
    "polls",
)


@frozen(kw_only=True)
class Row:
    """
    One row of the table.
    """

    key: str
    state: RowState
    attempt: int
    restart: bool
    fingerprint: str
    fingerprint_key_id: str
    execution_id: str | None
    api_version: int | None
    deadline: float | None
    expires_at: float | None
    started_at: float | None
    ended_at: float | None
    status: str | None
    raw_status: str | None
    revision: str | None
    reason: str | None
    polls: int


@frozen
class Claimed:
    """
    A slice that this worker may start, as one pass over the source, ``load``, has made it.
    """

    id: int
    load: int
    locator: Mapping[str, Any]
    rows: Sequence[Row]


@frozen(kw_only=True)
class Update:
    """
    What has become of a row: the state, and what is known besides.
    """

    key: str
    attempt: int
    state: RowState
    values: Mapping[str, Any]


class Rows:
    """
    Args:
        campaign: Its number.
        worker: Who asks.
        lease: Seconds after which a silent worker has lost what it owns.
    """

    def __init__(self, database: Database, campaign: int, worker: str, lease: float) -> None:
        self._database = database
        self._campaign = campaign
        self._worker = worker
        self._lease = lease

    @property
    def lease(self) -> float:
        return self._lease

    def enter(self, namespace: str, quota: str, now: float) -> None:
        """
        Begin to work. The slices that a former life of this worker has left are free again; its rows are still its own.
        """
        insert = sqlite.insert(workers) if self._database.is_sqlite else postgresql.insert(workers)
        fresh = {"namespace": namespace, "quota": quota, "seen_at": now, "reserved": 0}
        with self._database.writing() as connection:
            connection.execute(
                insert.values(campaign=self._campaign, name=self._worker, **fresh).on_conflict_do_update(
                    index_elements=["campaign", "name"], set_=fresh
                )
            )
            self._let_go(connection)

    def beat(self, now: float | None, spent: Mapping[str, int]) -> None:
        """
        Say that this worker lives, and which requests it has sent since it last said so; None: only the latter.
        """
        insert = sqlite.insert(requests) if self._database.is_sqlite else postgresql.insert(requests)
        with self._database.writing() as connection:
            if now is not None:
                connection.execute(self._me().values(seen_at=now))
            for operation, count in sorted(spent.items()):
                added = insert.values(campaign=self._campaign, operation=operation, count=count)
                connection.execute(
                    added.on_conflict_do_update(
                        index_elements=["campaign", "operation"], set_={"count": requests.c.count + count}
                    )
                )

    def leave(self, now: float, *, returns: bool) -> None:
        """
        End to work. What is in flight keeps this worker's name, so that it can still be cancelled as this worker's; it
        is free for others at once, unless this one ``returns`` within its lease.
        """
        with self._database.writing() as connection:
            connection.execute(self._me().values(seen_at=now if returns else 0, reserved=0))
            self._let_go(connection, [RowState.ENDED])

    def leave_to_others(self, now: float) -> bool:
        """
        End to work if another worker of this campaign lives, who then knows that this one does not. Two that ask at
        once do not leave it to one another.
        """
        with self._database.writing() as connection:
            mine = campaigns.c.id == self._campaign
            connection.execute(update(campaigns).where(mine).values(quota=campaigns.c.quota))  # one after the other
            if not connection.execute(self._others(now)).first():
                return False
            connection.execute(self._me().values(seen_at=0))
            return True

    def claim(self, now: float, *, retried_first: bool = False) -> Claimed | None:
        """
        A slice with rows that are not started, and that nobody else is at; None if there is none now. Rows that are to
        be started once more come first.

        Args:
            retried_first: Prefer a slice that has such rows.
        """
        wanted = self._free_slices(now)
        if retried_first:
            retried = exists().where(
                rows.c.campaign == self._campaign,
                rows.c.slice == slices.c.id,
                rows.c.state == RowState.PENDING.value,
                rows.c.attempt > 1,
            )
            wanted = wanted.order_by(case((retried, 0), else_=1))
        wanted = wanted.order_by(slices.c.id).limit(1)
        with self._database.writing() as connection:
            if self._database.is_sqlite:
                connection.execute(self._me().values(seen_at=now))  # takes the lock before anything is read
            else:
                wanted = wanted.with_for_update(skip_locked=True)
            chosen = connection.scalar(wanted)
            if chosen is None:
                return None
            load, locator = connection.execute(
                update(slices)
                .where(slices.c.id == chosen)
                .values(owner=self._worker)
                .returning(slices.c.load, slices.c.locator)
            ).one()
            query = _select(self._campaign).where(rows.c.slice == chosen, rows.c.state == RowState.PENDING.value)
            found = _read(connection, query.order_by(rows.c.key))
            return Claimed(chosen, load, locator or {}, sorted(found, key=lambda row: row.attempt == 1))

    def release(self, slice_id: int, due_at: float) -> None:
        """
        Let a slice go; it stays open while it has rows that are not started.
        """
        left = exists().where(
            rows.c.campaign == self._campaign, rows.c.slice == slice_id, rows.c.state == RowState.PENDING.value
        )
        with self._database.writing() as connection:
            connection.execute(
                update(slices)
                .where(slices.c.id == slice_id, slices.c.owner == self._worker)
                .values(owner=None, open=left, due_at=due_at)
            )

    def record(self, updates: Iterable[Update], unreserved: int) -> None:
        """
        Put on record what has become of rows, in one transaction. A row that is further already stays as it is.

        Args:
            unreserved: Starts that were granted and have come to something.
        """
        groups: dict[RowState, list[Update]] = {}
        for one in updates:
            groups.setdefault(one.state, []).append(one)
        with self._database.writing() as connection:
            connection.execute(self._me().values(reserved=_at_least_zero(workers.c.reserved - unreserved)))
            for state, group in groups.items():
                for names in {tuple(one.values) for one in group}:
                    alike = [one for one in group if tuple(one.values) == names]
                    connection.execute(self._to(state, names), [_bound(one) for one in alike])

    def _to(self, state: RowState, names: Sequence[str]) -> Any:
        owner = self._worker if state in {RowState.STARTED, RowState.ENDED} else None
        return (
            update(rows)
            .where(
                rows.c.campaign == self._campaign,
                rows.c.key == bindparam("b_key"),
                rows.c.attempt == bindparam("b_attempt"),
                or_(*(rows.c.state == before.value for before in _BEFORE[state])),
            )
            .values(state=state.value, owner=owner, **{name: bindparam(f"b_{name}") for name in names})
        )

    def adopt(
        self,
        now: float,
        limit: int,
        states: Sequence[RowState],
        *,
        grace: float | None = None,
        own_after: str | None = None,
    ) -> list[Row]:
        """
        Rows in these states that no living worker takes care of. They are this worker's now.

        Args:
            grace: Also this worker's own in flight, and those of nobody, whose deadline has passed, or whose expiry has
                for so long.
            own_after: Only this worker's own, with keys behind this one: what a former life of it has left.
        """
        free = or_(rows.c.owner.is_(None), ~rows.c.owner.in_(self._living(now)))
        if own_after is not None:
            free, grace = (rows.c.owner == self._worker) & (rows.c.key > own_after), None
        wanted = free & rows.c.state.in_([state.value for state in states])
        if grace is not None:
            ends = or_(rows.c.deadline <= now, rows.c.expires_at <= now - grace)
            wanted |= (free | (rows.c.owner == self._worker)) & (rows.c.state == RowState.STARTED.value) & ends
        chosen = select(rows.c.key).where(rows.c.campaign == self._campaign, wanted).order_by(rows.c.key).limit(limit)
        with self._database.reading() as connection:
            if not connection.execute(chosen.limit(1)).first():
                return []
        with self._database.writing() as connection:
            if self._database.is_sqlite:
                connection.execute(self._me().values(seen_at=now))
            else:
                chosen = chosen.with_for_update(skip_locked=True)
            keys = list(connection.scalars(chosen))
            mine = (rows.c.campaign == self._campaign) & rows.c.key.in_(keys)
            connection.execute(update(rows).where(mine).values(owner=self._worker))
            return _read(connection, _select(self._campaign).where(rows.c.key.in_(keys)).order_by(rows.c.key))

    def in_flight(self, limit: int, *, owner: str | None = None, after: str = "") -> list[Row]:
        """
        Rows whose executions are known to run, in the order of their keys.
        """
        query = _select(self._campaign).where(rows.c.state == RowState.STARTED.value, rows.c.key > after)
        if owner is not None:
            query = query.where(rows.c.owner == owner)
        with self._database.reading() as connection:
            return _read(connection, query.order_by(rows.c.key).limit(limit))

    def kept(self) -> Row | None:
        """
        The row whose result was kept last, by its execution's end; None where there is none.
        """
        query = _select(self._campaign).where(rows.c.state == RowState.SUCCEEDED.value, rows.c.part.is_not(None))
        with self._database.reading() as connection:
            found = _read(connection, query.order_by(rows.c.ended_at.desc()).limit(1))
        return found[0] if found else None

    def claimable(self, now: float) -> bool:
        """
        Whether :meth:`claim` would find a slice.
        """
        with self._database.reading() as connection:
            return connection.execute(self._free_slices(now).limit(1)).first() is not None

    def to_keep(self, now: float) -> bool:
        """
        Whether rows have ended whose outcomes no other living worker keeps.
        """
        others = self._living(now).where(workers.c.name != self._worker)
        query = select(rows.c.key).where(
            rows.c.campaign == self._campaign,
            rows.c.state == RowState.ENDED.value,
            or_(rows.c.owner.is_(None), ~rows.c.owner.in_(others)),
        )
        with self._database.reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def others(self, now: float) -> bool:
        """
        Whether another worker of this campaign lives.
        """
        with self._database.reading() as connection:
            return connection.execute(self._others(now)).first() is not None

    def _me(self) -> Any:
        return update(workers).where(workers.c.campaign == self._campaign, workers.c.name == self._worker)

    def _living(self, now: float) -> Any:
        return select(workers.c.name).where(workers.c.campaign == self._campaign, workers.c.seen_at > now - self._lease)

    def _others(self, now: float) -> Any:
        return self._living(now).where(workers.c.name != self._worker).limit(1)

    def _free_slices(self, now: float) -> Any:
        free = or_(slices.c.owner.is_(None), ~slices.c.owner.in_(self._living(now)))
        loaded = exists().where(campaigns.c.id == slices.c.campaign, campaigns.c.source != "")
        return select(slices.c.id).where(
            slices.c.campaign == self._campaign, slices.c.open, slices.c.due_at <= now, free, loaded
        )

    def _let_go(self, connection: Connection, states: Sequence[RowState] = ()) -> None:
        mine = (slices.c.campaign == self._campaign) & (slices.c.owner == self._worker)
        connection.execute(update(slices).where(mine).values(owner=None))
        mine = (rows.c.campaign == self._campaign) & (rows.c.owner == self._worker)
        named = [state.value for state in states]
        connection.execute(update(rows).where(mine, rows.c.state.in_(named)).values(owner=None))


def _select(campaign: int) -> Any:
    return select(rows).where(rows.c.campaign == campaign)


def _read(connection: Connection, query: Any) -> list[Row]:
    return [row_of(dict(found._mapping)) for found in connection.execute(query)]


def row_of(found: Mapping[str, Any]) -> Row:
    """
    A row from what the table has.
    """
    return Row(
        key=found["key"],
        state=RowState(found["state"]),
        attempt=found["attempt"],
        restart=found["restart"],
        fingerprint=found["fingerprint"],
        fingerprint_key_id=found["fingerprint_key_id"],
        polls=found["polls"],
        **{name: found[name] for name in _FIELDS if name != "polls"},
    )


def _bound(one: Update) -> dict[str, Any]:
    return {f"b_{name}": value for name, value in {**one.values, "key": one.key, "attempt": one.attempt}.items()}


def _at_least_zero(number: ColumnElement[int]) -> Any:
    return case((number > 0, number), else_=0)


__all__ = ["Claimed", "Row", "Rows", "Update", "row_of"]
