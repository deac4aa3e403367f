"""
The ready flow for batches: shards over one ledger, what people see of them, and every way to go on.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from attrs import frozen
from prefect import flow, get_client
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Running
from prefect.task_runners import ProcessPoolTaskRunner
from pydantic import SecretStr
from sqlalchemy import create_engine, text

from prefect_blocks import BatchColumns, batch_stopping, batches, cancel_batch_executions, inputs, run_batch_flow
from prefect_blocks.batch_orders import BatchOrder
from prefect_blocks.batches import TooManyFailed, load_batch, run_shard
from prefect_blocks.waiting import in_loop
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import credentials_for
from tl_orchestration.batch import Limits, RowState
from tl_orchestration.errors import AuthenticationError, InvalidRequest, InvalidSettings, LedgerError

COLUMNS: Any = {"key": "id", "parameters": {"firstName": "first"}}
ORIGIN = {"source_system": "crm", "source_entity_type": "customer"}
B3OS: dict[str, Any] = {"service": "b3os", "token": "b3sk_sandbox"}
LEGACY: dict[str, Any] = {
    "service": "transactionlink-legacy",
    "token": "",
    "key": "sandbox-key",
    "secret": SecretStr("sandbox-secret"),
}


@frozen
class Book:
    """
    Customers, a ledger, a folder, and credentials for them, saved as ``batch``.
    """

    remote: Remote
    folder: Path

    def write(self, count: int) -> None:
        lines = [json.dumps({"id": f"c{number}", "first": f"Canary {number}"}) for number in range(count)]
        (self.folder / "in.jsonl").write_text("\n".join(lines) + "\n")

    def save(self, **fields: Any) -> None:
        url = f"sqlite:///{self.folder}/ledger.db"
        credentials_for(self.remote, **{"ledger_url": url, **fields}).save("batch", overwrite=True)

    def run(self, **arguments: Any) -> Any:
        """
        The final state of a flow run.
        """
        asked = {
            "credentials": "batch",
            "workflow_definition_id": "kyc-approve",
            "columns": COLUMNS,
            "source": str(self.folder / "in.jsonl"),
            "output": str(self.folder / "out"),
            "campaign": "w47",
        }
        return run_batch_flow(**{**asked, **arguments}, return_state=True)

    def lines(self, campaign: str = "w47") -> list[dict[str, Any]]:
        """
        What the parts hold that the manifest names.
        """
        folder = self.folder / "out" / campaign
        parts = json.loads((folder / "manifest.json").read_text())["parts"]
        return [json.loads(line) for part in parts for line in (folder / part["name"]).read_text().splitlines()]

    def started(self) -> Counter[str]:
        return Counter(str(start["parameters"]["firstName"]) for start in self.remote.starts())


@flow
def weekly() -> None:
    """A flow around batches."""


@pytest.fixture
def book(remote: Remote, tmp_path: Path) -> Book:
    """
    Six customers.
    """
    remote.define("kyc-approve", duration=0.1)
    made = Book(remote, tmp_path)
    made.save()
    made.write(6)
    return made


def artifacts(state: Any) -> dict[str, Any]:
    """
    Data of the flow run's artifacts, by type.
    """
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return {str(one.type): one.data for one in client.read_artifacts(artifact_filter=mine)}


def test_shards_share_the_rows(book: Book) -> None:
    """Ledger, service and output agree row by row, and Prefect knows counts and keys, and nothing of a person."""
    state = book.run(shards=2)
    assert state.name == "Completed"
    summary = state.result()
    assert summary["counts"] == {"SUCCEEDED": 6}
    assert (summary["outcome"], summary["started_here"]) == ("FINISHED", 6)
    assert book.started() == {f"Canary {number}": 1 for number in range(6)}
    ids = {start["execution_id"]: start["parameters"]["firstName"] for start in book.remote.starts()}
    kept = {line["key"]: ids[line["execution_id"]] for line in book.lines()}
    assert kept == {f"c{number}": f"Canary {number}" for number in range(6)}
    shown = artifacts(state)
    assert shown["progress"] == 100.0
    assert "| SUCCEEDED | 6 |" in shown["markdown"]
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(state.state_details.flow_run_id)
    assert "Canary" not in flow_run.model_dump_json() + json.dumps(shown)


def test_campaign_is_named_by_the_scheduled_time(book: Book) -> None:
    """Two flow runs are two campaigns, each named by when it was scheduled."""
    names = []
    for template in ("{deployment}~{scheduled_time}", "week~{scheduled_time}"):
        state = book.run(campaign=template, max_failed=6)
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(state.state_details.flow_run_id)
        assert flow_run.expected_start_time is not None
        names.append(state.result()["campaign"])
        where = "week" if template.startswith("week") else str(flow_run.flow_id)[:8]
        assert names[-1] == f"{where}~{flow_run.expected_start_time.isoformat()}"
    assert len(book.remote.starts()) == 12


def test_subflow_is_named_by_the_outermost_flow_run(book: Book) -> None:
    """Its own time would be another one when the parent is retried."""
    seen: list[Any] = []

    @flow
    def weekly() -> str:
        from prefect import runtime

        seen.append(runtime.flow_run.scheduled_start_time)
        return str(book.run(campaign="{scheduled_time}").result()["campaign"])

    assert weekly() == seen[0].isoformat()


def test_each_book_of_a_flow_run_is_a_campaign(book: Book) -> None:
    """Two books with the same keys are screened both, and a retry of the flow run finds each campaign again."""
    sources = [book.folder / name for name in ("eu.jsonl", "us.jsonl")]
    for file in sources:
        lines = [json.dumps({"id": f"c{number}", "first": f"{file.stem} {number}"}) for number in range(3)]
        file.write_text("\n".join(lines) + "\n")
    names: list[str] = []

    @flow
    def screens_two() -> None:
        states = [run_batch_flow("batch", "kyc-approve", COLUMNS, str(file), return_state=True) for file in sources]
        names.extend(state.result()["campaign"] for state in states)
        if len(names) == 2:
            raise RuntimeError("once")

    assert screens_two.with_options(retries=1)(return_state=True).is_completed()

    assert book.started() == {f"{file.stem} {number}": 1 for file in sources for number in range(3)}
    assert names[:2] == names[2:]
    assert len({name.rpartition("~")[0] for name in names}) == 1
    assert all(re.fullmatch("[0-9a-f]{8}", name.rpartition("~")[2]) for name in names)
    assert len(set(names)) == 2


def test_book_is_named_by_what_is_screened(book: Book) -> None:
    """Another definition, query or database is another book; shards and folders for results are none."""
    url = f"sqlite:///{book.folder}/customers.db"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id TEXT, first TEXT)"))
        connection.execute(text("INSERT INTO customers VALUES ('a', 'Ada')"))
    engine.dispose()
    for name in ("customers", "others"):
        Secret(value=SecretStr(url)).save(name, overwrite=True)
    book.remote.define("kyc-other", like="kyc-approve", duration=0.1)
    query = {"source": None, "query": "SELECT id, first FROM customers", "query_secret": "customers"}

    def campaign(**arguments: Any) -> str:
        return str(book.run(campaign="{deployment}~{book}", **arguments).result()["campaign"])

    names = [
        campaign(),
        campaign(workflow_definition_id="kyc-other"),
        campaign(**query),
        campaign(**{**query, "query": "SELECT id, first FROM customers WHERE id = 'a'"}),
        campaign(**{**query, "query_secret": "others"}),
    ]

    assert len(set(names)) == 5
    assert campaign(shards=2, output=None) == names[0]


def test_nothing_to_start_is_an_outcome_of_its_own(book: Book) -> None:
    """A second flow run of the campaign starts nothing, and says so by the name of its state."""
    assert book.run().name == "Completed"
    state = book.run()
    assert (state.name, state.is_completed()) == ("NothingToStart", True)
    assert state.result()["counts"] == {"SUCCEEDED": 6}
    assert len(book.remote.starts()) == 6


def test_canary_stops_and_the_next_flow_run_goes_on(book: Book) -> None:
    """So many rows run to their end; the next flow run of the same campaign starts the others only."""
    state = book.run(canary=2)
    assert (state.name, state.is_failed()) == ("Stopped", True)
    assert "4 PENDING, 2 SUCCEEDED" in state.message
    assert "| PENDING | 4 |" in artifacts(state)["markdown"]
    assert book.run().result()["counts"] == {"SUCCEEDED": 6}
    assert set(book.started().values()) == {1}


@pytest.mark.parametrize("limit", [{}, {"max_failed": 5}, {"max_failed": 6, "max_failed_share": 0.9}])
def test_too_many_failures_fail_the_flow(book: Book, limit: dict[str, Any]) -> None:
    """The summary is shown first; within the limit, the flow run is complete."""
    book.remote.define("kyc-fail", duration=0.1)
    state = book.run(workflow_definition_id="kyc-fail", **limit)
    assert state.is_failed()
    with pytest.raises(TooManyFailed, match=r"6 have failed and 0 may or may not have started.*tl batch retry w47"):
        state.result()
    assert "| FAILED | 6 |" in artifacts(state)["markdown"]
    assert book.run(workflow_definition_id="kyc-fail", max_failed=6, max_failed_share=1.0).is_completed()


def test_unknown_fate_is_no_success(book: Book) -> None:
    """A start whose answer is lost counts for the limit, and the summary says how to find it."""
    book.remote.order("start", "lose", definition="kyc-approve")
    state = book.run()
    with pytest.raises(TooManyFailed, match="0 have failed and 1 may or may not have started"):
        state.result()
    assert "tl batch export 'w47' --state UNKNOWN" in artifacts(state)["markdown"]


def test_failed_flow_run_is_gone_on_with(book: Book) -> None:
    """A refused token fails the flow run with the error that says so; the next one starts what is left."""
    book.save(token="tot_wrong")
    state = book.run(shards=2)
    with pytest.raises(AuthenticationError):
        state.result()
    assert "failed with AuthenticationError" in artifacts(state)["markdown"]
    book.save()
    assert book.run().result()["counts"] == {"SUCCEEDED": 6}
    assert set(book.started().values()) == {1}


def test_shard_is_retried_and_goes_on(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard whose results cannot be written is retried by Prefect, and starts nothing twice."""
    monkeypatch.setattr(run_shard, "retry_delay_seconds", 0)
    out = book.folder / "out"
    out.write_text("a file, where a folder should be")

    def mended(*_: Any) -> bool:
        out.unlink(missing_ok=True)
        return True

    monkeypatch.setattr(run_shard, "retry_condition_fn", mended)
    state = book.run()
    assert state.result()["counts"] == {"SUCCEEDED": 6}
    assert book.started() == {f"Canary {number}": 1 for number in range(6)}
    assert len(book.lines()) == 6


