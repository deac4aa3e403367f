"""
Results: in which form and where they are kept, and what becomes of a row whose result does not come.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]  # it has no types
import pytest
from pyarrow import parquet  # type: ignore[import-untyped]  # it has no types

from tests.remote import TOKEN
from tests.wire.batch.campaigns import Scene, records, told, write
from tl_orchestration import AsyncClient, OrganizationToken
from tl_orchestration.batch import Batch, BatchOutcome, Book, Policy, RowState, following, manifest
from tl_orchestration.batch.places import Place
from tl_orchestration.batch.rows import Rows
from tl_orchestration.errors import InvalidSettings, ServerError
from tl_orchestration.ledger import SqlLedger
from tl_orchestration.retry import RetryPolicy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A result that does not come is not asked for again.
    """
    monkeypatch.setattr(following, "_LONGEST", -1.0)


def hasty(scene: Scene, book: Book, policy: Policy | None = None) -> Batch:
    """
    A batch that sends every request once.
    """
    ledger, once = SqlLedger(scene.store), RetryPolicy(attempts=1)
    client = AsyncClient(OrganizationToken(TOKEN), scene.remote.url, ledger=ledger, retry=once)
    return Batch(client, "w47", book, output=scene.output, policy=policy)


def newest(scene: Scene) -> dict[str, dict[str, Any]]:
    """
    Each row's line in the part that the store names.
    """
    folder = scene.output / "w47"
    return {
        row["key"]: json.loads((folder / row["part"]).read_text().splitlines()[row["line"]])
        for row in scene.batch(None).export()
        if row["part"] is not None
    }


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("where", ["folder", "file", "memory"])
def test_parts_are_as_the_manifest_and_the_store_say(scene: Scene, form: Any, where: str) -> None:
    """Of either format, in a folder or at a storage URI: names, sizes, digests, and each row's line in its part."""
    uri = {
        "folder": str(scene.output),
        "file": f"file://{scene.output}",
        "memory": f"memory://results-{uuid.uuid4().hex}",
    }[where]
    book = scene.book(write(scene.folder / "in.jsonl", records(7)))
    policy = Policy(format=form, part_rows=3, part_seconds=5)
    batch = Batch(scene.client(), "w47", book, output=uri, policy=policy)
    batch.load()
    summary = batch.run()
    assert (summary.counts, summary.output) == (
        {RowState.SUCCEEDED: 7},
        f"{uri.removeprefix('file://')}/w47",
    )
    files, root = fsspec.url_to_fs(f"{uri}/w47")
    manifest = json.loads(files.cat_file(f"{root}/manifest.json"))
    assert (manifest["finished"], manifest["counts"]) == (True, {"SUCCEEDED": 7})
    lines: dict[str, list[dict[str, Any]]] = {}
    for part in manifest["parts"]:
        content = files.cat_file(f"{root}/{part['name']}")
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part["size"], part["sha256"])
        lines[part["name"]] = read(content, form)
        assert len(lines[part["name"]]) == part["rows"]
    assert {Path(name).suffix for name in lines} == {f".{form}"}
    by_id = {start["execution_id"]: start["parameters"]["firstName"] for start in scene.remote.starts()}
    exported = list(batch.export())
    assert [row["key"] for row in exported] == [one["id"] for one in records(7)]
    for row, record in zip(exported, records(7), strict=True):
        line = lines[row["part"]][row["line"]]
        assert (line["key"], line["state"], line["attempt"]) == (row["key"], "SUCCEEDED", 1)
        assert by_id[line["execution_id"]] == record["first"]
        assert line["result"]["decision"] == "approve"


def read(content: bytes, form: str) -> list[dict[str, Any]]:
    """
    The lines of a part.
    """
    if form == "jsonl":
        return [json.loads(line) for line in content.splitlines()]
    found: list[dict[str, Any]] = parquet.read_table(io.BytesIO(content)).to_pylist()
    return [{**line, "result": json.loads(line["result"])} for line in found]


