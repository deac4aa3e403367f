"""
An explicit retry: rows go back to where they can be started, with an attempt of their own, or to where their results
are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, String, cast, exists, select, update

from tl_orchestration.batch.campaigns import Campaign
from tl_orchestration.batch.intake import WITHDRAWN
from tl_orchestration.batch.starting import ledger_key
from tl_orchestration.batch.states import FAILURES, RowState
from tl_orchestration.batch.surveys import unkept
from tl_orchestration.database.tables import entries, rows, slices
from tl_orchestration.errors import InvalidSettings, NotFound
from tl_orchestration.ledger.entry import UNDECIDED, State
from tl_orchestration.ledger.sql import SqlLedger, find

_POSSIBLE = frozenset({*FAILURES, RowState.REJECTED, RowState.UNKNOWN})
_PORTION = 500


def retry(ledger: SqlLedger, campaign: Campaign, states: frozenset[RowState], *, restart: bool) -> int:
    """
    Returns how many rows can be started again, have their results asked for again, or are followed again.

    Args:
        restart: Take every row of unknown fate; else only those that a person has said something about.

    Raises:
        InvalidSettings: A state cannot be retried.
    """
    if wrong := sorted(states - _POSSIBLE):
        raise InvalidSettings(f"Rows cannot be retried from {', '.join(wrong)}.")
    readable = exists().where(slices.c.id == rows.c.slice)
    mine = (rows.c.campaign == campaign.id) & readable
    count = 0
    with ledger.database.writing() as connection:
        if RowState.RESULT_MISSING in states:
            count += _asked_again(connection, campaign, states)
        known = [state.value for state in states - {RowState.RESULT_MISSING, RowState.UNKNOWN}]
        if known:
            count += _again(connection, ledger, campaign, mine & rows.c.state.in_(known), attempt=1, restart=False)
        if RowState.UNKNOWN in states:
            unknown = mine & (rows.c.state == RowState.UNKNOWN.value)
            judged = _judged(connection, ledger, campaign, unknown, restart=restart)
            count += _without_source(connection, ledger, campaign, readable)
            for begin in range(0, len(judged), _PORTION):
                chosen = unknown & rows.c.key.in_(judged[begin : begin + _PORTION])
                count += _again(connection, ledger, campaign, chosen, attempt=0, restart=False)
            if restart:
                count += _again(connection, ledger, campaign, unknown, attempt=1, restart=True)
    return count


def _asked_again(connection: Connection, campaign: Campaign, states: frozenset[RowState]) -> int:
    """
    Results that the service did not give, and those that a campaign with a folder for them has not kept. Rows in the
    other states that a person names are started again instead.
    """
    ended = {"state": RowState.ENDED.value, "owner": None}
    missing = (rows.c.campaign == campaign.id) & (rows.c.state == RowState.RESULT_MISSING.value)
    back = {**ended, "reason": None, "part": None, "line": None}
    count = connection.execute(update(rows).where(missing).values(**back)).rowcount
    if campaign.output is not None:
        left = unkept(campaign) & rows.c.state.not_in([state.value for state in states])
        count += connection.execute(update(rows).where(left).values(**ended)).rowcount
    return count


def _judged(
    connection: Connection, ledger: SqlLedger, campaign: Campaign, unknown: ColumnElement[bool], *, restart: bool
) -> Sequence[str]:
    """
    Rows of unknown fate about which the ledger knows better by now.

    Args:
        restart: It has to know an end of those whose execution the service did not know any more.
    """
    found_unknown = connection.execute(select(rows.c.key, rows.c.reason).where(unknown)).all()
    ended = {State.REJECTED, State.SETTLED}
    decided = ended | {State.STARTED, State.LINK_DELIVERED, State.CANCEL_REQUESTED}
    found = []
    for key, reason in found_unknown:
        entry = find(connection, ledger.namespace, ledger_key(campaign.name, key))
        known = ended if restart and reason == NotFound.__name__ else decided
        if entry is None or entry.state in known:
            found.append(key)
    return found


def _without_source(
    connection: Connection, ledger: SqlLedger, campaign: Campaign, readable: ColumnElement[bool]
) -> int:
    """
    Rows of unknown fate that the source no longer has, and about which the ledger knows better by now: what was started
    is followed, for which no source is needed; the others are withdrawn. Returns how many are followed.
    """
    mine = (rows.c.campaign == campaign.id) & (rows.c.state == RowState.UNKNOWN.value)
    followed = 0
    for (key,) in connection.execute(select(rows.c.key).where(mine, ~readable)).all():
        entry = find(connection, ledger.namespace, ledger_key(campaign.name, key))
        this = update(rows).where(mine, rows.c.key == key)
        if entry is None or entry.state is State.REJECTED:
            connection.execute(this.values(state=RowState.INVALID.value, reason=WITHDRAWN))
        elif entry.state not in UNDECIDED and entry.execution_id is not None:
            begun = {"execution_id": entry.execution_id, "deadline": entry.deadline, "expires_at": entry.expires_at}
            connection.execute(this.values(state=RowState.STARTED.value, owner=None, reason=None, **begun))
            followed += 1
    return followed


def _again(
    connection: Connection,
    ledger: SqlLedger,
    campaign: Campaign,
    chosen: ColumnElement[bool],
    *,
    attempt: int,
    restart: bool,
) -> int:
    _catch_up(connection, ledger, campaign, chosen)
    affected = select(rows.c.slice).where(chosen).distinct()
    connection.execute(
        update(slices).where(slices.c.campaign == campaign.id, slices.c.id.in_(affected)).values(open=True, due_at=0)
    )
    return connection.execute(
        update(rows)
        .where(chosen)
        .values(
            state=RowState.PENDING.value,
            attempt=rows.c.attempt + attempt,
            restart=restart,
            owner=None,
            execution_id=None,
            deadline=None,
            expires_at=None,
            started_at=None,
            ended_at=None,
            status=None,
            raw_status=None,
            revision=None,
            reason=None,
            polls=0,
            part=None,
            line=None,
        )
    ).rowcount


def _catch_up(connection: Connection, ledger: SqlLedger, campaign: Campaign, chosen: ColumnElement[bool]) -> None:
    """
    Rows of a campaign that was purged have gone on with the last attempt of its former life. Give them its number, so
    that the ledger takes the next one for another.
    """
    behind = (
        select(rows.c.key, rows.c.attempt, entries.c.generation)
        .join(entries, entries.c.key == ledger_key(campaign.name, "") + rows.c.key)
        .where(chosen, entries.c.namespace == ledger.namespace, entries.c.generation != cast(rows.c.attempt, String))
    )
    for key, attempt, generation in connection.execute(behind).all():
        if generation.isdecimal() and int(generation) > attempt:
            row = (rows.c.campaign == campaign.id) & (rows.c.key == key)
            connection.execute(update(rows).where(row).values(attempt=int(generation)))


__all__ = ["retry"]
