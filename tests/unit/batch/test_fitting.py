"""What only one service takes: of the book for all rows, and of columns for each."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.planted import DOCUMENT_NUMBER, FIRST_NAME, found_in
from tl_orchestration import B3osKey, B3osOptions, LegacyOptions, OrganizationToken, Settings, WorkspaceKey
from tl_orchestration.batch import Book, Column, Columns
from tl_orchestration.batch.columns import BadRow
from tl_orchestration.batch.fitting import FittedBook, fitted
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.fingerprint import fingerprint
from tl_orchestration.options import CaseDocument, Options
from tl_orchestration.services import service_named

ORIGIN = B3osOptions(source_system="crm", source_entity_type="customer")
CASE = "11111111-1111-4111-8111-111111111111"
CREDENTIALS: dict[str, Any] = {
    "transactionlink": OrganizationToken("tot_x"),
    "transactionlink-legacy": WorkspaceKey("k", "s"),
    "b3os": B3osKey("b3sk_x"),
}


def book(service: str, constant: Options | None = None, /, **columns: Any) -> FittedBook:
    """A book without rows, as the service takes it."""
    made = Book(
        workflow_definition_id="kyc",
        source=None,  # type: ignore[arg-type]  # not read
        columns=Columns.from_dict({"key": "id", **columns}),
        options=constant,
    )
    return fitted(made, service_named(service).configured(CREDENTIALS[service], Settings(), time.time))


def test_options_hold_for_all_rows_and_columns_lie_over_them() -> None:
    """A column that may be empty leaves what the book says."""
    columns = {"external_ref": "ref", "source_entity_type": {"name": "kind", "required": False}}
    ours = book("b3os", ORIGIN, options=columns, parameters={"firstName": "first"})
    made = [
        ours.request_of({"id": 1, "first": "Ada", "ref": "r1", "kind": "company"}),
        ours.request_of({"id": 2, "first": "Bea", "ref": 2, "kind": " "}),
    ]
    assert [one.options for one in made] == [
        B3osOptions(source_system="crm", source_entity_type="company", external_ref="r1"),
        B3osOptions(source_system="crm", source_entity_type="customer", external_ref="2"),
    ]
    assert book("b3os", ORIGIN).request_of({"id": 1}).options == ORIGIN
    assert ours.columns.named() == {"id", "first", "ref", "kind"}


def test_case_comes_from_columns() -> None:
    """The legacy service needs nothing of the book; a pair and documents are JSON."""
    columns = {"first_name": "first", "phone": {"name": "tel", "type": "json"}, "documents": {"name": "docs"}}
    request = book("transactionlink-legacy", options=columns).request_of(
        {"id": 1, "first": "Ada", "tel": '["+370", "6"]', "docs": [{"resource_id": "r"}]}
    )
    assert request.options == LegacyOptions(
        first_name="Ada", phone=("+370", "6"), documents=[CaseDocument(resource_id="r")]
    )
    assert book("transactionlink-legacy").request_of({"id": 1}).options is None
    assert book("transactionlink").request_of({"id": 1}).options is None


@pytest.mark.parametrize(
    ("service", "options", "columns", "says"),
    [
        ("b3os", None, {}, "needs options with source_system and source_entity_type"),
        ("b3os", None, {"options": {"external_ref": "r"}}, "needs options with source_system"),
        ("b3os", LegacyOptions(), {}, "takes B3osOptions as its options, not LegacyOptions"),
        ("b3os", ORIGIN, {"options": {"external_reference": "r"}}, "no external_reference; known are: source_system"),
        ("b3os", ORIGIN, {"record_id": "r"}, "B3OS has no records"),
        ("b3os", ORIGIN, {"expires_in": "e"}, "b3os has no expiry"),
        ("transactionlink-legacy", ORIGIN, {}, "takes LegacyOptions as its options, not B3osOptions"),
        ("transactionlink-legacy", None, {"options": {"source_system": "s"}}, "no source_system; known are: case_id"),
        ("transactionlink-legacy", None, {"expires_in": "e"}, "has no expiry"),
        ("transactionlink-legacy", LegacyOptions(case_id=CASE), {"record_id": "r"}, "not both"),
        ("transactionlink", LegacyOptions(), {}, "transactionlink takes no options"),
        ("transactionlink", None, {"options": {"first_name": "f"}}, "transactionlink takes no options"),
    ],
)
def test_what_no_row_could_be_run_with_is_said_of_the_book(
    service: str, options: Options | None, columns: dict[str, Any], says: str
) -> None:
    """In one sentence, before a row is read."""
    with pytest.raises(InvalidSettings, match=says):
        book(service, options, **columns)


@pytest.mark.parametrize(
    ("record", "column", "says"),
    [
        ({"case": DOCUMENT_NUMBER}, "case", "case_id must be a UUID"),
        ({"first": [FIRST_NAME]}, "first", "first_name must be text that is not empty, not a list"),
        ({"first": FIRST_NAME, "case": CASE}, "first", "case_id, or fields to make a case from, not both"),
        ({"first": FIRST_NAME, "record": CASE}, "record", "a case .* or a record_id"),
        ({"tel": DOCUMENT_NUMBER}, "tel", "it is not JSON"),
        ({"tel": f'["{DOCUMENT_NUMBER}"]'}, "tel", "phone must be a pair"),
        ({"must": " "}, "must", "missing or empty"),
        ({"must": None}, "must", "missing or empty"),
    ],
)
def test_value_that_does_not_fit_makes_a_bad_row(record: dict[str, Any], column: str, says: str) -> None:
    """It names the column, and shows no value."""
    may_be_missing = {"required": False}
    ours = book(
        "transactionlink-legacy",
        record_id="record",
        options={
            "case_id": {"name": "case", **may_be_missing},
            "first_name": {"name": "first", **may_be_missing},
            "phone": {"name": "tel", "type": "json", **may_be_missing},
            **({"email": "must"} if "must" in record else {}),
        },
    )
    with pytest.raises(BadRow, match=says) as bad:
        ours.request_of({"id": 1, **record})
    assert bad.value.column == column
    assert found_in(str(bad.value)) == []


def test_options_are_part_of_what_a_row_is() -> None:
    """Whichever way they came: so a change of either is seen."""
    rows = [
        book("b3os", ORIGIN).request_of({"id": 1}),
        book("b3os", ORIGIN, options={"external_ref": "r"}).request_of({"id": 1, "r": "a"}),
        book("b3os", ORIGIN, options={"external_ref": "r"}).request_of({"id": 1, "r": "b"}),
    ]
    assert len({fingerprint(row, b"secret").digest for row in rows}) == 3


def test_columns_of_options_are_typed() -> None:
    """As those of parameters."""
    typed = Columns.from_dict({"key": "id", "options": {"a": "x", "b": {"name": "y", "type": "date"}}})
    assert typed == Columns(key="id", options={"a": "x", "b": Column("y", "date")})
    with pytest.raises(InvalidSettings, match="olumns"):
        Columns.from_dict({"key": "id", "options": {"a": 1}})
