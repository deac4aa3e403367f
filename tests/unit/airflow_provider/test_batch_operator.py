"""
Batch tasks executed, deferred, watched and resumed against the sandbox, with what Airflow hands to a task.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import signal
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.sdk import DAG, BaseHook
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields
from airflow.sdk.execution_time.timeout import timeout
from sqlalchemy import create_engine

from airflow_provider import batch_shift, batch_trigger, decisions, versions, waiting_trigger
from airflow_provider.batch_progress import BatchProgress
from airflow_provider.batch_trigger import TransactionlinkBatchTrigger
from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry
from airflow_provider.operators import TransactionlinkBatchOperator
from airflow_provider.provider_info import get_provider_info
from airflow_provider.versions import AirflowSkipException, AirflowTaskTimeout
from tests.airflow_versions import TaskDeferred
from tests.planted import FIRST_NAME, PERSONAL, found_in
from tests.unit.airflow_provider.services import B3OS_OPTIONS, CONN_ID, connect
from tests.wire.batch.campaigns import records, write
from tl_orchestration import LegacyOptions
from tl_orchestration.batch import Batch, BatchSummary, RowState
from tl_orchestration.database.engine import Database
from tl_orchestration.errors import InvalidRequest, InvalidSettings, LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.remote import Remote

#: How the run that a TaskInstance is of by default stands in the names of workers.
RUN_1 = "4e65d3fb"
COLUMNS = {"key": "id", "parameters": {"firstName": "first"}}


class TaskInstance(SimpleNamespace):
    """What the operator asks of Airflow's task instance."""

    def __init__(self, map_index: int = -1, try_number: int = 1) -> None:
        super().__init__(
            dag_id="weekly", task_id="screen", run_id="run-1", map_index=map_index, try_number=try_number, max_tries=0
        )
        self.start_date = datetime.now(UTC)
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value))


