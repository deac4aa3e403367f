"""
From a claimed slice to requests: its records are read again, and compared with what was loaded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from attrs import define

from tl_orchestration.batch.columns import BadRow
from tl_orchestration.batch.policy import Book
from tl_orchestration.batch.rows import Claimed, Row, Update
from tl_orchestration.batch.sources import Record
from tl_orchestration.batch.states import RowState
from tl_orchestration.fingerprint import Fingerprint
from tl_orchestration.models import RunRequest

CHANGED = "the source has changed since it was loaded"
GONE = "the source no longer has it where it was"


@define(eq=False)
class Slice:
    """
    A slice under way.

    Args:
        id: Its number.
        load: The pass over the source that has made it.
        waiting: Rows to start.
        unread: Rows that cannot be, as the source is now.
        open: Rows whose start has not come to anything yet.
        due_at: When those that were put back are worth another try, epoch seconds.
    """

    id: int
    load: int
    waiting: deque[tuple[Row, RunRequest]]
    unread: Sequence[Update]
    open: int = 0
    due_at: float = 0.0


def opened(claimed: Claimed, book: Book, fingerprint: Callable[[RunRequest], Fingerprint]) -> Slice:
    """
    Read a slice's records again, and match them with its rows by their keys.

    Raises:
        StorageFailed: The source cannot be read.
    """
    records: dict[str, Record] = {}
    if not claimed.rows:
        return Slice(claimed.id, claimed.load, deque(), [])  # its source may be gone
    for record in book.source.again(claimed.locator, [row.key for row in claimed.rows]):
        try:
            records.setdefault(book.columns.key_of(record), record)
        except BadRow:
            continue
    waiting: deque[tuple[Row, RunRequest]] = deque()
    unread = []
    for row in claimed.rows:
        if row.key not in records:
            unread.append(_invalid(row, GONE))
            continue
        try:
            request = book.request_of(records[row.key])
        except BadRow as bad:
            unread.append(_invalid(row, f"column {bad.column}: {bad.reason}"))
            continue
        # A person who has a row tried again has it tried with what the source says now.
        changed = fingerprint(request).differs_from(row.fingerprint, row.fingerprint_key_id)
        if changed and row.attempt == 1:
            unread.append(_invalid(row, CHANGED))
        else:
            waiting.append((row, request))
    return Slice(claimed.id, claimed.load, waiting, unread)


def _invalid(row: Row, reason: str) -> Update:
    return Update(key=row.key, attempt=row.attempt, state=RowState.INVALID, values={"reason": reason})


__all__ = ["CHANGED", "GONE", "Slice", "opened"]