def test_shards_may_have_processes_of_their_own(book: Book) -> None:
    """What they are asked goes to them in names; each opens the ledger itself."""
    runner: Any = ProcessPoolTaskRunner(max_workers=2)  # its futures are of a narrower type than Prefect asks for
    apart = run_batch_flow.with_options(task_runner=runner)
    columns = BatchColumns(**COLUMNS)
    summary = apart("batch", "kyc-approve", columns, source=str(book.folder / "in.jsonl"), campaign="w47", shards=2)
    assert summary["counts"] == {"SUCCEEDED": 6}
    assert set(book.started().values()) == {1}


def test_flow_runs_may_share_a_campaign(book: Book) -> None:
    """At the same time, too: they share the rows, and none is in the results twice."""
    book.write(30)
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(copy_context().run, book.run) for _ in range(2)]
        states = [one.result() for one in running]
    assert all(state.result()["counts"] == {"SUCCEEDED": 30} for state in states)
    assert sum(state.result()["started_here"] for state in states) == 30
    assert set(book.started().values()) == {1}
    assert len(book.lines()) == len({line["key"] for line in book.lines()}) == 30


@pytest.mark.parametrize("ends", ["the flow run", "its parent"])
@pytest.mark.parametrize("state", [StateType.CANCELLING, StateType.CRASHED])
def test_shard_of_another_process_is_told_to_stop(monkeypatch: pytest.MonkeyPatch, ends: str, state: StateType) -> None:
    """It asks the server, and goes on for as long as the flow run and those around it do, or that is not clear."""
    monkeypatch.setattr(batch_stopping, "_ASK", 0.05)
    with get_client(sync_client=True) as client:
        outer = client.create_flow_run(weekly, state=Running())
        around = client.create_task_run(load_batch, outer.id, "weekly-0", state=Running())
        inner = client.create_flow_run(run_batch_flow, parent_task_run_id=around.id, state=Running())
        with batch_stopping.told_to_stop(inner.id) as stop, batch_stopping.told_to_stop(uuid4()) as unclear:
            time.sleep(0.5)
            assert not stop()
            ended = inner if ends == "the flow run" else outer
            client.set_flow_run_state(ended.id, State(type=state), force=True)
            until = time.monotonic() + 60
            while not stop():
                assert time.monotonic() < until
                time.sleep(0.05)
            assert not unclear()