class World:
    """A service, a ledger, a book and Airflow's word on the task."""

    def __init__(self, remote: Remote, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.remote, self.folder, self._monkeypatch = remote, folder, monkeypatch
        self.store = folder / "ledger.db"
        self.events: list[dict[str, Any]] = []
        self.triggers: list[dict[str, Any]] = []
        self.state: str | None = "running"
        self.connect()
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", self, raising=False)
        monkeypatch.setattr(decisions, "_ready", False)

    def send(self, question: Any) -> Any:
        """As Airflow's supervisor, asked for the state of the task."""
        states = {"run-1": {question.task_ids[0]: self.state}}
        return SimpleNamespace(task_states=states)

    async def asend(self, question: Any) -> Any:
        """The same where Airflow 3.1 asks, in the event loop."""
        return self.send(question)

    def connect(self, extra: dict[str, Any] | None = None, *, service: str = "transactionlink", **fields: Any) -> None:
        known = {"ledger_url": f"sqlite:///{self.store}"} if extra is None else extra
        connect(self._monkeypatch, self.remote.url, service, known, **fields)

    def book(self, count: int) -> Path:
        return write(self.folder / "book.jsonl", records(count))

    def task(self, count: int = 8, **arguments: Any) -> TransactionlinkBatchOperator:
        chosen: dict[str, Any] = {
            "workflow_definition_id": "kyc-approve",
            "columns": COLUMNS,
            "campaign": "w47",
            "results": str(self.folder / "out"),
            "transactionlink_conn_id": CONN_ID,
        }
        if "sql" not in arguments:
            chosen["source"] = str(self.book(count))
        return TransactionlinkBatchOperator(task_id="screen", **chosen | arguments)

    def run(
        self, task: TransactionlinkBatchOperator, ti: TaskInstance | None = None, began: datetime | None = None
    ) -> dict[str, Any]:
        """
        Execute, and as often as the task defers, run its trigger and resume.

        Args:
            began: When the DAG run did.
        """
        context: Any = {"ti": ti or TaskInstance(), "dag_run": SimpleNamespace(start_date=began)}
        go: Callable[[], dict[str, Any]] = lambda: task.execute(context)  # noqa: E731 -- changes below
        while True:
            try:
                return json.loads(json.dumps(go()))  # type: ignore[no-any-return]
            except TaskDeferred as deferred:
                go = self.resumed(task, context, deferred)

    def resumed(self, task: TransactionlinkBatchOperator, context: Any, deferred: Any) -> Callable[[], dict[str, Any]]:
        event = self.watched(deferred.trigger)
        self.events.append(event)
        arguments = json.loads(json.dumps(deferred.kwargs or {}))
        return lambda: getattr(task, deferred.method_name)(context, event=event, **arguments)

    def watched(self, trigger: TransactionlinkBatchTrigger) -> dict[str, Any]:
        """
        What the trigger says, built anew from what Airflow keeps of it.
        """
        path, arguments = trigger.serialize()
        assert path == f"{TransactionlinkBatchTrigger.__module__}.{TransactionlinkBatchTrigger.__name__}"
        self.triggers.append(json.loads(json.dumps(arguments)))

        async def one() -> dict[str, Any]:
            (event,) = [event async for event in TransactionlinkBatchTrigger(**arguments).run()]
            return json.loads(json.dumps(event.payload))  # type: ignore[no-any-return]

        return asyncio.run(one())

    def lines(self, campaign: str = "w47") -> list[dict[str, Any]]:
        folder = self.folder / "out" / campaign
        manifest = json.loads((folder / "manifest.json").read_text())
        parts = [(folder / part["name"]).read_text() for part in manifest["parts"]]
        return [json.loads(line) for part in parts for line in part.splitlines()]

    def end(self) -> None:
        for start in self.remote.starts():
            self.remote.force(start["execution_id"], status="COMPLETED")

    def started(self) -> list[str]:
        return sorted(start["parameters"]["firstName"] for start in self.remote.starts())


@pytest.fixture
def world(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    remote.define("kyc-approve", duration=0.3)
    return World(remote, tmp_path, monkeypatch)


def test_a_campaign_starts_up_to_the_limit_defers_and_is_finished(world: World) -> None:
    """Every row once, each result kept; the triggers have names only; a second run has nothing to start."""
    summary = world.run(world.task(in_flight=3, requests_per_second=500))

    assert (summary["outcome"], summary["counts"], summary["started_here"]) == ("FINISHED", {"SUCCEEDED": 8}, 8)
    assert world.started() == sorted(one["first"] for one in records(8))
    assert sorted(line["key"] for line in world.lines()) == [one["id"] for one in records(8)]
    assert {tuple(arguments) for arguments in world.triggers} == {
        ("transactionlink_conn_id", "campaign", "worker", "cancel_on_kill")
    }
    assert {arguments["worker"] for arguments in world.triggers} == {f"weekly/screen@{RUN_1}"}
    assert len(world.triggers) < 8
    again = world.run(world.task())
    assert (again["outcome"], again["started_here"]) == ("NOTHING_TO_START", 0)
    assert len(world.started()) == 8


def test_nothing_personal_is_in_what_airflow_is_given(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in arguments of triggers, events, return value or log; nor in the ledger."""
    book = write(tmp_path / "planted.jsonl", [{"id": "c1", "first": FIRST_NAME}, {"id": "c2"}])
    caplog.set_level("DEBUG")

    summary = world.run(world.task(source=str(book), in_flight=1))

    assert summary["load"]["rejected"] == 1
    assert world.started() == [FIRST_NAME]
    said = json.dumps([summary, world.triggers, world.events]) + caplog.text
    assert not found_in(said, PERSONAL)
    assert not found_in("\n".join(sqlite3.connect(world.store).iterdump()), PERSONAL)


def test_a_worker_alone_waits_to_the_end(world: World) -> None:
    """deferrable=False: no trigger."""
    summary = world.run(world.task(deferrable=False, in_flight=4))

    assert (summary["outcome"], world.triggers) == ("FINISHED", [])


def test_shards_are_workers_of_one_campaign(world: World) -> None:
    """A shard that has its rows from another is not another campaign; each is named by its index, or by ``shard``."""
    tasks = [world.task(20, in_flight=4), world.task(20, in_flight=4, shard="b")]
    ran: list[dict[str, Any]] = []
    at_work = [
        threading.Thread(target=lambda t=task, n=number: ran.append(world.run(t, TaskInstance(n))))
        for number, task in enumerate(tasks)
    ]
    for one in at_work:
        one.start()
    for one in at_work:
        one.join()

    assert {one["outcome"] for one in ran} <= {"FINISHED", "LEFT_TO_OTHERS", "NOTHING_TO_START"}
    assert "FINISHED" in {one["outcome"] for one in ran}
    assert world.started() == sorted(one["first"] for one in records(20))
    assert {arguments["worker"] for arguments in world.triggers} <= {
        f"weekly/screen[0]@{RUN_1}",
        f"weekly/screen[b]@{RUN_1}",
    }


def test_runs_that_share_a_campaign_are_workers_of_their_own(endless: World) -> None:
    """What a person ends of one run takes nothing from the other; a retry and a clear keep their name."""
    deferred = []
    for run_id in ("run-1", "run-2"):
        ti = TaskInstance()
        ti.run_id = run_id
        with pytest.raises(TaskDeferred) as caught:
            endless.task(10, in_flight=4 if run_id == "run-1" else 7).execute({"ti": ti})  # type: ignore[typeddict-item]
        deferred.append((caught.value.trigger, {start["execution_id"] for start in endless.remote.starts()}))
    (first, firsts), (second, both) = deferred
    with pytest.raises(TaskDeferred) as again:
        endless.task(10, in_flight=7).execute({"ti": TaskInstance(try_number=2)})  # type: ignore[typeddict-item]

    asyncio.run(second._end())

    assert (len(firsts), len(both)) == (4, 7)
    assert {cancel["execution_id"] for cancel in endless.remote.cancels()} == both - firsts
    assert again.value.trigger.worker == first.worker != second.worker


@pytest.mark.parametrize(
    ("policy", "fails"),
    [
        ({}, True),
        ({"max_failed": 1}, True),
        ({"max_failed": 2}, False),
        ({"max_failed_share": 0.4}, True),
        ({"max_failed_share": 0.5}, False),
        ({"max_failed": 1, "max_failed_share": 0.9}, True),
    ],
)
def test_too_many_failed_rows_fail_the_task_for_good(world: World, policy: dict[str, Any], *, fails: bool) -> None:
    """The summary is in XCom all the same."""
    world.remote.order("start", "status", status=400, times=2)
    ti = TaskInstance()
    task = world.task(4, **policy)
    if not fails:
        assert world.run(task, ti)["failed"] == 2
        return

    with pytest.raises(TransactionlinkFailure, match="of 4 rows 2 have failed"):
        world.run(task, ti)

    assert ti.pushed["return_value"]["counts"] == {"REJECTED": 2, "SUCCEEDED": 2}


def test_a_canary_fails_the_task_for_a_person_to_look(world: World) -> None:
    """What was started is finished first, the summary is in XCom, and without a canary the campaign goes on."""
    ti = TaskInstance()

    with pytest.raises(TransactionlinkFailure, match="stopped at its canary or max_starts, with 6 rows left"):
        world.run(world.task(canary=2), ti)

    assert ti.pushed["return_value"]["counts"] == {"PENDING": 6, "SUCCEEDED": 2}
    assert world.run(world.task())["counts"] == {"SUCCEEDED": 8}
    assert len(world.started()) == 8


def test_a_run_that_starts_nothing_can_be_skipped(world: World) -> None:
    """An empty book with on_nothing_to_start="skip"."""
    ti = TaskInstance()

    with pytest.raises(AirflowSkipException, match="nothing to start"):
        world.run(world.task(0, on_nothing_to_start="skip"), ti)

    assert ti.pushed["return_value"]["outcome"] == "NOTHING_TO_START"


def test_a_run_that_has_started_something_is_not_skipped(world: World) -> None:
    """A shard that comes late, or a retry, finds nothing to start, but its DAG run has; the next run has not."""
    skips: dict[str, Any] = {"on_nothing_to_start": "skip"}
    began = datetime.now(UTC)
    world.run(world.task(3, shard=0, **skips), TaskInstance(0))

    late = world.run(world.task(3, shard=1, **skips), TaskInstance(1), began)
    retried = world.run(world.task(3, shard=0, **skips), TaskInstance(0, try_number=2), began)

    assert (late["outcome"], retried["outcome"]) == ("NOTHING_TO_START", "NOTHING_TO_START")
    with pytest.raises(AirflowSkipException):
        world.run(world.task(3, **skips), TaskInstance(), datetime.now(UTC))
    with pytest.raises(AirflowSkipException):  # the task's own start, where the run's is not known
        world.run(world.task(3, **skips))


DEFAULT_CAMPAIGN = inspect.signature(TransactionlinkBatchOperator).parameters["campaign"].default


def rendered(task: TransactionlinkBatchOperator, ti: TaskInstance, dag: DAG) -> TransactionlinkBatchOperator:
    """As Airflow does before it executes a task."""
    context: Any = {"ti": ti, "dag": dag, "task": task, "run_id": ti.run_id}
    task.render_template_fields(context)
    return task


def test_elements_of_a_mapped_task_do_not_share_a_campaign_by_default(world: World) -> None:
    """Two books in one campaign: the second would not be screened. Shards and campaigns of their own are meant so."""
    for arguments, fails in (
        ({"campaign": DEFAULT_CAMPAIGN}, True),
        ({"campaign": DEFAULT_CAMPAIGN, "shard": 0}, False),
        ({"campaign": DEFAULT_CAMPAIGN + "~{{ ti.map_index }}"}, False),
        ({"campaign": "w47"}, False),
    ):
        ti = TaskInstance(0)
        with DAG("weekly") as dag:
            task = rendered(world.task(1, **arguments), ti, dag)
        if fails:
            with pytest.raises(TransactionlinkFailure, match=r"it is mapped.*Map it over shard.*a campaign") as caught:
                world.run(task, ti)
            assert isinstance(caught.value.error, InvalidRequest)
            assert world.remote.starts() == []
        else:
            assert world.run(task, ti)["outcome"] == "FINISHED"


@pytest.mark.parametrize("dag_id", ["prüfung", "d" * 190])
def test_a_default_campaign_that_is_no_name_says_where_it_comes_from(world: World, dag_id: str) -> None:
    """The message names the argument that mends it."""
    ti = TaskInstance()
    ti.dag_id = dag_id
    with DAG(dag_id) as dag:
        task = rendered(world.task(campaign=DEFAULT_CAMPAIGN), ti, dag)

    with pytest.raises(TransactionlinkFailure, match=r"the default, of DAG, task and run id: pass campaign=") as caught:
        world.run(task, ti)

    assert isinstance(caught.value.error, InvalidRequest)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "neither source nor sql": ({"source": None}, "give either source, or sql and sql_conn_id"),
    "sql without a connection": ({"sql": "SELECT 1"}, "give either source, or sql and sql_conn_id"),
    "no such file type": ({"source": "/book.xlsx"}, "must end in .jsonl"),
    "no such storage": ({"source": "s4://bucket/book.csv"}, "storage of the source of task 'screen' cannot be used"),
    "columns": ({"columns": {"kee": "id"}}, "not known: kee"),
    "columns that are text": ({"columns": "abc"}, "columns are Columns or a dict of its arguments, not str"),
    "values that are text": (
        {"sql": "SELECT 1", "sql_conn_id": "customers", "sql_parameters": "abc"},
        "sql_parameters are a dict of the query's names, not str",
    ),
    "word for nothing": ({"on_nothing_to_start": "sikp"}, "on_nothing_to_start is 'accept' or 'skip', not 'sikp'"),
    "time": ({"timeout": "1h"}, "timeout must be a timedelta or seconds"),
    "starts that are text": ({"max_starts": "5"}, "max_starts must be a number, not str"),
    "starts that are no number": ({"canary": True}, "canary must be a number, not bool"),
    "limit that is text": ({"in_flight": "{{ params.limit }}"}, "in_flight must be a number, not str"),
    "rate that is text": ({"requests_per_second": "20"}, "requests_per_second must be a number, not str"),
    "quota": ({"in_flight": 0}, "in_flight must be greater than zero"),
    "policy": ({"on_bad_rows": "sometimes"}, "on_bad_rows"),
    "share": ({"max_failed_share": 7}, "max_failed_share is a share"),
    "number": ({"max_failed": -1}, "max_failed is a number"),
    "definition": ({"workflow_definition_id": ""}, "workflow_definition_id is rendered to"),
    "campaign": ({"campaign": "week 47"}, "campaign's name has letters"),
    "results": ({"results": "s3://key:secret@bucket/out"}, "has a password"),
    "options": ({"service_options": {"source_system": "s"}}, "transactionlink takes no service_options"),
    "columns of options": ({"columns": {"key": "id", "options": {"case_id": "c"}}}, "transactionlink takes no options"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_before_anything_is_sent(world: World, case: str) -> None:
    """Each with a message that says what to change, and without a retry."""
    arguments, message = REFUSED[case]

    with pytest.raises(TransactionlinkFailure, match=message) as caught:
        world.run(world.task(**arguments))

    assert isinstance(caught.value.error, InvalidRequest | InvalidSettings)
    assert "secret" not in str(caught.value)
    assert world.remote.starts() == []


def test_a_campaign_at_b3os_says_where_its_rows_come_from(world: World) -> None:
    """For all rows by service_options, for each by columns; deferred in between."""
    world.connect(service="b3os")
    task = world.task(columns={**COLUMNS, "options": {"external_ref": "id"}}, service_options=B3OS_OPTIONS, in_flight=5)

    assert world.run(task)["counts"] == {"SUCCEEDED": 8}

    told = [start["details"] for start in world.remote.starts()]
    assert {one["externalRef"] for one in told} == {one["id"] for one in records(8)}
    assert {one["sourceSystem"] for one in told} == {"airflow"}
    assert world.events


def test_a_campaign_at_the_legacy_service_is_about_cases(world: World) -> None:
    """From columns, beside what holds for all rows."""
    world.connect(service="transactionlink-legacy")
    options = {"first_name": "first"}
    task = world.task(2, columns={"key": "id", "options": options}, service_options=LegacyOptions(company_name="Acme"))

    assert world.run(task)["counts"] == {"SUCCEEDED": 2}

    cases = [case["fields"] for case in world.remote.cases()]
    assert {(one["firstName"], one["companyName"]) for one in cases} == {("Ada 0", "Acme"), ("Ada 1", "Acme")}


@pytest.mark.parametrize(
    ("service", "options", "message"),
    [
        ("b3os", None, "The service b3os needs service_options with source_system and source_entity_type"),
        ("b3os", {**B3OS_OPTIONS, "reference": "x"}, "service_options of the service b3os have no reference"),
        ("b3os", LegacyOptions(), "takes B3osOptions as its service_options"),
        ("transactionlink-legacy", B3OS_OPTIONS, "service_options of the service transactionlink-legacy have no"),
    ],
)
def test_options_that_are_not_the_services_are_refused(world: World, service: str, options: Any, message: str) -> None:
    """Before a row is read, and without a retry."""
    world.connect(service=service)

    with pytest.raises(TransactionlinkFailure, match=message):
        world.run(world.task(service_options=options))

    assert world.remote.starts() == []


def test_b3os_without_a_key_is_refused(world: World) -> None:
    """Nobody could ask for what the batch has started."""
    world.connect(service="b3os", password="")

    with pytest.raises(TransactionlinkFailure, match="key"):
        world.run(world.task(service_options=B3OS_OPTIONS))

    assert world.remote.starts() == []


def test_a_connection_without_a_ledger_is_refused(world: World) -> None:
    """Nothing is sent, and the message names the field."""
    world.connect(extra={})

    with pytest.raises(TransactionlinkFailure, match=r"A batch needs a SQL ledger.*ledger_url"):
        world.run(world.task())

    assert world.remote.starts() == []


def test_a_connection_keeps_results_where_it_allows_them(world: World) -> None:
    """``result_uri_prefixes`` hold for a batch, too."""
    world.connect(extra={"ledger_url": f"sqlite:///{world.store}", "result_uri_prefixes": "s3://kyc/"})

    with pytest.raises(TransactionlinkFailure, match="allows results only below s3://kyc/"):
        world.run(world.task())

    assert world.remote.starts() == []


def test_rows_of_a_query(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the hook of an Airflow connection, with values that Airflow is not shown."""
    database = world.folder / "customers.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE customers (id TEXT, first TEXT, city TEXT)")
        connection.executemany("INSERT INTO customers VALUES (?, ?, ?)", [("c1", "Ada", "Ulm"), ("c2", "Bea", "Bonn")])

    class Customers(DbApiHook):
        conn_name_attr = "customers_conn_id"

        def get_sqlalchemy_engine(self, engine_kwargs: Any = None) -> Any:
            return create_engine(f"sqlite:///{database}")

    monkeypatch.setenv("AIRFLOW_CONN_CUSTOMERS", "sqlite://")
    monkeypatch.setattr(type(BaseHook.get_connection("customers")), "get_hook", lambda _: Customers())
    statement = "SELECT id, first FROM customers WHERE city = :city"

    summary = world.run(world.task(sql=statement, sql_conn_id="customers", sql_parameters={"city": "Ulm"}))

    assert (summary["outcome"], world.started()) == ("FINISHED", ["Ada"])


def test_an_sql_connection_without_a_database_is_refused(world: World) -> None:
    """The message has the connection's name, and not what it holds."""
    with pytest.raises(TransactionlinkFailure, match="'nowhere' gives no database that can be queried"):
        world.run(world.task(sql="SELECT 1", sql_conn_id="nowhere"))


def test_what_airflow_stores_of_rendered_arguments(world: World) -> None:
    """Default campaign, and neither passwords nor the values of a query."""
    with DAG("weekly") as dag:
        task = world.task(
            source="s3://key:{{ 'secret' }}@bucket/book.csv",
            sql="SELECT id FROM customers",
            sql_conn_id="customers",
            sql_parameters={"name": FIRST_NAME},
            service_options={"company_name": FIRST_NAME + "{{ run_id }}"},
            campaign=DEFAULT_CAMPAIGN,
        )

    rendered(task, TaskInstance(), dag)

    stored = _serialize_rendered_fields(task)
    assert stored["campaign"] == "weekly~screen~run-1"
    assert "secret" not in json.dumps(stored)
    assert FIRST_NAME not in json.dumps(stored)
    assert stored["results"] == str(world.folder / "out")
    assert stored["service_options"] == {"company_name": "***"}
    assert task.service_options.reveal() == {"company_name": FIRST_NAME + "run-1"}


def interrupted(
    world: World, task: TransactionlinkBatchOperator, signals: Callable[[], None] | None = None, starts: int = 3
) -> Any:
    """Execute a task whose executions never end, and signal it once so many have started."""

    def signalled() -> None:
        world.remote.wait_for("POST /workflows", starts)
        time.sleep(0.5)
        (signals or task.on_kill)()

    watching = threading.Thread(target=signalled)
    watching.start()
    try:
        return world.run(task)
    finally:
        watching.join()


@pytest.fixture
def endless(world: World) -> World:
    world.remote.define("kyc-approve", duration=None)
    return world


def test_a_person_who_stops_the_task_cancels_what_it_has_in_flight(endless: World) -> None:
    """And no other's; the task is not tried again."""
    with pytest.raises(TaskDeferred):
        endless.task(5, in_flight=2, shard="other").execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]
    others = {start["execution_id"] for start in endless.remote.starts()}
    endless.state = "failed"

    with pytest.raises(TransactionlinkFailure, match="3 executions of its own were cancelled"):
        interrupted(endless, endless.task(5, in_flight=5, deferrable=False), starts=5)

    assert len(others) == 2
    cancelled = {cancel["execution_id"] for cancel in endless.remote.cancels()}
    assert cancelled == {start["execution_id"] for start in endless.remote.starts()} - others


def test_cancel_on_kill_false_leaves_what_runs(endless: World) -> None:
    """A person's stop then cancels nothing."""
    endless.state = "failed"

    with pytest.raises(TransactionlinkFailure, match="left running, as cancel_on_kill=False"):
        interrupted(endless, endless.task(3, deferrable=False, cancel_on_kill=False))

    assert endless.remote.cancels() == []


def test_a_worker_that_goes_away_leaves_everything_to_the_next_try(endless: World) -> None:
    """A signal alone: nothing is cancelled, the try ends as one to be retried, and the retry starts nothing again."""
    with pytest.raises(TransactionlinkRetry, match="the next try goes on with it"):
        interrupted(endless, endless.task(3, deferrable=False))

    assert endless.remote.cancels() == []
    for start in endless.remote.starts():
        endless.remote.force(start["execution_id"], status="COMPLETED")
    summary = endless.run(endless.task(3), TaskInstance(try_number=2))
    assert (summary["counts"], summary["started_here"]) == ({"SUCCEEDED": 3}, 0)
    assert len(endless.remote.starts()) == 3


def test_execution_timeout_of_a_running_task(endless: World) -> None:
    """Airflow's own, which it raises wherever the main thread is: what runs is cancelled, and the time-out goes on."""
    task = endless.task(3, deferrable=False, execution_timeout=timedelta(seconds=60))

    with pytest.raises(AirflowTaskTimeout), timeout(60):  # type: ignore[no-untyped-call]  # Airflow's
        interrupted(endless, task, lambda: os.kill(os.getpid(), signal.SIGALRM))

    assert len(endless.remote.cancels()) == 3


@pytest.mark.parametrize("interruption", [AirflowTaskTimeout, KeyboardInterrupt])
def test_a_source_that_does_not_answer_keeps_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, interruption: type[BaseException]
) -> None:
    """Nor is there anything to cancel where there is no campaign yet, and nothing of that to warn of."""
    monkeypatch.setattr(batch_shift, "_ORDERLY", 0.2)
    stuck = world.folder / "stuck.csv"
    os.mkfifo(stuck)
    task = world.task(source=str(stuck), columns={"key": "id"}, execution_timeout=timedelta(seconds=60))

    def ended(*_: object) -> None:
        raise interruption

    loading, load = threading.Event(), Batch.load

    def noted(batch: Batch, **how: Any) -> Any:
        loading.set()
        return load(batch, **how)

    monkeypatch.setattr(Batch, "load", noted)

    def signalled() -> None:
        loading.wait(60)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, ended)
    gc.disable()  # an exception that a signal raises is lost where a callback of the collector runs just then
    others = set(threading.enumerate())
    telling = threading.Thread(target=signalled)
    telling.start()
    try:
        with pytest.raises(interruption):
            world.run(task)
    finally:
        gc.enable()
        telling.join()
        signal.signal(signal.SIGUSR1, before)
        for reading in set(threading.enumerate()) - others:
            while reading.is_alive():
                os.close(os.open(stuck, os.O_RDWR))  # it finds nothing, and goes
                reading.join(0.1)

    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert "could be cancelled" not in caplog.text


