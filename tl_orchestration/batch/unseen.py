"""
Rows whose starts the ledger knows and their campaign does not: whoever started them has ended in between.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from sqlalchemy import literal, select

from tl_orchestration.batch.campaigns import Campaign
from tl_orchestration.batch.rows import Update
from tl_orchestration.batch.starting import ledger_key
from tl_orchestration.batch.states import RowState
from tl_orchestration.claim import may_be_starting
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import entries, rows, slices
from tl_orchestration.errors import StartOutcomeUnknown
from tl_orchestration.ledger.entry import UNDECIDED, Entry, State

#: In which rows may be whose starts are not on record.
BEFORE = (RowState.PENDING, RowState.INVALID)


def unseen(
    database: Database,
    campaign: Campaign,
    states: Collection[State],
    *,
    of: Collection[RowState] = BEFORE,
    keys: Collection[str] | None = None,
    claimed_by: str | None = None,
    under_way: bool = False,
) -> list[Update]:
    """
    What the rows have to be told: that they have started, or that they may have.

    Args:
        states: Of the ledger's entries.
        of: Only rows in these states.
        keys: Only these rows.
        claimed_by: Only rows of slices that this worker has claimed.
        under_way: Also announced starts that whoever announced them may still be at.

    Raises:
        LedgerError: The database cannot be reached.
    """
    query = (
        select(rows.c.key, rows.c.attempt, entries.c.document)
        .select_from(rows.join(entries, entries.c.key == literal(ledger_key(campaign.name, "")) + rows.c.key))
        .where(
            rows.c.campaign == campaign.id,
            rows.c.state.in_([state.value for state in of]),
            entries.c.namespace == campaign.namespace,
            entries.c.state.in_([state.value for state in states]),
        )
    )
    if keys is not None:
        query = query.where(rows.c.key.in_(sorted(keys)))
    if claimed_by is not None:
        mine = select(slices.c.id).where(slices.c.campaign == campaign.id, slices.c.owner == claimed_by)
        query = query.where(rows.c.slice.in_(mine))
    with database.reading() as connection:
        found = [(row.key, row.attempt, Entry.from_dict(row.document)) for row in connection.execute(query)]
    return [
        _update(key, attempt, entry)
        for key, attempt, entry in found
        if entry.belongs_to(str(attempt)) and _tells(entry, under_way=under_way)
    ]


def _tells(entry: Entry, *, under_way: bool) -> bool:
    """
    Whether something runs, or may run. Nothing does where whoever was to prepare a start has gone before it was sent.
    """
    if may_be_starting(entry, time.time(), fenced=False):
        return under_way
    return not (entry.state is State.INTENT and entry.preparing)


def _update(key: str, attempt: int, entry: Entry) -> Update:
    values: dict[str, Any] = {"execution_id": entry.execution_id, "reason": None}
    if entry.state in UNDECIDED or entry.execution_id is None:
        values["reason"] = StartOutcomeUnknown.__name__
        return Update(key=key, attempt=attempt, state=RowState.UNKNOWN, values=values)
    values |= {"deadline": entry.deadline, "expires_at": entry.expires_at, "started_at": entry.changed_at}
    return Update(key=key, attempt=attempt, state=RowState.STARTED, values=values)


__all__ = ["BEFORE", "unseen"]