@pytest.mark.parametrize(
    ("person", "on_cancel", "cancels"), [(True, "cancel", 6), (True, "leave", 0), (False, "cancel", 0)]
)
def test_hook_of_a_parent_flow_cancels_what_a_killed_process_has_left(
    book: Book, monkeypatch: pytest.MonkeyPatch, person: bool, on_cancel: str, cancels: int
) -> None:
    """It finds the campaigns of the subflows in the flow run's inputs; nobody's cancel, and ``leave``, end nothing."""

    class Killed(BaseException):
        pass

    def dies(*_: Any, **__: Any) -> None:
        book.remote.wait_for("POST /workflows", 6)
        until = time.monotonic() + 60
        while in_flight() < 6:
            assert time.monotonic() < until
            time.sleep(0.05)
        raise Killed

    def in_flight() -> int:
        order = BatchOrder(credentials="batch", campaign="w47", flow_run="")
        with order.opened() as batch:
            return batch.summary().count(RowState.STARTED)

    book.remote.define("kyc-approve", duration=None)
    monkeypatch.setattr(batches, "wait_for", dies)
    runs: list[UUID] = []

    @flow
    def parent() -> None:
        from prefect import runtime

        runs.append(UUID(str(runtime.flow_run.id)))
        book.run(shards=2, on_cancel=on_cancel)

    with pytest.raises(Killed):
        parent()
    with get_client(sync_client=True) as client:
        before: State[Any] = Cancelling() if person else Running()
        for state in (before, State(type=StateType.CANCELLED)):
            client.set_flow_run_state(runs[0], state, force=True)
        flow_run = client.read_flow_run(runs[0])
        kept = client.filter_flow_run_input(runs[0], "tlbatch-", 10, set())
    assert flow_run.state is not None
    assert len(book.remote.starts()) == 6
    assert book.remote.cancels() == []
    assert "Canary" not in str(kept)

    cancel_batch_executions(parent, flow_run, flow_run.state)

    assert len(book.remote.cancels()) == cancels