def test_a_time_out_of_airflow_that_is_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that does not answer keeps nobody beyond the task's time even then."""
    monkeypatch.setattr(batch_shift, "_ORDERLY", 0.2)
    stuck = world.folder / "stuck.csv"
    os.mkfifo(stuck)
    task = world.task(source=str(stuck), columns={"key": "id"}, execution_timeout=timedelta(seconds=1))
    try:
        with pytest.raises(AirflowTaskTimeout):
            world.run(task)
    finally:
        stuck.open("w").close()


def test_execution_timeout_of_a_deferred_task(endless: World) -> None:
    """Airflow ends the deferral then; the resumed task cancels what it has in flight."""
    task = endless.task(3, execution_timeout=timedelta(seconds=60))
    context: Any = {"ti": TaskInstance()}
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    assert deferred.value.timeout <= timedelta(seconds=60)

    with pytest.raises(AirflowTaskTimeout):
        task.resume_execution("__fail__", {"error": "Trigger timeout"}, context)

    assert len(endless.remote.cancels()) == 3


def test_a_time_out_that_has_passed_while_it_was_deferred(endless: World) -> None:
    """A task that is resumed after its time is up does no work."""
    task = endless.task(3, in_flight=1, execution_timeout=timedelta(seconds=60))
    ti = TaskInstance()
    with pytest.raises(TaskDeferred):
        task.execute({"ti": ti})  # type: ignore[typeddict-item]
    ti.start_date -= timedelta(seconds=61)

    with pytest.raises(AirflowTaskTimeout):
        task.go_on({"ti": ti}, event={"format": 1, "campaign": "w47"})  # type: ignore[typeddict-item]

    assert len(endless.remote.starts()) == len(endless.remote.cancels()) == 1


