"""Every kind of source gives its records in portions, and each portion again."""

from __future__ import annotations

import csv
import io
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tl_orchestration.batch import Query, source
from tl_orchestration.batch.delimited import Delimited
from tl_orchestration.batch.lines import LONGEST_LINE, lines
from tl_orchestration.batch.places import Place, is_same, place
from tl_orchestration.batch.sources import Source, Unreadable
from tl_orchestration.errors import InvalidSettings, StorageFailed

ROWS = [{"id": f"c{number}", "name": f'A "quoted",\nname {number} é'} for number in range(25)]


def jsonl(folder: Path) -> Source:
    file = folder / "in.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS))
    return source(file)


def delimited(folder: Path) -> Source:
    quoted = ("{},{}\n".format(row["id"], '"' + row["name"].replace('"', '""') + '"') for row in ROWS)
    file = folder / "in.csv"
    file.write_text("\ufeffid,name\n" + "".join(quoted))
    return source(file)


def parquet(folder: Path) -> Source:
    import pyarrow  # type: ignore[import-untyped]  # it has no types
    from pyarrow import parquet as files

    files.write_table(pyarrow.Table.from_pylist(ROWS), folder / "in.parquet", row_group_size=7)
    return source(folder / "in.parquet")


def query(folder: Path) -> Source:
    engine = create_engine(f"sqlite:///{folder}/customers.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id TEXT, name TEXT, old INT)"))
        connection.execute(text("INSERT INTO customers VALUES (:id, :name, 0)"), ROWS)
        connection.execute(text("INSERT INTO customers VALUES ('gone', 'x', 1)"))
    return Query(engine, "SELECT id, name FROM customers WHERE old = :old;", {"old": 0})


def memory(folder: Path) -> Source:
    file = place(f"memory://{folder.name}/in.jsonl")
    file.write("\n".join(json.dumps(row) for row in ROWS).encode())
    return source(f"memory://{folder.name}/in.jsonl")


@pytest.mark.parametrize("make", [jsonl, delimited, parquet, query, memory])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_portions_can_be_read_again(make: Callable[[Path], Source], size: int, tmp_path: Path) -> None:
    """All records come in order, and each portion's by its locator alone, which is JSON."""
    given = make(tmp_path).with_columns("id", frozenset({"id", "name"}))
    portions = list(given.portions(size))
    assert [record for portion in portions for record in portion.records] == ROWS
    for portion in reversed(portions):
        records: list[Any] = list(portion.records)
        again = given.again(json.loads(json.dumps(portion.locator)), [record["id"] for record in records])
        assert sorted(again, key=lambda row: str(row["id"])) == sorted(records, key=lambda row: str(row["id"]))


