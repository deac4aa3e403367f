"""
A campaign in numbers, out of its tables.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, select

from tl_orchestration.batch.campaigns import Campaign
from tl_orchestration.batch.intake import CONFLICT, WITHDRAWN
from tl_orchestration.batch.states import WITH_RESULT, RowState
from tl_orchestration.batch.summary import BatchSummary
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import quotas, requests, rows


def survey(database: Database, campaign: Campaign) -> BatchSummary:
    """
    How a campaign stands.

    Raises:
        LedgerError: The database cannot be reached.
    """
    mine = rows.c.campaign == campaign.id
    with database.reading() as connection:
        counts: dict[RowState, int] = {}
        for state, count in connection.execute(select(rows.c.state, func.count()).where(mine).group_by(rows.c.state)):
            counts[RowState(state)] = count
        unread = 0
        if RowState.INVALID in counts:
            loaders = mine & (rows.c.state == RowState.INVALID.value) & rows.c.reason.in_((CONFLICT, WITHDRAWN))
            known = connection.scalar(select(func.count()).where(loaders)) or 0
            unread = counts[RowState.INVALID] - known
        spent: dict[str, int] = {}
        for operation, count in connection.execute(
            select(requests.c.operation, requests.c.count).where(requests.c.campaign == campaign.id)
        ):
            spent[operation] = count
        probe_at = connection.scalar(
            select(quotas.c.probe_at).where(quotas.c.namespace == campaign.namespace, quotas.c.name == campaign.quota)
        )
        slowest = connection.execute(
            select(rows.c.key, rows.c.started_at)
            .where(mine, rows.c.state == RowState.STARTED.value, rows.c.started_at.is_not(None))
            .order_by(rows.c.started_at)
            .limit(1)
        ).one_or_none()
    return BatchSummary(
        campaign=campaign.name,
        counts=counts,
        requests=spent,
        unread=unread,
        load=campaign.loaded,
        stop=campaign.stop,
        breaker_open=probe_at is not None,
        output=campaign.output,
        slowest=None if slowest is None else (slowest.key, slowest.started_at),
    )


def polls_p95(database: Database, campaign: int) -> int | None:
    """
    Polls of a row that has ended, 95th percentile.
    """
    query: Any = (
        select(rows.c.polls, func.count())
        .where(rows.c.campaign == campaign, rows.c.ended_at.is_not(None))
        .group_by(rows.c.polls)
        .order_by(rows.c.polls)
    )
    with database.reading() as connection:
        histogram = [(polls, count) for polls, count in connection.execute(query)]
    total, seen = sum(count for _, count in histogram), 0
    for polls, count in histogram:
        seen += count
        if seen >= 0.95 * total:
            return int(polls)
    return None


def started_since(database: Database, campaign: Campaign, at: float) -> bool:
    """
    Whether a row was started since then, epoch seconds.
    """
    query = select(rows.c.key).where(rows.c.campaign == campaign.id, rows.c.started_at >= at).limit(1)
    with database.reading() as connection:
        return connection.execute(query).first() is not None


def unkept(campaign: Campaign) -> ColumnElement[bool]:
    """
    Which rows have a result that is in no part, because they ended in a run without the campaign's folder.
    """
    ended = rows.c.state.in_([state.value for state in WITH_RESULT])
    return (rows.c.campaign == campaign.id) & ended & rows.c.part.is_(None)


def count_unkept(database: Database, campaign: Campaign) -> int:
    """
    How many these are; none where the campaign has no folder.
    """
    if campaign.output is None:
        return 0
    with database.reading() as connection:
        return connection.scalar(select(func.count()).where(unkept(campaign))) or 0


__all__ = ["count_unkept", "polls_p95", "started_since", "survey", "unkept"]
