"""A record becomes a request, or a reason that shows no value."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from tl_orchestration.batch import Column, Columns
from tl_orchestration.batch.columns import BadRow, value_of
from tl_orchestration.batch.sources import Unreadable
from tl_orchestration.errors import InvalidSettings


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("as-is", " x ", " x "),
        ("as-is", date(1990, 1, 2), "1990-01-02"),
        ("as-is", Decimal("1.5"), 1.5),
        ("as-is", Decimal("7"), 7),
        ("text", " x ", "x"),
        ("text", 12, "12"),
        ("text", Decimal("12345678901234567890.120"), "12345678901234567890.120"),
        ("text", Decimal("1E+3"), "1000"),
        ("as-is", Decimal("12345678901234567890"), 12345678901234567890),
        ("number", Decimal("0.10"), 0.1),
        ("number", Decimal.from_float(0.1), 0.1),
        ("number", 2**60, 2**60),
        ("integer", " 42 ", 42),
        ("integer", 42.0, 42),
        ("number", "1.5", 1.5),
        ("number", "2", 2),
        ("boolean", "Yes", True),
        ("boolean", False, False),
        ("date", "1990-12-31", "1990-12-31"),
        ("date", datetime(1990, 12, 31, 5), "1990-12-31"),  # noqa: DTZ001 -- as a Parquet file has it
        ("json", '{"a": [1]}', {"a": [1]}),
    ],
)
def test_values_become_their_type(kind: Any, value: Any, expected: Any) -> None:
    """What the source gives is read as what the mapping says."""
    assert value_of({"c": value}, Column("c", kind)) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("as-is", b"SECRET"),
        ("text", ["SECRET"]),
        ("text", True),
        ("text", float("nan")),
        ("text", float("-inf")),
        ("text", Decimal("NaN")),
        ("integer", "SECRET"),
        ("integer", 1.5),
        ("integer", "1" * 30),
        ("integer", float("inf")),
        ("number", 10**400),
        ("as-is", Decimal("Infinity")),
        ("number", "SECRET"),
        ("number", "nan"),
        ("boolean", "SECRET"),
        ("date", "31.12.1990"),
        ("date", 7),
        ("json", "SECRET"),
    ],
)
def test_what_is_no_such_value_is_told_without_it(kind: Any, value: Any) -> None:
    """The complaint names column and type."""
    with pytest.raises(BadRow) as bad:
        value_of({"c": value}, Column("c", kind))
    assert bad.value.column == "c"
    assert "SECRET" not in str(bad.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("as-is", Decimal("12345678901234567890.12")),
        ("number", Decimal("12345678901234567890.12")),
        ("number", "12345678901234567890.12"),
        ("number", 2**53 + 1),
    ],
)
def test_a_number_that_would_be_rounded_is_refused(kind: Any, value: Any) -> None:
    """Nobody is checked with other digits than his own."""
    with pytest.raises(BadRow, match="more digits than a JSON number keeps") as bad:
        value_of({"c": value}, Column("c", kind))
    assert bad.value.column == "c"


def test_what_the_source_cannot_read_is_told_by_its_column() -> None:
    """Also where the value may be missing, or is the key."""
    columns = Columns(key="id", parameters={"a": Column("a", "date", required=False)})
    with pytest.raises(BadRow, match="out of range") as bad:
        columns.request_of({"id": 1, "a": Unreadable("out of range")}, "kyc")
    assert bad.value.column == "a"
    with pytest.raises(BadRow, match="padded") as bad:
        columns.key_of({"id": Unreadable("padded")})
    assert bad.value.column == "id"


def test_empty_text_is_a_value_only_as_it_is() -> None:
    """As the source gives it; for every other type a row without it is bad."""
    assert value_of({"c": ""}, Column("c")) == ""
    for kind in ("text", "integer", "number", "boolean", "date", "json"):
        with pytest.raises(BadRow, match="missing or empty"):
            value_of({"c": " "}, Column("c", kind))


def test_a_missing_value_is_bad_or_left_out() -> None:
    """As the column says."""
    columns = Columns(key="id", parameters={"a": Column("a", "text", required=False), "b": "b"})
    assert columns.request_of({"id": 1, "a": " ", "b": "x"}, "kyc").parameters == {"b": "x"}
    with pytest.raises(BadRow, match="missing"):
        columns.request_of({"id": 1, "b": None}, "kyc")


def test_the_fields_of_a_request_come_from_columns() -> None:
    """Record, language and expiry; an object of parameters lies below those that are named."""
    columns = Columns(key="id", parameters={"a": "x"}, parameters_from="p", record_id="r", locale="l", expires_in="e")
    record = {"id": "7", "x": 1, "p": {"a": 0, "b": 2}, "r": "0" * 32, "l": "de", "e": "3600"}
    request = columns.request_of(record, "kyc")
    assert request.parameters == {"a": 1, "b": 2}
    assert (request.locale, request.record_id) == ("de", "00000000-0000-0000-0000-000000000000")
    assert request.expires_in is not None
    assert request.expires_in.total_seconds() == 3600
    assert columns.request_of({**record, "l": "", "r": None, "e": ""}, "kyc").locale == "en"


@pytest.mark.parametrize(
    ("column", "value"),
    [("r", "SECRET"), ("l", "SE CRET"), ("e", "5"), ("e", 1e300), ("x", float("nan"))],
)
def test_what_the_request_refuses_names_the_column(column: str, value: Any) -> None:
    """The column of the source, not the field of the request; and no value."""
    columns = Columns(key="id", parameters={"a": "x"}, record_id="r", locale="l", expires_in="e")
    with pytest.raises(BadRow) as bad:
        columns.request_of({"id": "7", "x": 1, column: value}, "kyc")
    assert bad.value.column == column
    assert "SE" not in str(bad.value)


def test_a_parameter_whose_name_begins_like_another_has_its_own_column() -> None:
    """The reject file sends nobody to the wrong one."""
    columns = Columns(key="id", parameters={"name": "n", "nameOfBank": "b"})
    with pytest.raises(BadRow) as bad:
        columns.request_of({"id": "7", "n": "x", "b": float("nan")}, "kyc")
    assert bad.value.column == "b"


@pytest.mark.parametrize("value", [None, "", "  ", True, 1.5, "a\nb", "x" * 3000])
def test_a_key_must_be_usable(value: Any) -> None:
    """Text or a whole number, on one line."""
    with pytest.raises(BadRow):
        Columns(key="id").key_of({"id": value})


def test_columns_of_json() -> None:
    """A parameter's column is a name, or an object; what is not understood is refused."""
    given = {"key": "id", "parameters": {"a": "x", "b": {"name": "y", "type": "date"}}, "locale": "l"}
    assert Columns.from_dict(given) == Columns(key="id", parameters={"a": "x", "b": Column("y", "date")}, locale="l")
    for wrong in ({}, {"key": "id", "kee": 1}, {"key": "id", "parameters": {"a": 1}}, {"key": "id", "parameters": 1}):
        with pytest.raises(InvalidSettings, match="olumns"):
            Columns.from_dict(wrong)


def test_keys_are_text() -> None:
    """A number and its digits are the same key."""
    assert Columns(key="id").key_of({"id": 7}) == Columns(key="id").key_of({"id": " 7 "}) == "7"