@pytest.mark.parametrize("make", [delimited, parquet, query])
def test_a_missing_column_is_told_before_anything_is_read(make: Callable[[Path], Source], tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(InvalidSettings, match="birthday"):
        make(tmp_path).with_columns("id", frozenset({"id", "birthday"}))


def test_bad_records_do_not_hide_the_next_ones(tmp_path: Path) -> None:
    """Each is unreadable by itself."""
    file = tmp_path / "in.jsonl"
    file.write_bytes(b'{"id": 1}\n[]\n{"id": 1, "id": 2}\n\xff\xfe\n\n{"id": 2}\r\n')
    (portion,) = source(file).portions(10)
    assert [isinstance(record, Unreadable) for record in portion.records] == [False, True, True, True, False]
    table = tmp_path / "in.csv"
    table.write_bytes(b"id,name\n1,a\n2\n3,\xff\n4,b\n")
    (portion,) = source(table).portions(10)
    assert [isinstance(record, Unreadable) for record in portion.records] == [False, True, True, False]


def table(folder: Path, text: str | bytes) -> Source:
    file = folder / "in.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return source(file).with_columns("id", frozenset({"id"}))


def told(given: Source) -> list[Any]:
    """
    The keys of all records, and the reasons of those that cannot be read.
    """
    records = [record for portion in given.portions(2) for record in portion.records]
    return [record.reason if isinstance(record, Unreadable) else record["id"] for record in records]


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        ('c1,Ada,"Main St 1\nc2,Bea,High St 2\nc3,Cy,Low St 3\n', r"row 1 \(lines 2 to 4\)"),
        ('c1,Ada,Main St 1\nc2,Bea,High St 2\nc3,Cy,"Low St 3', r"row 3 \(line 4\)"),
        ('c1,Ada,x\n\nc2,Bea,"High St 2\nc3,Cy,"Low St 3"\nc4,Dan,x\n', r"row 2 \(lines 4 to 5\)"),
        ('"c1","Ada","Main St 1\n"c2","Bea","High St 2"\n"c3","Cy","x"\n', r"row 1 \(lines 2 to 3\)"),
        ('c1,"x"y,"Main St\nc9,Eve,Low St\nLondon"\n', r"row 1 \(line 2\)"),
        ('c1,Ada,"' + "c2,Bea,High St 2\n" * 300_000, r"row 1 \(lines 2 to \d+\)"),
        ("c1,Ada," + "x" * LONGEST_LINE + "\nc2,Bea,y\n", r"row 1 \(line 2\)"),
    ],
    ids=["never", "at the end", "at another's", "all quoted", "in a line", "too far", "long line"],
)
def test_quotes_that_do_not_pair_refuse_the_whole_table(tmp_path: Path, rows: str, where: str) -> None:
    """No customer is read as a part of another one, and none of the rest is taken for a row."""
    given = table(tmp_path, "id,name,street\n" + rows)
    with pytest.raises(InvalidSettings, match=rf"in\.csv can be read only until {where}") as caught:
        list(given.portions(1000))
    assert "High" not in str(caught.value)


@pytest.mark.parametrize("tail", ['c3,Cy,Low St 3"\n', 'c3,Cy",Low St 3\n'])
def test_rows_between_two_stray_quotes_are_not_sent_as_one(tmp_path: Path, tail: str) -> None:
    """A value over several lines in which another row seems to begin is told; the next row is read."""
    first = 'c1,Ada,"Main St 1\n' if tail.endswith('"\n') else 'c1,"Ada,Main St 1\n'
    given = table(tmp_path, f"id,name,street\n{first}c2,Bea,High St 2\n{tail}c4,Dan,x\n")
    (reason, key) = told(given)
    assert "lines 2 to 4, where another row seems to begin" in reason
    assert key == "c4"


def test_a_value_may_have_lines(tmp_path: Path) -> None:
    """As addresses have, with delimiters in them, wherever their column and the key's are."""
    addresses = ['c1,Ada,"1 Main St\nFlat 2, Block B, Town\nLondon, Essex, UK"', 'c2,"Be\na","c\n\nd"', "c3,Cy,x"]
    assert told(table(tmp_path, "id,name,street\n" + "\n".join(addresses))) == ["c1", "c2", "c3"]
    behind = '"1 Main St\nLondon",Ada,c1\r\n"2 Main St\r\nParis",Bea,c2\r\n'
    assert told(table(tmp_path, "street,name,id\r\n" + behind)) == ["c1", "c2"]


def test_a_row_that_is_no_csv_by_itself_hides_no_other(tmp_path: Path) -> None:
    """Where its quotes pair, the next line is the next row; a quote within a value is one of its signs."""
    given = table(tmp_path, 'id,name\nc1,"x"y\nc2,5" pipe\nc3,"a ""b"""\nc4\n')
    assert told(given) == [
        "it is not CSV (line 2)",
        "c2",
        "c3",
        "it has another number of values than the header (line 5)",
    ]


