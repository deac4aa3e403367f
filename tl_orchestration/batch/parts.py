"""
Files of results. A part is on record before it is written, and durable before its rows are.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import frozen
from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from tl_orchestration.batch.places import Place
from tl_orchestration.batch.states import RowState
from tl_orchestration.database.engine import Database
from tl_orchestration.database.tables import parts, rows, workers
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.result_file import encoded

Format = Literal["jsonl", "parquet"]
#: Owner of a part that is being removed; a worker's name is never empty.
_SWEPT = ""
_OPEN = tuple(
    state.value for state in (RowState.PENDING, RowState.STARTED, RowState.ENDED, RowState.UNKNOWN, RowState.INVALID)
)


@frozen(kw_only=True)
class Outcome:
    """
    What is kept of a row that has come to its end.

    Args:
        values: Columns of its row, besides the state.
        line: As a line of the part, without the result.
        result: JSON text of the result; None: there is none.
    """

    key: str
    attempt: int
    state: RowState
    values: Mapping[str, Any]
    line: Mapping[str, Any]
    result: bytes | None


class Parts:
    """
    Writes the outcomes of one worker.

    Args:
        folder: Where the files go; None: outcomes are recorded without any.
    """

    def __init__(self, database: Database, campaign: int, worker: str, folder: Place | None, form: Format) -> None:
        self._database = database
        self._campaign = campaign
        self._worker = worker
        self._folder = folder
        self._format = form

    def keep(self, outcomes: Sequence[Outcome], now: float) -> int:
        """
        Write a part, then record the outcomes of its rows with their places in it. Rows whose outcome somebody else has
        recorded meanwhile are left out. Returns how many were recorded.

        Raises:
            StorageFailed, LedgerError: Nothing of it is recorded.
        """
        left = list(outcomes)
        while left:
            written = None if self._folder is None else self._write(left, now)
            taken = self._commit(left, written)
            if taken is None:
                return len(left)
            left = [one for one in left if one.key not in taken]
            self.discard(written)
        return 0

    def sweep(self, now: float, lease: float) -> None:
        """
        Remove what dead workers have written and nobody has recorded. Whoever lives all the same cannot record it any
        more.
        """
        if self._folder is None:
            return
        living = select(workers.c.name).where(workers.c.campaign == self._campaign, workers.c.seen_at > now - lease)
        left = (
            (parts.c.campaign == self._campaign)
            & parts.c.committed.is_(False)
            & or_(parts.c.owner == self._worker, ~parts.c.owner.in_(living))
        )
        with self._database.reading() as connection:
            if not connection.execute(select(parts.c.id).where(left).limit(1)).first():
                return
        with self._database.writing() as connection:
            names = list(connection.scalars(update(parts).where(left).values(owner=_SWEPT).returning(parts.c.name)))
        for name in names:
            self.discard((0, name, {}))

    def discard(self, written: tuple[int, str, Mapping[str, Any]] | None) -> None:
        """
        Remove a part that was never recorded.
        """
        if written is None or self._folder is None:
            return
        (self._folder / written[1]).remove()
        with self._database.writing() as connection:
            connection.execute(
                delete(parts).where(
                    parts.c.campaign == self._campaign, parts.c.name == written[1], parts.c.committed.is_(False)
                )
            )

    def _write(self, outcomes: Sequence[Outcome], now: float) -> tuple[int, str, Mapping[str, Any]]:
        name = f"part-{uuid.uuid4().hex}.{self._format}"
        with self._database.writing() as connection:
            number: int = connection.execute(
                insert(parts)
                .values(campaign=self._campaign, name=name, owner=self._worker, committed=False, created_at=now)
                .returning(parts.c.id)
            ).scalar_one()
        content = _as_lines(outcomes) if self._format == "jsonl" else _as_parquet(outcomes)
        assert self._folder is not None
        (self._folder / name).write(content)
        described = {"rows": len(outcomes), "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return number, name, described

    def _commit(
        self, outcomes: Sequence[Outcome], written: tuple[int, str, Mapping[str, Any]] | None
    ) -> frozenset[str] | None:
        """
        None, if all was recorded; else nothing was, and these rows are with somebody else. Where there are none, the
        part has been removed.
        """
        mine = rows.c.campaign == self._campaign
        statement = (
            update(rows)
            .where(mine, rows.c.key == bindparam("b_key"), rows.c.attempt == bindparam("b_attempt"))
            .values(
                state=bindparam("b_state"),
                owner=None,
                part=bindparam("b_part"),
                line=bindparam("b_line"),
                **{name: bindparam(f"b_{name}") for name in outcomes[0].values},
            )
        )
        with self._database.writing() as connection:
            wanted = {(one.key, one.attempt) for one in outcomes}
            keys = [one.key for one in outcomes]
            # Locks them, so that what is read next stays true.
            connection.execute(update(rows).where(mine, rows.c.key.in_(keys)).values(attempt=rows.c.attempt))
            open_rows = select(rows.c.key, rows.c.attempt).where(mine, rows.c.key.in_(keys), rows.c.state.in_(_OPEN))
            taken = wanted - {(row.key, row.attempt) for row in connection.execute(open_rows)}
            if taken:
                return frozenset(key for key, _ in taken)
            if written is not None:
                number, _, described = written
                own = (parts.c.id == number) & (parts.c.owner == self._worker)
                if not connection.execute(update(parts).where(own).values(committed=True, **described)).rowcount:
                    return frozenset()  # swept: this worker was taken for dead while it wrote
            connection.execute(
                statement,
                [
                    {
                        **{f"b_{name}": value for name, value in one.values.items()},
                        "b_key": one.key,
                        "b_attempt": one.attempt,
                        "b_state": one.state.value,
                        "b_part": None if written is None else written[0],
                        "b_line": None if written is None else line,
                    }
                    for line, one in enumerate(outcomes)
                ],
            )
        return None


def committed(database: Database, campaign: int) -> list[dict[str, Any]]:
    """
    The parts of a campaign: name, rows, size, SHA-256.
    """
    query = (
        select(parts.c.name, parts.c.rows, parts.c.size, parts.c.sha256)
        .where(parts.c.campaign == campaign, parts.c.committed)
        .order_by(parts.c.id)
    )
    with database.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def revisions(database: Database, campaign: int) -> dict[str, int]:
    """
    How many rows ran which revision of the definition.
    """
    query = select(rows.c.revision, func.count()).where(rows.c.campaign == campaign).group_by(rows.c.revision)
    with database.reading() as connection:
        return {revision: count for revision, count in connection.execute(query) if revision is not None}


def _as_lines(outcomes: Sequence[Outcome]) -> bytes:
    content = io.BytesIO()
    for one in outcomes:
        content.write(encoded(one.line)[:-1] + b', "result": ' + (one.result or b"null") + b"}\n")
    return content.getvalue()


def _as_parquet(outcomes: Sequence[Outcome]) -> bytes:
    try:
        import pyarrow  # type: ignore[import-untyped]  # it has no types
        from pyarrow import parquet
    except ImportError:
        raise InvalidSettings("Parquet needs an extra: pip install 'tl-orchestration[batch]'.") from None
    lines = [{**one.line, "result": None if one.result is None else one.result.decode()} for one in outcomes]
    content = io.BytesIO()
    schema = pyarrow.schema([(name, _ARROW.get(name, "string")) for name in lines[0]])
    parquet.write_table(pyarrow.Table.from_pylist(lines, schema), content)
    return content.getvalue()


_ARROW = {"attempt": "int32", "started_at": "float64", "ended_at": "float64"}

__all__ = ["Format", "Outcome", "Parts", "committed", "revisions"]