def test_a_time_out_that_passes_while_the_book_is_read(endless: World) -> None:
    """What the task has in flight since an earlier try is cancelled as well, and Airflow hears of a time-out."""
    task = endless.task(3, execution_timeout=timedelta(seconds=60))
    with pytest.raises(TaskDeferred):
        task.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]
    endless.book(4)
    ti = TaskInstance(try_number=2)
    ti.start_date -= timedelta(seconds=61)

    with pytest.raises(AirflowTaskTimeout):
        task.execute({"ti": ti})  # type: ignore[typeddict-item]

    assert len(endless.remote.starts()) == len(endless.remote.cancels()) == 3


def test_a_trigger_that_crashed_is_made_up_for(endless: World) -> None:
    """The task works on in the worker, and ends its campaign there."""
    task, context = endless.task(in_flight=2), {"ti": TaskInstance()}
    with pytest.raises(TaskDeferred):
        task.execute(context)  # type: ignore[arg-type]
    endless.remote.define("kyc-approve", duration=0.3)
    endless.end()

    summary = task.resume_execution("__fail__", {"error": "Trigger failure"}, context)  # type: ignore[arg-type]

    assert (summary["outcome"], summary["counts"]) == ("FINISHED", {"SUCCEEDED": 8})
    assert endless.triggers == []