def test_a_table_that_changed_its_quotes_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Its rows are missing then; a worker does not end for them."""
    given = table(tmp_path, "id,name\nc1,Ada\nc2,Bea\n")
    (portion,) = given.portions(10)
    assert table(tmp_path, 'id,name\nc1,Ada\n"2,Bea\n').again(portion.locator, ["c1", "c2"]) == [
        {"id": "c1", "name": "Ada"}
    ]


def test_a_long_value_is_one(tmp_path: Path) -> None:
    """Up to the length of a line, also where somebody has lowered the limit of the csv module."""
    former = csv.field_size_limit(10)
    try:
        long = "x" * (LONGEST_LINE - 100)
        (portion,) = table(tmp_path, f'id,name\nc1,"{long}"\n').portions(10)
        assert portion.records == [{"id": "c1", "name": long}]
        assert csv.field_size_limit() == LONGEST_LINE
        csv.field_size_limit(2 * LONGEST_LINE)
        assert told(table(tmp_path, "id,name\nc1,x\n")) == ["c1"]
        assert csv.field_size_limit() == 2 * LONGEST_LINE
    finally:
        csv.field_size_limit(former)


def test_a_header_is_read_as_it_is_meant(tmp_path: Path) -> None:
    """Quoted behind a byte-order mark; refused with a name twice, or where it is no CSV."""
    assert told(table(tmp_path, '\ufeff"id","name"\n"c1","Ada"\n')) == ["c1"]
    with pytest.raises(InvalidSettings, match=r"has a column twice: name, \(no name\)\."):
        table(tmp_path, "id,name,name,,\n")
    for torn in ('id,"name\nc1,Ada\n', "id,x\ry\n", "id," + "x" * LONGEST_LINE):
        with pytest.raises(InvalidSettings, match=r"The header of the source .* is not CSV"):
            table(tmp_path, torn)


def test_a_query_may_end_in_a_comment(tmp_path: Path) -> None:
    """It is closed behind it."""
    engine = query(tmp_path).database  # type: ignore[attr-defined]
    given = Query(engine, "SELECT id, name FROM customers WHERE old = 0 -- ours").with_columns("id", frozenset({"id"}))
    (portion,) = given.portions(100)
    assert given.again(portion.locator, ["c7"]) == [ROWS[7]]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT id FORM customers", r'near "customers": syntax error\)'),
        ("SELECT id, birthday FROM customers", "no such column: birthday"),
        ("SELECT id FROM customers WHERE name = :nome", "required for bind parameter 'nome'"),
        ("SELECT id FROM customers WHERE name = (:name) secret", r'near "…": syntax error'),
    ],
)
def test_what_is_wrong_with_a_query_is_told(tmp_path: Path, statement: str, said: str) -> None:
    """In the driver's words, without the values of its parameters."""
    engine = query(tmp_path).database  # type: ignore[attr-defined]
    with pytest.raises(StorageFailed, match=said):
        Query(engine, statement, {"name": "Secret"}).with_columns("id", frozenset({"id"}))


def test_what_is_wrong_with_a_value_is_not_quoted(tmp_path: Path) -> None:
    """A driver's text may have it once rows are read."""
    engine = query(tmp_path).database  # type: ignore[attr-defined]
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO customers VALUES ('c9', CAST(X'536563726574FF' AS TEXT), 0)"))
    given = Query(engine, "SELECT id, name FROM customers").with_columns("id", frozenset({"id"}))
    with pytest.raises(StorageFailed, match=r"failed \(OperationalError\)") as caught:
        list(given.portions(100))
    assert "Secret" not in "".join(traceback.format_exception(caught.value))


