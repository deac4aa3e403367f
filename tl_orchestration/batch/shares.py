"""
What all workers of a quota share: executions in flight, the turn of the next request, the breaker.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Select, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tl_orchestration.batch.policy import Limits
from tl_orchestration.batch.states import RowState
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import campaigns, quotas, rows, workers

#: Executions in flight where nobody has said how many there may be.
DEFAULT_IN_FLIGHT = 500
#: Seconds until the first probe of an open breaker, and the longest time to the next one.
FIRST_PROBE = 30.0
LAST_PROBE = 300.0


@frozen(kw_only=True)
class Shared:
    """
    A quota as it stands.
    """

    in_flight: int
    requests_per_second: float | None
    failures: int
    probe_at: float | None


class Shares:
    """
    One quota.

    Args:
        namespace: Whose limits these are.
        name: The quota's name.
        lease: Seconds after which a silent worker's grants count no more.
    """

    def __init__(self, database: Database, namespace: str, name: str, lease: float) -> None:
        self._database = database
        self._namespace = namespace
        self._name = name
        self._lease = lease

    def agree(self, limits: Limits, requests_per_second: float | None) -> Shared:
        """
        Make the quota where there is none, and set what the limits say.

        Args:
            requests_per_second: Of the client, for a new quota.
        """
        insert = sqlite.insert(quotas) if self._database.is_sqlite else postgresql.insert(quotas)
        fresh = {
            "in_flight": DEFAULT_IN_FLIGHT,
            "requests_per_second": requests_per_second,
            "next_at": 0.0,
            "failures": 0,
            "probes": 0,
        }
        said = {
            name: value
            for name, value in (
                ("in_flight", limits.in_flight),
                ("requests_per_second", limits.requests_per_second),
            )
            if value is not None
        }
        with self._database.writing() as connection:
            row = insert.values(namespace=self._namespace, name=self._name, **(fresh | said))
            keys = ["namespace", "name"]
            connection.execute(
                row.on_conflict_do_update(index_elements=keys, set_=said)
                if said
                else row.on_conflict_do_nothing(index_elements=keys)
            )
            return self._read(connection)

    def look(self) -> Shared:
        """
        How it stands.
        """
        with self._database.reading() as connection:
            return self._read(connection)

    def grant(self, campaign: int, worker: str, wanted: int, now: float, most: int | None = None) -> int:
        """
        Reserve starts for a worker. Returns how many it may make.

        Args:
            most: Rows of the campaign that may ever be started; None: all.
        """
        with self._database.writing() as connection:
            self._lock(connection)
            room = self._read(connection).in_flight - self._used(connection, now)
            if most is not None:
                room = min(room, most - self._begun(connection, campaign, now))
            granted = max(0, min(wanted, room))
            if granted:
                connection.execute(
                    update(workers)
                    .where(workers.c.campaign == campaign, workers.c.name == worker)
                    .values(reserved=workers.c.reserved + granted)
                )
        return granted

    def used(self, campaign: int, now: float) -> tuple[int, int, int]:
        """
        Executions in flight and granted starts: of a campaign, of all; and how many there may be.
        """
        with self._database.reading() as connection:
            mine = self._used(connection, now, campaign)
            return mine, self._used(connection, now), self._read(connection).in_flight

    def begun(self, campaign: int, now: float) -> int:
        """
        Rows of a campaign that were ever started, or are about to be.
        """
        with self._database.reading() as connection:
            return self._begun(connection, campaign, now)

    def turns(self, count: int, now: float) -> tuple[float, float]:
        """
        Take the turns of so many requests. Returns when the first may leave (epoch seconds) and the seconds between
        them; at once and none where there is no limit.
        """
        with self._database.writing() as connection:
            self._lock(connection)
            rate, next_at = connection.execute(
                select(quotas.c.requests_per_second, quotas.c.next_at).where(self._here())
            ).one()
            begin = max(float(next_at), now)
            spacing = 0.0 if rate is None else 1.0 / float(rate)
            connection.execute(update(quotas).where(self._here()).values(next_at=begin + count * spacing))
        return begin, spacing

    def hold(self, until: float) -> None:
        """
        Let no request leave before a time: the service has asked for a pause.
        """
        with self._database.writing() as connection:
            connection.execute(update(quotas).where(self._here(), quotas.c.next_at < until).values(next_at=until))

    def held_until(self) -> float:
        """
        Until when no request may leave, epoch seconds, where there is no limit that has turns.
        """
        with self._database.reading() as connection:
            return float(connection.execute(select(quotas.c.next_at).where(self._here())).scalar_one())

    def failed(self, most: int, now: float) -> Shared:
        """
        A start had no good answer. From ``most`` of them in a row on, the breaker is open.
        """
        with self._database.writing() as connection:
            self._lock(connection)
            failures, probes = connection.execute(select(quotas.c.failures, quotas.c.probes).where(self._here())).one()
            values: dict[str, Any] = {"failures": failures + 1}
            if failures + 1 >= most:
                values["probe_at"] = now + min(LAST_PROBE, FIRST_PROBE * 2.0 ** min(probes, 10))
            connection.execute(update(quotas).where(self._here()).values(**values))
            return self._read(connection)

    def answered(self) -> None:
        """
        A start was answered well: the breaker is closed.
        """
        with self._database.writing() as connection:
            connection.execute(update(quotas).where(self._here()).values(failures=0, probe_at=None, probes=0))

    def probe(self, now: float) -> float | None:
        """
        Whether the caller is the one that may start one row now, although the breaker is open. If so: until when nobody
        else may, should nothing be heard of this one.
        """
        alone_until = now + LAST_PROBE
        with self._database.writing() as connection:
            taken = connection.execute(
                update(quotas)
                .where(self._here(), quotas.c.probe_at <= now)
                .values(probe_at=alone_until, probes=quotas.c.probes + 1)
            )
        return alone_until if taken.rowcount == 1 else None

    def unproven(self, alone_until: float, now: float, pause: float | None = None) -> None:
        """
        A probe is over. Unless it has failed or was answered well, another one follows soon, in place of it.

        Args:
            alone_until: What :meth:`probe` has said.
            pause: Seconds that the service has asked for.
        """
        again_at = now + min(LAST_PROBE, FIRST_PROBE if pause is None else pause)
        with self._database.writing() as connection:
            connection.execute(
                update(quotas)
                .where(self._here(), quotas.c.probe_at == alone_until)
                .values(probe_at=again_at, probes=quotas.c.probes - 1)
            )

    # What is reserved becomes running, or begun, while others count: only one statement sees each row once.

    def _used(self, connection: Connection, now: float, campaign: int | None = None) -> int:
        running = (
            select(func.count())
            .select_from(rows.join(campaigns, rows.c.campaign == campaigns.c.id))
            .where(
                campaigns.c.namespace == self._namespace,
                campaigns.c.quota == self._name,
                rows.c.state == RowState.STARTED.value,
            )
        )
        reserved = self._reserved(now)
        if campaign is not None:
            running, reserved = (
                running.where(rows.c.campaign == campaign),
                reserved.where(workers.c.campaign == campaign),
            )
        return self._sum(connection, running, reserved)

    def _begun(self, connection: Connection, campaign: int, now: float) -> int:
        never = [RowState.PENDING.value, RowState.INVALID.value]
        begun = select(func.count()).where(
            rows.c.campaign == campaign, or_(~rows.c.state.in_(never), rows.c.attempt > 1)
        )
        return self._sum(connection, begun, self._reserved(now).where(workers.c.campaign == campaign))

    def _reserved(self, now: float) -> Select[Any]:
        return select(func.coalesce(func.sum(workers.c.reserved), 0)).where(
            workers.c.namespace == self._namespace,
            workers.c.quota == self._name,
            workers.c.seen_at > now - self._lease,
        )

    def _sum(self, connection: Connection, one: Select[Any], other: Select[Any]) -> int:
        return int(connection.scalar(select(one.scalar_subquery() + other.scalar_subquery())) or 0)

    def _lock(self, connection: Connection) -> None:
        connection.execute(update(quotas).where(self._here()).values(failures=quotas.c.failures))

    def _read(self, connection: Connection) -> Shared:
        wanted = (quotas.c.in_flight, quotas.c.requests_per_second, quotas.c.failures, quotas.c.probe_at)
        found = connection.execute(select(*wanted).where(self._here())).one()
        return Shared(
            in_flight=found.in_flight or DEFAULT_IN_FLIGHT,
            requests_per_second=found.requests_per_second,
            failures=found.failures,
            probe_at=found.probe_at,
        )

    def _here(self) -> Any:
        return (quotas.c.namespace == self._namespace) & (quotas.c.name == self._name)


__all__ = ["DEFAULT_IN_FLIGHT", "FIRST_PROBE", "LAST_PROBE", "Shared", "Shares"]