def test_a_manifest_that_took_long_to_write_is_not_the_last_word(
    either: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that left the rest to another one writes what it knew over what that one has written meanwhile."""
    first, go_on, write_manifest = threading.Event(), threading.Event(), manifest.write

    def slow(folder: Place, document: dict[str, Any]) -> None:
        if not first.is_set():
            first.set()
            assert go_on.wait(30)
        write_manifest(folder, document)

    monkeypatch.setattr(manifest, "write", slow)
    either.remote.define("kyc-approve", duration=None)
    book = either.book(write(either.folder / "in.jsonl", records(4)))
    stays, leaves = (either.batch(book, worker=name) for name in ("shard-0", "shard-1"))
    stays.load()
    stays.run(at_cap="return")
    with ThreadPoolExecutor(2) as threads:
        staying = threads.submit(stays.run)
        leaving = threads.submit(leaves.run, wait_for_others=False)
        assert first.wait(20)
        either.cancel()
        assert staying.result(60).counts == {RowState.CANCELLED: 4}
        go_on.set()
        assert leaving.result(60).outcome is BatchOutcome.LEFT_TO_OTHERS
    written = json.loads((either.output / "w47" / "manifest.json").read_text())
    assert (written["counts"], written["finished"]) == ({"CANCELLED": 4}, True)
    assert len(either.lines()) == 4


def test_a_parquet_part_of_rows_without_results(scene: Scene) -> None:
    """Failed executions leave none; the column is there, and empty."""
    scene.remote.define("kyc-fail", duration=0.1)
    batch = scene.batch(
        scene.book(write(scene.folder / "in.jsonl", records(2)), "kyc-fail"), policy=Policy(format="parquet")
    )
    batch.load()
    batch.run()
    (part,) = (scene.output / "w47").glob("part-*.parquet")
    table = parquet.read_table(part)
    assert table.column("result").to_pylist() == [None, None]
    assert table.column("state").to_pylist() == ["FAILED", "FAILED"]


def batch_into(scene: Scene, folder: str, **more: Any) -> Batch:
    """
    The campaign of two customers, with its results in this folder.
    """
    book = scene.book(write(scene.folder / "in.jsonl", records(2)))
    return Batch(scene.client(), "w47", book, output=folder, **more)


@pytest.mark.parametrize("same", ["{}/", "file://{}"])
def test_results_stay_in_one_folder(either: Scene, same: str) -> None:
    """The manifest names what is in its own folder only: another one is refused before anything is sent."""
    folder, another = f"{either.folder}/out", f"{either.folder}/elsewhere"
    first = batch_into(either, folder, policy=Policy(canary=1))
    first.load()
    first.run()
    second = batch_into(either, another)
    for refused in (second.load, second.run):
        with pytest.raises(InvalidSettings, match=f"keeps its results in {folder}: give that folder"):
            refused()
    assert len(either.remote.starts()) == 1
    assert not Path(another).exists()
    third = batch_into(either, same.format(folder))
    third.load()
    assert third.run().counts == {RowState.SUCCEEDED: 2}
    assert len(either.lines()) == 2


def test_a_folder_that_has_nothing_yet_can_be_given_up(scene: Scene) -> None:
    """Such as one that was misspelt; not while another worker may be about to write to it."""
    (scene.folder / "file").write_text("")
    wrong = batch_into(scene, f"{scene.folder}/file", policy=Policy(part_seconds=0.1))
    wrong.load()
    database = scene.client().ledger.database  # type: ignore[union-attr]
    other = Rows(database, 1, "shard-1", 60.0)
    other.enter(scene.client().ledger.namespace, "default", time.time())  # type: ignore[union-attr]
    right = batch_into(scene, str(scene.output))
    with pytest.raises(InvalidSettings, match="another one a campaign of its own"):
        right.load()
    other.leave(time.time(), returns=False)
    assert right.run().counts == {RowState.SUCCEEDED: 2}
    assert right.summary().output == str(scene.output / "w47")


def test_results_of_a_run_without_a_folder_can_be_had(either: Scene) -> None:
    """They are asked for again and nothing is started; without a folder there is nothing to ask for."""
    either.remote.order("start", "status", status=400)
    book = either.book(write(either.folder / "in.jsonl", records(4)))
    without = Batch(either.client(), "w47", book, policy=Policy(starts_at_once=1))
    without.load()
    counts = {RowState.SUCCEEDED: 3, RowState.REJECTED: 1}
    summary = without.run()
    assert (summary.counts, summary.unkept, without.retry([RowState.RESULT_MISSING])) == (counts, 0, 0)
    batch = either.batch(book)
    batch.load()
    assert batch.run().unkept == 3
    assert json.loads((either.output / "w47" / "manifest.json").read_text())["unkept"] == 3
    assert batch.retry([RowState.RESULT_MISSING]) == 3
    summary = batch.run()
    assert (summary.counts, summary.unkept, summary.started_here) == (counts, 0, 0)
    assert sorted(line["result"]["decision"] for line in either.lines()) == ["approve"] * 3
    assert len(newest(either)) == 3
    assert len(either.remote.starts()) == 3
    assert batch.retry([RowState.RESULT_MISSING]) == 0


@pytest.mark.parametrize("again", [False, True], ids=["only its result", "the row"])
def test_a_partial_ending_is_started_again_where_its_state_is_named(scene: Scene, again: bool) -> None:
    """Else only its result is asked for, which no run has kept."""
    book = scene.book(write(scene.folder / "in.jsonl", records(2)))
    without = Batch(scene.client(), "w47", book)
    without.load()
    without.run()
    told(scene, "UPDATE tl_batch_rows SET state = 'PARTIAL', status = 'PARTIAL'")
    batch = scene.batch(book)
    batch.load()
    named = [RowState.RESULT_MISSING, RowState.PARTIAL] if again else [RowState.RESULT_MISSING]
    assert batch.retry(named) == 2
    assert batch.run().counts == {RowState.SUCCEEDED if again else RowState.PARTIAL: 2}
    assert len(scene.remote.starts()) == (4 if again else 2)
    assert len(scene.lines()) == 2


@pytest.mark.usefixtures("impatient")
def test_one_result_that_does_not_come_ends_no_run(scene: Scene) -> None:
    """The service gives another one at that moment: the row is kept without, counted, and asked for on request."""
    book = scene.book(write(scene.folder / "in.jsonl", records(4)))
    first = hasty(scene, book, Policy(canary=1))
    first.load()
    first.run()
    scene.remote.order("result", "status", status=500)
    batch = hasty(scene, book)
    summary = batch.run()
    assert summary.outcome is BatchOutcome.FINISHED
    assert summary.counts == {RowState.SUCCEEDED: 3, RowState.RESULT_MISSING: 1}
    assert (summary.failed, summary.to_dict()["counts"]["RESULT_MISSING"]) == (1, 1)
    manifest = json.loads((scene.output / "w47" / "manifest.json").read_text())
    assert manifest["counts"] == {"SUCCEEDED": 3, "RESULT_MISSING": 1}
    (row,) = batch.export([RowState.RESULT_MISSING])
    assert (row["status"], row["reason"]) == ("SUCCEEDED", "ServerError (500)")
    line = newest(scene)[row["key"]]
    assert (line["state"], line["reason"], line["result"]) == ("RESULT_MISSING", "ServerError (500)", None)
    assert batch.run().outcome is BatchOutcome.NOTHING_TO_START
    assert batch.retry() == 1
    assert batch.run().counts == {RowState.SUCCEEDED: 4}
    assert len(scene.remote.starts()) == 4
    (found,) = (one for one in batch.export() if one["key"] == row["key"])
    assert (found["execution_id"], found["reason"]) == (row["execution_id"], None)
    assert newest(scene)[row["key"]]["result"]["decision"] == "approve"


@pytest.mark.usefixtures("impatient")
def test_a_result_of_the_same_run_tells_that_the_service_gives_some(scene: Scene) -> None:
    """Also before its part is written."""
    scene.remote.define("kyc-approve", duration=None)
    batch = hasty(scene, scene.book(write(scene.folder / "in.jsonl", records(2))))
    batch.load()
    ended: list[str] = []

    def one_after_the_other() -> bool:
        started = [start["execution_id"] for start in scene.remote.starts()]
        if len(started) == 2 and scene.remote.count("GET /workflows/{id}/result") == len(ended) < 2:
            if ended:
                scene.remote.order("result", "status", status=500)
            ended.append(started[len(ended)])
            scene.remote.force(ended[-1], status="COMPLETED")
        return False

    assert batch.run(stop=one_after_the_other).counts == {RowState.SUCCEEDED: 1, RowState.RESULT_MISSING: 1}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("known", [True, False], ids=["a result that came before", "none yet"])
def test_a_service_that_gives_no_results_ends_the_run(scene: Scene, known: bool) -> None:
    """No row is given up for it: all are there for the next run."""
    book = scene.book(write(scene.folder / "in.jsonl", records(4)))
    batch = hasty(scene, book)
    batch.load()
    if known:
        hasty(scene, book, Policy(canary=1)).run()
    scene.remote.order("result", "status", status=500, times=100)
    with pytest.raises(ServerError):
        batch.run()
    assert RowState.RESULT_MISSING not in batch.summary().counts
    scene.remote.forget_faults()
    assert batch.run().counts == {RowState.SUCCEEDED: 4}
    assert len(scene.remote.starts()) == 4


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [(404, None, "NoResult (404)"), (200, "<html>", "InvalidAnswer (200)"), (400, None, "InvalidRequest (400)")],
)
def test_a_result_that_is_not_there_or_unreadable_is_missing(
    scene: Scene, status: int, body: str | None, reason: str
) -> None:
    """It is no success without a result: it is counted, and can be asked for again."""
    scene.remote.order("result", "status", status=status, **({} if body is None else {"body": body}))
    batch = hasty(scene, scene.book(write(scene.folder / "in.jsonl", records(1))))
    batch.load()
    assert batch.run().counts == {RowState.RESULT_MISSING: 1}
    (row,) = batch.export()
    assert row["reason"] == reason
    assert batch.retry([RowState.RESULT_MISSING]) == 1
    assert batch.run().counts == {RowState.SUCCEEDED: 1}
    assert len(scene.remote.starts()) == 1