def test_a_person_who_ends_a_deferred_task(endless: World) -> None:
    """Its trigger cancels what the task has in flight; one that was only moved or cleared cancels nothing."""
    with pytest.raises(TaskDeferred) as deferred:
        endless.task(12).execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]
    _, arguments = deferred.value.trigger.serialize()

    async def stopped() -> None:
        trigger = TransactionlinkBatchTrigger(**arguments)
        trigger.task_instance = cast("Any", TaskInstance())
        polls = endless.remote.count("GET /workflows/{id}")
        watching = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.to_thread(endless.remote.wait_for, "GET /workflows/{id}", polls + 1)
        watching.cancel()
        await asyncio.wait([watching])
        if versions.HAS_TRIGGER_ON_KILL:
            killing = asyncio.ensure_future(trigger.on_kill())
            for _ in range(5):  # as Airflow does until the trigger has ended
                await asyncio.sleep(0.05)
                killing.cancel()
            await asyncio.wait([killing])

    for state in ("deferred", None, "scheduled"):
        endless.state = state
        asyncio.run(stopped())
        assert endless.remote.cancels() == []
    endless.state = "failed"
    asyncio.run(stopped())
    assert len(endless.remote.cancels()) == 12


def test_a_rotated_token_does_not_end_the_watch(endless: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trigger reads the connection again until its token is right; after its budget it says what is wrong."""
    monkeypatch.setattr(waiting_trigger, "_CREDENTIAL_PAUSE", 0.2)
    with pytest.raises(TaskDeferred) as deferred:
        endless.task().execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]
    _, arguments = deferred.value.trigger.serialize()
    endless.connect(password="tot_revoked")
    endless.end()

    async def rotated() -> Any:
        watching = asyncio.ensure_future(anext(TransactionlinkBatchTrigger(**arguments).run()))
        await asyncio.sleep(1.5)
        assert not watching.done()
        endless.connect()
        return await watching

    assert asyncio.run(rotated()).payload["error"] is None


@pytest.mark.parametrize(("away", "error"), [(2.0, None), (60.0, "LedgerError")])
def test_a_store_that_is_away_for_a_moment_does_not_end_the_watch(
    world: World, monkeypatch: pytest.MonkeyPatch, away: float, error: str | None
) -> None:
    """The trigger goes on once it can be read again; after its budget it says what is wrong."""
    monkeypatch.setattr(batch_trigger, "_STORE_PAUSE", 0.2)
    if error:
        monkeypatch.setattr(batch_trigger, "_STORE_BUDGET", 1.0)
    world.remote.define("kyc-approve", duration=None if error else 4)
    with pytest.raises(TaskDeferred) as deferred:
        world.task(2).execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]
    fails_from = time.monotonic() + 1.0

    def failing(real: Callable[[Database], Any]) -> Callable[[Database], Any]:
        def used(database: Database) -> Any:
            if fails_from <= time.monotonic() < fails_from + away:
                raise LedgerError("The database cannot be used.")
            return real(database)

        return used

    monkeypatch.setattr(Database, "reading", failing(Database.reading))
    monkeypatch.setattr(Database, "writing", failing(Database.writing))

    assert world.watched(deferred.value.trigger)["error"] == error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("PermissionDenied", TransactionlinkFailure),
        ("AuthenticationError", TransactionlinkRetry),
        ("InvalidSettings", TransactionlinkRetry),
        ("LedgerError", TransactionlinkRetry),
        ("OSError", TransactionlinkRetry),
    ],
)
def test_what_the_watch_failed_with(world: World, error: str, kind: type[Exception]) -> None:
    """By its class: what no retry can mend is not retried. An event that is not understood fails the task."""
    task, context = world.task(), {"ti": TaskInstance()}

    with pytest.raises(kind, match=f"w47 in the triggerer failed \\({error}, HTTP 401\\)"):
        task.go_on(context, event={"format": 1, "campaign": "w47", "error": error, "status_code": 401})  # type: ignore[arg-type]
    with pytest.raises(TransactionlinkRetry, match="does not understand"):
        task.go_on(context, event={"format": 2, "campaign": "w47"})  # type: ignore[arg-type]


def test_progress_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """Counts by state, rate and the time that is left; not at every look."""
    caplog.set_level("INFO")
    now = iter([0.0, 0.0, 0.0, 10.0, 10.0, 40.0, 40.0, 40.0])
    progress = BatchProgress(lambda: next(now))
    for pending, done in ((100, 0), (90, 10), (60, 40)):
        progress.tell(BatchSummary(campaign="w47", counts={RowState.PENDING: pending, RowState.SUCCEEDED: done}))

    assert [record.getMessage() for record in caplog.records] == [
        "Campaign w47: 100 PENDING, 0 SUCCEEDED; 0.0 rows/s",
        "Campaign w47: 60 PENDING, 40 SUCCEEDED; 1.0 rows/s, 0:01:00 left",
    ]


def test_airflow_is_told_of_operator_and_trigger() -> None:
    """The provider's metadata names their modules."""
    told = json.dumps(get_provider_info())
    assert TransactionlinkBatchTrigger.__module__ in told
    assert "airflow_provider.operators" in told
