"""
Steps of each service, executed, deferred and resumed against the sandbox, with what Airflow hands to a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.execution_time.timeout import timeout

from airflow_provider import identity, shared_clients, versions
from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry
from airflow_provider.ledger import TaskStateLedger
from airflow_provider.operators import TransactionlinkRunWorkflowOperator
from airflow_provider.versions import AirflowTaskTimeout
from tests.airflow_versions import TaskDeferred
from tests.planted import FIRST_NAME, found_in
from tests.unit.airflow_provider.services import (
    B3OS_OPTIONS,
    CONN_ID,
    LEGACY_OPTIONS,
    OPTIONS,
    SERVICES,
    connect,
)
from tests.unit.airflow_provider.test_ledger import Store
from tl_orchestration import B3osOptions, LegacyOptions
from tl_orchestration.errors import (
    InvalidRequest,
    InvalidSettings,
    RequestChanged,
    StartOutcomeUnknown,
    TransactionlinkError,
)
from tl_orchestration.ledger import SqlLedger, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow.sdk import BaseOperator

    from tests.remote import Remote

KEY = "onboarding-4711"


class TaskInstance(SimpleNamespace):
    """What the operator asks of Airflow's task instance."""

    def __init__(self, run_id: str = "run", max_tries: int = 0) -> None:
        super().__init__(
            dag_id="dag",
            task_id="check",
            run_id=run_id,
            map_index=-1,
            max_tries=max_tries,
            try_number=1,
            start_date=datetime.now(UTC),
        )
        self.on_push: Callable[[], None] = lambda: None

    def xcom_push(self, **_: Any) -> None:
        self.on_push()


def context(store: Store | None = None, **facts: Any) -> Any:
    return {"ti": TaskInstance(**facts), "task_state_store": store or Store()}


def step(**arguments: Any) -> TransactionlinkRunWorkflowOperator:
    chosen = {
        "task_id": "check",
        "workflow_definition_id": "kyc-approve",
        "transactionlink_conn_id": CONN_ID,
        "poll_interval": 0.1,
        "defer_after": 0,
        **arguments,
    }
    return TransactionlinkRunWorkflowOperator(**chosen)


async def fired(trigger: Any) -> Any:
    """The trigger's one event, as Airflow brings it back."""
    (payload,) = [event.payload async for event in trigger.run()]
    for shared in shared_clients._pools.pop(asyncio.get_running_loop()).clients.values():
        await shared.client.close()
    return json.loads(json.dumps(payload))


def resumed(deferral: TaskDeferred, given: Any, **arguments: Any) -> Any:
    """Let the triggerer wait by what it was given as JSON, then resume the task in another process's operator."""
    path, stored = deferral.trigger.serialize()
    trigger = type(deferral.trigger)(**json.loads(json.dumps(stored)))
    assert path.endswith(type(trigger).__name__)
    return step(**arguments).execute_complete(given, event=asyncio.run(fired(trigger)))


def ended(given: Any, **arguments: Any) -> Any:
    """What a step returns that defers once."""
    with pytest.raises(TaskDeferred) as caught:
        step(deferrable=True, **arguments).execute(given)
    return resumed(caught.value, given, deferrable=True, **arguments)


def refused(given: Any, **arguments: Any) -> TransactionlinkError:
    """The core's error that a step fails with."""
    with pytest.raises(TransactionlinkFailure) as caught:
        step(**arguments).execute(given)
    assert caught.value.error is not None
    return caught.value.error


def render(task: BaseOperator, **values: Any) -> None:
    """Render the template fields, as Airflow does before it executes a task."""
    given: Any = values
    task.render_template_fields(given)


@contextlib.contextmanager
def execution_timeout(passes: Callable[[], object]) -> Iterator[None]:
    """Airflow's own limit, as it is around ``execute``; it passes once something has come about."""
    over = threading.Event()

    def watch() -> None:
        while not (passes() or over.wait(0.01)):
            pass
        time.sleep(0.1)
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGALRM)

    watching = threading.Thread(target=watch)
    gc.disable()  # an exception that a signal raises is lost where a callback of the collector runs just then
    try:
        with timeout(120):  # type: ignore[no-untyped-call]  # Airflow's
            watching.start()
            yield
    finally:
        over.set()
        gc.enable()
        watching.join()


@pytest.fixture(autouse=True)
def _quick(remote: Remote) -> None:
    remote.define("kyc-approve", duration=0.2)


