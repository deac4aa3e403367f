"""A reader's place: nothing is missed that was committed late, and nothing is told twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_orchestration.errors import InvalidRequest
from tl_orchestration.hints import MOST_MISSING, OVERLAP, Cursor


def read(cursor: Cursor, rows: set[int], now: float) -> tuple[list[int], Cursor]:
    """What a reader at this place finds, as the inbox asks."""
    wanted = {number for number, until in cursor.missing if until > now}
    found = sorted(number for number in rows if number > cursor.top or number in wanted)
    return found, cursor.moved(found, now)


@given(st.permutations(range(1, 13)), st.lists(st.integers(0, 12), max_size=5))
def test_every_row_is_read_once(order: list[int], looks: list[int]) -> None:
    """Rows that are committed in any order, within the overlap, are each read exactly once."""
    rows: set[int] = set()
    cursor, seen = Cursor(), list[int]()
    for step, number in enumerate(order):
        rows.add(number)
        if step in looks:
            found, cursor = read(cursor, rows, 0.1 * step)
            seen += found
    found, cursor = read(cursor, rows, OVERLAP - 1)
    assert sorted(seen + found) == list(range(1, 13))


@given(st.permutations(range(1, 13)), st.integers(0, 12))
def test_place_outlives_the_process(order: list[int], cut: int) -> None:
    """A reader that goes on from the text misses nothing, whatever was committed when it was written."""
    rows = set(order[:cut])
    found, cursor = read(Cursor(), rows, 0.0)
    again, _ = read(Cursor.from_text(cursor.to_text()), set(order), 0.0)
    assert {*found, *again} == set(order)


def test_gap_is_given_up() -> None:
    """A number that never appears is looked for as long as it could still be committed, and no longer."""
    _, cursor = read(Cursor(), {1, 3}, 0.0)
    assert cursor.to_text() == "1"
    found, cursor = read(cursor, {1, 2, 3}, OVERLAP + 1)
    assert found == []
    assert cursor == Cursor(3)
    assert cursor.to_text() == "3"


def test_jump_is_bounded() -> None:
    """A sequence that jumps does not make a reader look for a billion numbers."""
    _, cursor = read(Cursor(), {1, 10**9}, 0.0)
    assert len(cursor.missing) == MOST_MISSING


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "٣", "9" * 20, " 1"])
def test_other_texts_are_refused(text: str) -> None:
    """What is no place is refused before the database sees it."""
    with pytest.raises(InvalidRequest):
        Cursor.from_text(text)