def test_campaign_that_prefect_cannot_note_starts_nothing(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign that no hook would find is not begun."""

    def refuses(*_: object) -> bool:
        raise ObjectNotFound(RuntimeError("gone"))

    monkeypatch.setattr(inputs, "create", refuses)
    with pytest.raises(LedgerError, match=r"does not take the note that flow run .* is at campaign w47"):
        book.run().result()
    assert book.remote.starts() == []


def test_changed_and_withdrawn_rows_are_told(book: Book, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads the log of a load learns that the source and what has started are no longer the same."""
    assert book.run(canary=2).name == "Stopped"
    assert "no longer in the source" not in caplog.text
    lines = [json.dumps({"id": f"c{number}", "first": f"Changed {number}"}) for number in range(5)]
    (book.folder / "in.jsonl").write_text("\n".join(lines) + "\n")

    book.run()

    started = sum(name.startswith("Canary") for name in book.started())
    assert f"{started} rows changed after they had started, and 1 are no longer in the source." in caplog.text


def test_campaign_that_somebody_cancelled_ends_as_cancelled(book: Book) -> None:
    """It is no success that others may go on from, and no failure of its rows."""
    book.remote.define("kyc-approve", duration=None)
    elsewhere = BatchOrder(
        credentials="batch",
        campaign="w47",
        flow_run="elsewhere",
        workflow_definition_id="kyc-approve",
        columns=BatchColumns(**COLUMNS),
        source=str(book.folder / "in.jsonl"),
        limits=Limits(in_flight=2),
    )
    with elsewhere.opened(0) as batch:
        batch.load()
        batch.run(at_cap="return")
        in_loop(batch.cancel)
        batch.run()
    state = book.run()
    assert (state.is_cancelled(), state.name) == (True, "Cancelled")
    assert "2 CANCELLED, 4 PENDING. Somebody has cancelled it" in state.message
    assert len(book.remote.starts()) == 2


def test_rows_come_from_a_query(book: Book) -> None:
    """The database is named by a Secret block, and its URL is not stored with the flow run."""
    url = f"sqlite:///{book.folder}/customers.db"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id TEXT, first TEXT, due INTEGER)"))
        connection.execute(text("INSERT INTO customers VALUES ('a', 'Ada', 1), ('b', 'Bob', 0)"))
    engine.dispose()
    Secret(value=SecretStr(url)).save("customers", overwrite=True)
    query = "SELECT id, first FROM customers WHERE due = 1"
    state = book.run(source=None, query=query, query_secret="customers")
    assert state.result()["counts"] == {"SUCCEEDED": 1}
    assert book.started() == {"Ada": 1}
    with get_client(sync_client=True) as client:
        assert "customers.db" not in client.read_flow_run(state.state_details.flow_run_id).model_dump_json()