def test_a_value_that_cannot_be_read_stops_its_own_row(tmp_path: Path) -> None:
    """Days after the year 9999, and times with nanoseconds, where they are and in a column that nobody needs."""
    import pyarrow
    from pyarrow import parquet as files

    columns = {
        "id": ["a", "b", "c"],
        "born": pyarrow.array([0, 10**8, 1], pyarrow.date32()),
        "seen": pyarrow.array([1000, 2000, 1], pyarrow.timestamp("ns")),
    }
    files.write_table(pyarrow.table(columns), tmp_path / "in.parquet")

    def read(portion: list[Any]) -> list[list[str]]:
        return [sorted(name for name, value in row.items() if isinstance(value, Unreadable)) for row in portion]

    given = source(tmp_path / "in.parquet")
    (portion,) = given.with_columns("id", frozenset({"id", "born"})).portions(10)
    assert read(list(portion.records)) == [[], ["born"], []]
    assert [row["id"] for row in portion.records if not isinstance(row, Unreadable)] == ["a", "b", "c"]
    assert read(given.again(portion.locator, ["a", "b", "c"])) == [[], ["born"], ["seen"]]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Which of both is meant is not to be guessed; its name is told."""
    import pyarrow
    from pyarrow import parquet as files

    both = pyarrow.table([pyarrow.array(["a"])] * 3, names=["id", "name", "name"])
    files.write_table(both, tmp_path / "in.parquet")
    with pytest.raises(InvalidSettings, match=r"in\.parquet has a column twice: name\."):
        source(tmp_path / "in.parquet").with_columns("id", frozenset({"id", "name"}))


def test_other_delimiters_and_encodings(tmp_path: Path) -> None:
    """As spreadsheets write them."""
    file = tmp_path / "in.csv"
    file.write_bytes("id;name\n1;Zoé\n".encode("latin-1"))
    (portion,) = Delimited(place(file), ";", "latin-1").portions(10)
    assert portion.records == [{"id": "1", "name": "Zoé"}]


def test_identity_changes_with_the_file(tmp_path: Path) -> None:
    """Of what was read once, nothing has to be read again."""
    first = jsonl(tmp_path).identity()
    assert first is not None
    (tmp_path / "in.jsonl").write_text("{}")
    assert source(tmp_path / "in.jsonl").identity() != first


def test_a_source_must_be_known_and_there(tmp_path: Path) -> None:
    """Compressed files, other names, unknown storages and missing files are told."""
    with pytest.raises(InvalidSettings, match="not be compressed"):
        source(tmp_path / "in.csv.gz")
    with pytest.raises(InvalidSettings, match="nowhere://"):
        source("nowhere://user:secret@bucket/in.csv")
    with pytest.raises(StorageFailed, match="FileNotFoundError"):
        list(source(tmp_path / "none.jsonl").portions(1))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/data/out/w47", "/data/out/w47/", True),
        ("/data/out/w47", "file:///data/out/w47", True),
        ("s3://bucket/out/w47", "s3://conn@bucket/out/w47/", True),
        ("s3://bucket/out/w47", "s3://bucket/out2/w47", False),
        ("s3://bucket/out/w47", "gs://bucket/out/w47", False),
        ("s3://bucket/out/w47", "/bucket/out/w47", False),
    ],
)
def test_one_folder_has_several_spellings(one: str, other: str, same: bool) -> None:
    """A connection's name and a slash at the end make no other folder of it."""
    assert is_same(one, other) is same


class Torn(io.BytesIO):
    """A download that breaks off in the middle of the file, and quotes it."""

    def read(self, size: int | None = -1, /) -> bytes:
        half = len(self.getbuffer()) // 2
        if self.tell() + 8 < half:
            chunk = super().read(half if size is None or size < 0 else min(size, half))
            if self.tell() >= half:
                raise OSError("reset while reading Ada")
            return chunk
        return super().read(size)


class Storage:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, path: str, mode: str) -> Torn:
        return Torn(self.content)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_source_that_breaks_off_is_a_failed_storage(tmp_path: Path, kind: str) -> None:
    """Told by the error's class: its own text may quote the file."""
    rows = [{"id": str(number), "name": f"Ada {number}"} for number in range(20_000)]
    file = tmp_path / f"in.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet as files

        files.write_table(pyarrow.Table.from_pylist(rows), file)
    elif kind == "csv":
        file.write_text("id,name\n" + "".join(f"{row['id']},{row['name']}\n" for row in rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    torn = source(Place("torn", str(file), f"torn://in.{kind}", Storage(file.read_bytes())))

    with pytest.raises(StorageFailed, match=r"could not be read \(OSError\)") as caught:
        list(torn.portions(100))

    assert "Ada" not in "".join(traceback.format_exception(caught.value))


def test_a_line_without_end_costs_no_memory() -> None:
    """It is cut, and the lines behind it keep their places."""
    content = b"a\n" + b"x" * (3 * LONGEST_LINE) + b"\nb\n"
    found = list(lines(io.BytesIO(content)))
    assert [(end, len(line)) for end, line in found if line != b"b\n"] == [(2, 2), (found[1][0], LONGEST_LINE + 1)]
    assert found[-1] == (len(content), b"b\n")