class TestServices:
    @pytest.mark.parametrize("deferrable", [False, True])
    @pytest.mark.parametrize("service", SERVICES)
    def test_step_runs_to_its_end(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str, *, deferrable: bool
    ) -> None:
        """One start, in the worker or deferred, and the decision that its result has."""
        connect(monkeypatch, remote.url, service)
        arguments = {"service_options": OPTIONS[service], "result_fields": {"decision": "decision"}}
        returned = ended(context(), **arguments) if deferrable else step(**arguments).execute(context())
        (start,) = remote.starts()
        assert (start["service"] == "b3os") is (service == "b3os")
        assert returned == {
            "execution_id": start["execution_id"],
            "status": "SUCCEEDED",
            "fields": {"decision": "approve"},
        }

    def test_version_of_a_legacy_start_outlives_the_deferral(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote
    ) -> None:
        """A run about a case is version 1, whose result alone tells of the party; so it is after the resume."""
        connect(monkeypatch, remote.url, "transactionlink-legacy")
        assert "partyDetails" in ended(context(), service_options=LEGACY_OPTIONS, result="full")["result"]
        assert "partyDetails" not in ended(context(), result="full")["result"]

    @pytest.mark.parametrize(
        ("service", "options"),
        [("transactionlink-legacy", LegacyOptions(**LEGACY_OPTIONS)), ("b3os", B3osOptions(**B3OS_OPTIONS))],
    )
    def test_ready_values_are_taken(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str, options: Any
    ) -> None:
        """LegacyOptions and B3osOptions do as well as a dict."""
        connect(monkeypatch, remote.url, service)
        step(service_options=options, wait_for_completion=False).execute(context())
        assert len(remote.starts()) == 1

    @pytest.mark.parametrize(
        ("service", "arguments", "says"),
        [
            ("transactionlink", {"service_options": LEGACY_OPTIONS}, "takes no service_options"),
            ("transactionlink-legacy", {"service_options": B3OS_OPTIONS}, "have no source_entity_type, source_system"),
            ("b3os", {"service_options": LegacyOptions(**LEGACY_OPTIONS)}, "takes B3osOptions as its service_options"),
            ("b3os", {}, "needs service_options with source_system and source_entity_type"),
            ("b3os", {"service_options": B3OS_OPTIONS, "expires_in": 3600}, "has no expiry"),
            ("transactionlink-legacy", {"expires_at": "2030-01-01T00:00Z"}, "has no expiry"),
            ("transactionlink", {"on_unknown_start": "repeat-same-key"}, "transactionlink takes none"),
            (
                "transactionlink-legacy",
                {"on_unknown_start": "repeat-same-key"},
                "transactionlink-legacy takes none",
            ),
            (
                "b3os",
                {"service_options": B3OS_OPTIONS, "on_unknown_start": "repeat-same-key", "durable": False},
                "needs durable=True or a key",
            ),
        ],
    )
    def test_what_the_service_does_not_take_is_refused_unsent(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str, arguments: dict[str, Any], says: str
    ) -> None:
        """Options of another service, an expiry or a policy that it does not have: one sentence, nothing sent."""
        connect(monkeypatch, remote.url, service)
        error = refused(context(), **arguments)
        assert isinstance(error, InvalidRequest)
        assert says in str(error)
        assert found_in(str(error)) == []
        assert (remote.starts(), remote.cases()) == ([], [])

    def test_lost_answer_is_repeated_with_the_same_key(self, monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
        """repeat-same-key: B3OS gets the same start again, and the step goes on with what that answers."""
        connect(monkeypatch, remote.url, "b3os")
        remote.order("start", "lose")
        returned = step(service_options=B3OS_OPTIONS, on_unknown_start="repeat-same-key").execute(context())
        assert returned["status"] == "SUCCEEDED"
        assert len({start["details"]["idempotencyKey"] for start in remote.starts()}) == 1

    def test_rendered_options_show_their_keys_only(self, monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
        """Fields of a case are personal data: what Airflow can store of them has no value; the service gets them."""
        connect(monkeypatch, remote.url, "transactionlink-legacy")
        task = step(service_options={"first_name": "{{ name }}"}, wait_for_completion=False)
        render(task, name=FIRST_NAME)
        shown = {name: getattr(task, name) for name in task.template_fields}
        assert shown["service_options"].serialize() == {"first_name": "***"}
        assert found_in(str(shown)) == []
        task.execute(context())
        (case,) = remote.cases()
        assert FIRST_NAME in str(case)


class TestNoCancel:
    def test_deadline_says_that_the_execution_goes_on(self, monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
        """The legacy service cannot cancel: the deadline ends the task and says so."""
        connect(monkeypatch, remote.url, "transactionlink-legacy")
        error = refused(context(), workflow_definition_id="kyc-slow", timeout=0.5)
        assert "It goes on: this service cannot cancel it." in str(error)
        assert len(remote.starts()) == 1

    @pytest.mark.parametrize(
        ("service", "says"),
        [
            ("transactionlink", "was cancelled."),
            ("transactionlink-legacy", "goes on: The legacy API cannot cancel"),
            ("b3os", "goes on, for it cannot be cancelled yet: "),
        ],
    )
    def test_stop_says_what_became_of_the_execution(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, service: str, says: str
    ) -> None:
        """A person stops the task: the message says whether the execution was cancelled or goes on."""
        connect(monkeypatch, remote.url, service, {"execution_url": "https://example.org/{execution_id}"})
        remote.define("kyc-slow", before_run={"workflow_queued": None})
        task = step(workflow_definition_id="kyc-slow", service_options=OPTIONS[service])
        monkeypatch.setattr(versions, "task_states", lambda **_: {"run": {"check": "failed"}})
        given = context()
        given["ti"].on_push = task.on_kill  # once the link to what was started is stored
        with pytest.raises(TransactionlinkFailure) as caught:
            task.execute(given)
        (start,) = remote.starts()
        assert f"execution {start['execution_id']} {says}" in str(caught.value)


class TestStops:
    def test_task_that_was_ended_meanwhile_does_not_defer(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote
    ) -> None:
        """Marked failed, and the process not told yet: nobody would hear of it any more, so the step cancels now."""
        connect(monkeypatch, remote.url, "transactionlink")
        monkeypatch.setattr(versions, "task_states", lambda **_: {"run": {"check": "failed"}})
        with pytest.raises(TransactionlinkFailure, match="was cancelled"):
            step(workflow_definition_id="kyc-slow", deferrable=True).execute(context())
        (start,) = remote.starts()
        assert [cancel["execution_id"] for cancel in remote.cancels()] == [start["execution_id"]]

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_cleared_task_that_keeps_nothing_cancels(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, *, deferrable: bool
    ) -> None:
        """With durable=False the next try starts another execution, so the one that was cleared ends this one."""
        connect(monkeypatch, remote.url, "transactionlink", {"execution_url": "https://example.org/{execution_id}"})
        monkeypatch.setattr(versions, "task_states", lambda **_: {"run": {"check": "restarting"}})
        task = step(workflow_definition_id="kyc-slow", durable=False, deferrable=deferrable)
        given = context()
        if not deferrable:
            given["ti"].on_push = task.on_kill  # once the link to what was started is stored
        with pytest.raises(TransactionlinkFailure, match="was cancelled"):
            task.execute(given)
        (start,) = remote.starts()
        assert [cancel["execution_id"] for cancel in remote.cancels()] == [start["execution_id"]]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"on_unknown_start": "maybe"}, "'on_unknown_start' must be in"),
            ({"on_link_lost": "maybe"}, "'on_link_lost' must be in"),
            ({"on_changed_request": "maybe"}, "'on_changed_request' must be in"),
            ({"on_unknown_start": "restart"}, "on_unknown_start='restart' needs durable=True or a key"),
            ({"on_unknown_start": "repeat-same-key"}, "on_unknown_start='repeat-same-key' needs durable=True or a key"),
            ({"on_changed_request": "reattach"}, "on_changed_request='reattach' needs durable=True or a key"),
            ({"on_link_lost": "restart"}, "on_link_lost='restart' needs durable=True or a key"),
            ({"correlation_parameter": "reference"}, "correlation_parameter needs durable=True or a key"),
            ({"status_map": "x"}, "status_map must be a dict from the service's words to their meanings, not str"),
        ],
    )
    def test_step_that_keeps_nothing_takes_no_argument_about_what_is_kept(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, arguments: dict[str, Any], says: str
    ) -> None:
        """durable=False: a word that is none, or that nothing could heed, is refused before the start."""
        connect(monkeypatch, remote.url, "transactionlink")
        assert says in str(refused(context(), durable=False, **arguments))
        assert remote.starts() == []

    def test_stop_while_a_retry_attaches_cancels_what_it_has_on_record(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote
    ) -> None:
        """A person stops the retry in its first look at the execution: it is cancelled, for the ledger knows it."""
        connect(monkeypatch, remote.url, "transactionlink")
        store = Store()
        with pytest.raises(TaskDeferred):
            step(workflow_definition_id="kyc-slow", deferrable=True).execute(context(store))
        monkeypatch.setattr(versions, "task_states", lambda **_: {"run": {"check": "failed"}})
        task = step(workflow_definition_id="kyc-slow", deferrable=True)
        task.on_kill()
        with pytest.raises(TransactionlinkFailure, match="was cancelled"):
            task.execute(context(store))
        (start,) = remote.starts()
        assert [cancel["execution_id"] for cancel in remote.cancels()] == [start["execution_id"]]

    def test_time_that_is_up_during_the_start_is_an_unknown_fate_on_record(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, caplog: pytest.LogCaptureFixture
    ) -> None:
        """execution_timeout cuts the POST off: ledger and log say so, and the next try starts nothing."""
        connect(monkeypatch, remote.url, "transactionlink")
        remote.order("start", "hold", seconds=25)
        store = Store()
        with pytest.raises(AirflowTaskTimeout), execution_timeout(remote.starts):
            step(correlation_parameter="reference").execute(context(store))
        entry = TaskStateLedger(store).read(identity.step_key(context()["ti"]))
        assert entry is not None
        assert (entry.state, entry.reason) == (State.UNKNOWN, "AirflowTaskTimeout")
        assert "was ended by its execution_timeout and may or may not have started an execution" in caplog.text
        assert f"Look for reference = {entry.correlation_id} among the executions' parameters" in caplog.text
        assert "tl ledger adopt" in caplog.text
        error = refused(context(store), correlation_parameter="reference")
        assert isinstance(error, StartOutcomeUnknown)
        assert len(remote.starts()) <= 1

    @pytest.mark.parametrize("status", ["MYSTERY", None])
    def test_time_that_is_up_ends_nothing_whose_status_is_unknown(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, caplog: pytest.LogCaptureFixture, status: str | None
    ) -> None:
        """execution_timeout in a wait: one last poll says whether the execution is cancelled."""
        connect(monkeypatch, remote.url, "transactionlink")
        store, asked = Store(), {"workflow_definition_id": "kyc-slow"}
        with pytest.raises(TaskDeferred):
            step(deferrable=True, **asked).execute(context(store))
        (start,) = remote.starts()
        if status is not None:
            remote.force(start["execution_id"], status=status)
        with pytest.raises(AirflowTaskTimeout), execution_timeout(lambda: remote.count("GET /workflows/{id}")):
            step(**asked).execute(context(store))
        assert len(remote.cancels()) == (1 if status is None else 0)
        assert f"Execution {start['execution_id']}" in caplog.records[-1].getMessage()

    @pytest.mark.parametrize(
        "arguments", [{"fail_when": "decision == 'reject'"}, {"result_fields": {"a": "b"}}, {"result": "full"}]
    )
    def test_step_that_does_not_wait_takes_no_rule_about_the_end(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, arguments: dict[str, Any]
    ) -> None:
        """A verdict that nobody would ask for is refused before the start."""
        connect(monkeypatch, remote.url, "transactionlink")
        error = refused(context(), wait_for_completion=False, **arguments)
        assert f"nothing heeds {next(iter(arguments))}: give that to the sensor" in str(error)
        assert remote.starts() == []

    def test_time_that_is_up_before_the_start_leaves_no_doubt(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where only the case of a legacy start was under way, the log says so and the next try starts."""
        connect(monkeypatch, remote.url, "transactionlink-legacy")
        remote.order("cases", "hold", seconds=25)
        store, arguments = Store(), {"service_options": LEGACY_OPTIONS}
        with pytest.raises(AirflowTaskTimeout), execution_timeout(remote.cases):
            step(**arguments).execute(context(store))
        assert "was up before the start of step" in caplog.text
        assert step(**arguments).execute(context(store))["status"] == "SUCCEEDED"
        assert len(remote.starts()) == 1

    def test_time_that_is_up_during_an_unrecorded_start_is_said(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With durable=False only the log can tell that something may run."""
        connect(monkeypatch, remote.url, "transactionlink")
        remote.order("start", "hold", seconds=25)
        with pytest.raises(AirflowTaskTimeout), execution_timeout(remote.starts):
            step(durable=False).execute(context())
        assert "may or may not have started an execution" in caplog.text

    @pytest.mark.parametrize("expression", ["(to_string)(@)", "join(',', values(@))", "[0] || to_string ( @ )"])
    def test_whole_result_does_not_leave_as_a_text(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote, expression: str
    ) -> None:
        """A connection that forbids full results refuses to make one text of them, before anything is sent."""
        connect(monkeypatch, remote.url, "transactionlink", {"forbid_full_result": True})
        error = refused(context(), result_fields={"all": expression})
        assert "forbids full results" in str(error)
        assert remote.starts() == []

    def test_ending_that_nobody_saw_opens_the_next_attempt(
        self, monkeypatch: pytest.MonkeyPatch, remote: Remote
    ) -> None:
        """retry_failed: the retry that finds the failure reports it, the one after starts again."""
        connect(monkeypatch, remote.url, "transactionlink")
        remote.define("falls", like="kyc-slow")
        store, asked = Store(), {"workflow_definition_id": "falls", "retry_failed": True}
        with pytest.raises(TaskDeferred):
            step(deferrable=True, **asked).execute(context(store))
        remote.force(remote.starts()[0]["execution_id"], status="FAILED")
        with pytest.raises(TransactionlinkRetry):
            step(**asked).execute(context(store))
        with pytest.raises(TaskDeferred):
            step(deferrable=True, **asked).execute(context(store))
        assert len(remote.starts()) == 2


class TestKey:
    def test_time_that_is_up_during_a_start_names_the_command(
        self, remote: Remote, ledger: SqlLedger, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In a ledger that others share the intent may be another process's, so it is left to tell for itself."""
        ledger.read(KEY)  # its tables are made before the time counts
        remote.order("start", "hold", seconds=25)
        with pytest.raises(AirflowTaskTimeout), execution_timeout(remote.starts):
            step(key=KEY, service_options=B3OS_OPTIONS).execute(context())
        entry = ledger.read(KEY)
        assert entry is not None
        assert entry.state is State.INTENT
        assert f"tl ledger show {KEY}" in caplog.text

    @pytest.fixture(autouse=True)
    def ledger(self, monkeypatch: pytest.MonkeyPatch, remote: Remote, tmp_path: Path) -> SqlLedger:
        """The ledger of the connection, a file that does not exist yet."""
        url = f"sqlite:///{tmp_path}/ledger.db"
        connect(monkeypatch, remote.url, "b3os", {"ledger_url": url})
        host = remote.url.removeprefix("http://")
        return SqlLedger(url, f"b3os@{host}")

    def run(self, **arguments: Any) -> Any:
        return ended(context(run_id=arguments.pop("run_id", "run")), service_options=B3OS_OPTIONS, **arguments)

    def test_other_runs_go_on_with_what_was_started(self, remote: Remote, ledger: SqlLedger) -> None:
        """Another run, and a cleared task, get the same execution; the task state is not used."""
        store = Store()
        first = ended(context(store), service_options=B3OS_OPTIONS, key=KEY)
        for facts in ({"run_id": "later"}, {"max_tries": 3}):
            again = step(service_options=B3OS_OPTIONS, key=KEY).execute(context(store, **facts))
            assert again == first
        other = self.run(key="onboarding-4712")
        assert [start["execution_id"] for start in remote.starts()] == [first["execution_id"], other["execution_id"]]
        assert store.values == {}
        entry = ledger.read(KEY)
        assert entry is not None
        assert (entry.state, entry.execution_id) == (State.SETTLED, first["execution_id"])

    def test_key_may_be_a_template(self, remote: Remote, ledger: SqlLedger) -> None:
        """What it is rendered to is the key, for everybody to see."""
        task = step(service_options=B3OS_OPTIONS, key="onboarding-{{ number }}", wait_for_completion=False)
        render(task, number=4711)
        assert task.key == KEY
        task.execute(context())
        assert ledger.read(KEY) is not None

    def test_no_task_state_is_needed(self, remote: Remote) -> None:
        """A key holds also where Airflow keeps no task state, and with durable=False."""
        given: Any = {"ti": TaskInstance()}
        first = step(service_options=B3OS_OPTIONS, key=KEY, durable=False).execute(given)
        again = step(service_options=B3OS_OPTIONS, key=KEY).execute(given)
        assert first == again
        assert len(remote.starts()) == 1

    def test_failed_execution_is_repeated_only_where_that_is_asked_for(self, remote: Remote) -> None:
        """Another run reports the ending that the key has led to; with retry_failed it starts again."""
        arguments = {"key": KEY, "service_options": B3OS_OPTIONS, "workflow_definition_id": "kyc-fail"}
        remote.define("kyc-fail", duration=0.2)
        for run_id in ("first", "second"):
            with pytest.raises(TransactionlinkFailure, match="ended as FAILED"):
                step(**arguments).execute(context(run_id=run_id))
        assert len(remote.starts()) == 1
        with pytest.raises(TransactionlinkRetry):
            step(**arguments, retry_failed=True).execute(context(run_id="third"))
        assert len(remote.starts()) == 2

    def test_changed_request_is_refused(self, remote: Remote) -> None:
        """A key that has started something else starts nothing."""
        self.run(key=KEY)
        error = refused(context(), key=KEY, service_options=B3OS_OPTIONS, parameters={"firstName": FIRST_NAME})
        assert isinstance(error, RequestChanged)
        assert len(remote.starts()) == 1

    def test_unknown_start_is_settled_by_a_person(self, remote: Remote, ledger: SqlLedger) -> None:
        """The message names the ledger's command, for here a person can tell it what happened."""
        remote.order("start", "lose")
        error = refused(context(), key=KEY, service_options=B3OS_OPTIONS)
        assert isinstance(error, StartOutcomeUnknown)
        with pytest.raises(TransactionlinkFailure, match=f"tl ledger adopt {KEY}") as caught:
            step(key=KEY, service_options=B3OS_OPTIONS).execute(context())
        assert "clear the task" not in str(caught.value)
        assert len(remote.starts()) == 1
        assert ledger.read(KEY) is not None

    def test_without_a_ledger_nothing_is_sent(self, monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
        """A key that nobody would keep is no promise."""
        connect(monkeypatch, remote.url, "b3os")
        error = refused(context(), key=KEY, service_options=B3OS_OPTIONS)
        assert isinstance(error, InvalidSettings)
        assert "A key needs a SQL ledger" in str(error)
        assert remote.starts() == []

    @pytest.mark.parametrize("key", ["", "  ", "two\nlines", True])
    def test_unusable_key_is_refused_unsent(self, remote: Remote, key: Any) -> None:
        """Empty, for instance because a template found nothing, or not printable: it is never taken for no key."""
        error = refused(context(), key=key, service_options=B3OS_OPTIONS)
        assert isinstance(error, InvalidRequest)
        assert remote.starts() == []

    def test_key_that_is_rendered_to_nothing_is_not_left_out(self, remote: Remote) -> None:
        """Native rendering makes None of an absent value, and a number of digits."""
        task = step(key="{{ reference }}", service_options=B3OS_OPTIONS)
        task.key = None
        with pytest.raises(TransactionlinkFailure, match="is rendered to something"):
            task.execute(context())
        assert remote.starts() == []
        number: Any = 4711
        task.key = number
        assert task.execute(context())["status"] == "SUCCEEDED"

    def test_broken_wait_goes_on_with_what_the_key_has_started(self, remote: Remote) -> None:
        """A trigger that crashed leaves the execution in the ledger of keys, where the step finds it again."""
        given = context()
        with pytest.raises(TaskDeferred):
            step(key=KEY, service_options=B3OS_OPTIONS, deferrable=True).execute(given)
        again = step(key=KEY, service_options=B3OS_OPTIONS, deferrable=True)
        returned = again.resume_execution("__fail__", {"error": "Trigger failure"}, given)
        assert [start["execution_id"] for start in remote.starts()] == [returned["execution_id"]]

    def test_execution_timeout_counts(self, remote: Remote) -> None:
        """A keyed step has Airflow's own limit as any other has."""
        arguments = {"key": KEY, "service_options": B3OS_OPTIONS, "workflow_definition_id": "kyc-slow"}
        with pytest.raises(TransactionlinkFailure, match="its deadline passed"):
            step(**arguments, execution_timeout=timedelta(seconds=0.5)).execute(context())
        assert len(remote.cancels()) == 1
