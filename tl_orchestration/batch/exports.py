"""
Every row of a campaign, as far as the store knows it: for an auditor's table, without any result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import select

from tl_orchestration.batch.states import RowState
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import parts, rows

_PORTION = 1000
_COLUMNS = (
    "key",
    "state",
    "attempt",
    "execution_id",
    "status",
    "raw_status",
    "revision",
    "reason",
    "started_at",
    "ended_at",
    "polls",
    "line",
)


def exported(database: Database, campaign: int, states: Collection[RowState] = ()) -> Iterator[dict[str, Any]]:
    """
    The rows in the order of their keys, each with the file and the line (from 0) of its result.

    Args:
        states: Only rows in these; none: all.

    Raises:
        LedgerError: The database cannot be reached.
    """
    query = (
        select(*(rows.c[name] for name in _COLUMNS), parts.c.name.label("part"))
        .select_from(rows.outerjoin(parts, rows.c.part == parts.c.id))
        .where(rows.c.campaign == campaign)
        .order_by(rows.c.key)
        .limit(_PORTION)
    )
    if states:
        query = query.where(rows.c.state.in_([state.value for state in states]))
    after = ""
    while True:
        with database.reading() as connection:
            portion = [dict(found._mapping) for found in connection.execute(query.where(rows.c.key > after))]
        yield from portion
        if len(portion) < _PORTION:
            return
        after = portion[-1]["key"]


__all__ = ["exported"]