def test_bad_rows_are_shown_without_values(book: Book) -> None:
    """The summary says which column of which key is wrong; with ``stop`` nothing is sent."""
    (book.folder / "in.jsonl").write_text('{"id": "a|b", "last": "Canary"}\n{"id": "c1", "first": "Canary"}\n')
    state = book.run(on_bad_rows="stop")
    with pytest.raises(InvalidRequest, match="nothing is started"):
        state.result()
    assert book.remote.starts() == []
    shown = artifacts(book.run(campaign="w48"))["markdown"]
    assert "| rejected in the source | 1 |" in shown
    assert "| 1 | a\\|b | first |" in shown
    assert "Canary" not in shown


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"source": None}, InvalidRequest, "by source, or by query"),
        ({"query": "SELECT 1", "query_secret": "customers"}, InvalidRequest, "by source, or by query"),
        ({"shards": 0}, InvalidRequest, "at least one shard"),
        ({"max_failed_share": 1.5}, InvalidRequest, "from 0 to 1"),
        ({"campaign": "week 47"}, InvalidSettings, "campaign's name"),
        ({"output": "s3://jo:hunter2@bucket/kyc"}, InvalidRequest, "storage"),
        ({"in_flight": 0}, InvalidSettings, "in_flight"),
    ],
    ids=lambda value: None if isinstance(value, type) else str(value)[:24],
)
def test_what_cannot_work_is_refused_first(
    book: Book, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Nothing is read, nothing is sent, and no secret is quoted."""
    with pytest.raises(error, match=words) as refused:
        book.run(**arguments).result()
    assert "hunter2" not in str(refused.value)
    assert book.remote.count("POST /workflows") == 0


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"ledger_url": None}, InvalidSettings, "'batch' names none in ledger_url"),
        ({"result_uri_prefixes": ["s3://vault/kyc/"]}, InvalidRequest, "only below s3://vault/kyc/"),
    ],
    ids=["ledger", "prefixes"],
)
def test_credentials_that_do_not_fit_are_refused_first(
    book: Book, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    """A campaign needs a ledger, and results go where the credentials allow."""
    book.save(**fields)
    with pytest.raises(error, match=words):
        book.run().result()
    assert book.remote.count("POST /workflows") == 0


def test_rows_at_b3os_say_where_they_come_from(book: Book) -> None:
    """For all by service_options, for each by columns; in every shard."""
    book.save(**B3OS)
    columns = {**COLUMNS, "options": {"external_ref": {"name": "id", "type": "text"}}}
    state = book.run(columns=columns, service_options=ORIGIN, shards=2)
    assert state.result()["counts"] == {"SUCCEEDED": 6}
    told = [start["details"] for start in book.remote.starts()]
    assert {(one["sourceSystem"], one["externalRef"]) for one in told} == {("crm", f"c{number}") for number in range(6)}
    assert all(line["result"] for line in book.lines())


def test_rows_at_the_legacy_service_are_about_cases(book: Book) -> None:
    """Of their columns; Prefect is told of none."""
    book.save(**LEGACY)
    state = book.run(columns={"key": "id", "options": {"first_name": "first"}})
    assert state.result()["counts"] == {"SUCCEEDED": 6}
    names = {case["fields"]["firstName"] for case in book.remote.cases()}
    assert names == {f"Canary {number}" for number in range(6)}


@pytest.mark.parametrize(
    ("fields", "options", "words"),
    [
        ({}, ORIGIN, "transactionlink takes no service_options"),
        (B3OS, None, "b3os needs service_options with source_system and source_entity_type"),
        (B3OS, {**ORIGIN, "reference": "x"}, "have no reference"),
        (LEGACY, {"first_name": "Canary"}, "Fields of a case are personal, and Prefect stores"),
        (LEGACY, {"case_id": "Canary"}, "case_id must be a UUID"),
    ],
    ids=["transactionlink", "missing", "unknown", "personal", "wrong"],
)
def test_options_that_do_not_fit_are_refused_first(
    book: Book, fields: dict[str, Any], options: dict[str, Any] | None, words: str
) -> None:
    """Nothing is read and nothing is sent, and no value is quoted."""
    book.save(**fields)
    with pytest.raises(InvalidRequest, match=words) as refused:
        book.run(service_options=options).result()
    assert "Canary" not in str(refused.value)
    assert book.remote.starts() == []


def test_a_name_that_is_no_column_of_a_batch_is_refused(book: Book) -> None:
    """A typing error in the mapping does not lead to a row without the parameter."""
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError):
        book.run(columns={"key": "id", "recordid": "rec"}).result()
