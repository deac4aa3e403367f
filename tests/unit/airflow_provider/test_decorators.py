"""
``@task.transactionlink``: what the function may return, what it is given, and what Airflow keeps of either.
"""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, XComArg, task
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_provider.decorators import TransactionlinkDecoratedOperator, transactionlink_task
from airflow_provider.failures import TransactionlinkFailure
from tests.airflow_versions import TaskDeferred, stored_dag
from tests.planted import FIRST_NAME, PARAMETERS, PERSONAL, found_in
from tests.unit.airflow_provider.services import B3OS_OPTIONS, CONN_ID, connect
from tests.unit.airflow_provider.test_ledger import Store
from tests.unit.airflow_provider.test_steps import TaskInstance, fired
from tl_orchestration import B3osOptions, LegacyOptions, RunRequest
from tl_orchestration.errors import InvalidRequest, RequestChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.remote import Remote

COMMON: dict[str, Any] = {"transactionlink_conn_id": CONN_ID, "poll_interval": 0.1, "defer_after": 0}


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    connect(monkeypatch, remote.url, "transactionlink")
    remote.define("kyc-approve", duration=0.2)


def decorated(function: Callable[..., Any], **arguments: Any) -> Any:
    """The function as a task, still to be called."""
    chosen = {**COMMON, "workflow_definition_id": "kyc-approve", **arguments}
    return transactionlink_task(**chosen)(function)


def in_dag(make: Callable[[], Any]) -> tuple[Any, Any]:
    """The one task that ``make`` adds to a DAG, and what Airflow hands to it."""
    with DAG("dag") as dag:
        make()
    (given,) = [one for one in dag.tasks if one.task_id == "check"]
    ti = TaskInstance()
    ti.task = given
    facts: dict[str, Any] = {"dag": dag, "dag_run": SimpleNamespace(conf={}), "task": given, "ds": "2026-11-21"}
    return given, {"ti": ti, "task_instance": ti, "task_state_store": Store(), **facts}


def check() -> dict[str, Any]:
    """Look at the applicant."""
    return PARAMETERS


def run(make: Callable[[], Any]) -> dict[str, Any]:
    """Render and execute, as Airflow does."""
    given, context = in_dag(make)
    given.render_template_fields(context)
    returned: dict[str, Any] = context["task"].execute(context)
    return returned


def refused(make: Callable[[], Any]) -> str:
    """What a task says that starts nothing."""
    with pytest.raises(TransactionlinkFailure) as caught:
        run(make)
    assert isinstance(caught.value.error, InvalidRequest)
    return str(caught.value)


def test_task_returns_what_the_operator_does(remote: Remote) -> None:
    """The function's mapping is sent, once, and the task returns one dict."""
    returned = run(lambda: decorated(check, result_fields={"decision": "decision"})())
    (start,) = remote.starts()
    assert start["parameters"] == PARAMETERS
    assert returned == {
        "execution_id": start["execution_id"],
        "status": "SUCCEEDED",
        "fields": {"decision": "approve"},
    }


def test_function_is_given_arguments_and_context(remote: Remote) -> None:
    """Positional and named arguments, templates in them, and what of Airflow's context the function names."""

    def check(first: str, day: str, *, ti: Any = None, **_: Any) -> dict[str, str]:
        return {"first": first, "day": day, "task": ti.task_id}

    run(lambda: decorated(check)("Ada", day="{{ ds }}"))
    (start,) = remote.starts()
    assert start["parameters"] == {"first": "Ada", "day": "2026-11-21", "task": "check"}


def test_coroutine_function_is_awaited(remote: Remote) -> None:
    """An async function does as well."""

    async def check() -> dict[str, str]:
        return {"first": "Ada"}

    run(lambda: decorated(check)())
    assert remote.starts()[0]["parameters"] == {"first": "Ada"}


def test_request_says_everything(remote: Remote) -> None:
    """A RunRequest brings its own definition and locale."""

    def check() -> RunRequest:
        return RunRequest("kyc-reject", PARAMETERS, locale="pt")

    remote.define("kyc-reject", duration=0.2)
    run(lambda: decorated(check, workflow_definition_id=None)())
    (start,) = remote.starts()
    assert (start["definition"], start["parameters"]) == ("kyc-reject", PARAMETERS)


def test_request_brings_the_options_of_its_service(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    """Those of another service are refused before anything is sent."""
    connect(monkeypatch, remote.url, "b3os")

    def check() -> RunRequest:
        return RunRequest("kyc-approve", options=B3osOptions(**B3OS_OPTIONS))

    def legacy() -> RunRequest:
        return RunRequest("kyc-approve", options=LegacyOptions(first_name=FIRST_NAME))

    assert "takes B3osOptions as its options" in refused(
        lambda: decorated(legacy, task_id="check", workflow_definition_id=None)()
    )
    assert remote.starts() == []
    run(lambda: decorated(check, workflow_definition_id=None)())
    assert remote.starts()[0]["service"] == "b3os"


@pytest.mark.parametrize(
    ("made", "arguments", "says"),
    [
        (None, {}, "The function of task 'check' must return a mapping of parameters or a RunRequest, not nothing"),
        ([PARAMETERS], {}, "must return a mapping of parameters or a RunRequest, not a list"),
        (PARAMETERS, {"workflow_definition_id": None}, "Task 'check' names no workflow definition"),
        (RunRequest("kyc-approve"), {}, "leave workflow_definition_id out of the task"),
        (
            RunRequest("kyc-approve"),
            {"workflow_definition_id": None, "expires_in": 3600, "record_id": "{{ ds }}"},
            "leave expires_in and record_id out of the task",
        ),
        ({"firstName": {1, 2}}, {}, "parameters.firstName is a set, which JSON cannot hold"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_one_sentence(
    remote: Remote, made: Any, arguments: dict[str, Any], says: str
) -> None:
    """A return value of another kind, a definition that is missing or named twice: nothing is sent, nothing quoted."""

    def check() -> Any:
        return made

    message = refused(lambda: decorated(check, **arguments)())
    assert says in message
    assert found_in(message, PERSONAL) == []
    assert remote.starts() == []


def test_parameters_beside_the_function_are_refused_at_parse() -> None:
    """There is one place that they come from."""
    with pytest.raises(TypeError, match="the decorated function returns them"), DAG("dag"):
        decorated(check, parameters={})()


def test_deferred_task_resumes_without_the_function(remote: Remote) -> None:
    """The function is called before the start, and not again after the wait in the triggerer."""
    calls = []

    def check() -> dict[str, Any]:
        calls.append(1)
        return PARAMETERS

    given, context = in_dag(lambda: decorated(check, deferrable=True)())
    given.render_template_fields(context)
    with pytest.raises(TaskDeferred) as caught:
        given.execute(context)
    again, _ = in_dag(lambda: decorated(check, deferrable=True)())
    again.render_template_fields(context)
    returned = again.execute_complete(context, event=asyncio.run(fired(caught.value.trigger)))
    assert returned["status"] == "SUCCEEDED"
    assert len(calls) == len(remote.starts()) == 1


def test_retry_goes_on_with_what_was_started(remote: Remote) -> None:
    """A function that returns the same leads to the same execution; another return value is never sent as well."""
    given, context = in_dag(lambda: decorated(check)())
    first = given.execute(context)
    assert given.execute(context) == first
    changed, _ = in_dag(lambda: decorated(lambda: {"firstName": "other"}, task_id="check")())
    with pytest.raises(TransactionlinkFailure) as caught:
        changed.execute(context)
    assert isinstance(caught.value.error, RequestChanged)
    assert len(remote.starts()) == 1


class TestWhatAirflowKeeps:
    def ways(self) -> dict[str, Callable[[], Any]]:
        """Plain, overridden and mapped, with arguments that an upstream task has made."""

        @task
        def applicants() -> list[dict[str, Any]]:
            return []

        def check(applicant: dict[str, Any], source: str = "") -> dict[str, Any]:
            return applicant

        wrapped = decorated(check)
        return {
            "plain": lambda: wrapped(applicants()),
            "named": lambda: wrapped(applicant=applicants()),
            "override": lambda: decorated(check, task_id="other").override(task_id="check", retries=3)(applicants()),
            "expand": lambda: wrapped.expand(applicant=applicants()),
            "partial": lambda: wrapped.partial(source="{{ ds }}").expand(applicant=applicants()),
            "expand_kwargs": lambda: wrapped.expand_kwargs(applicants()),
        }

    @pytest.mark.parametrize("way", ["plain", "named", "override", "expand", "partial", "expand_kwargs"])
    def test_no_value_is_stored_or_logged(
        self, remote: Remote, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], way: str
    ) -> None:
        """Rendered fields, the return value and all logs are without what the function was given and returned."""
        caplog.set_level(logging.DEBUG)
        upstream: dict[str, Any] = {
            "expand": [PARAMETERS],
            "partial": [PARAMETERS],
            "expand_kwargs": [{"applicant": PARAMETERS}],
        }
        given, context = in_dag(self.ways()[way])
        context["ti"].map_index = 0 if way in upstream else -1
        context["ti"].xcom_pull = lambda **_: upstream.get(way, PARAMETERS)
        context["ti"].get_relevant_upstream_map_indexes = lambda **_: None

        given.render_template_fields(context)
        rendered = context["task"]
        returned = rendered.execute(context)

        stored = _serialize_rendered_fields(rendered)
        assert [start["parameters"] for start in remote.starts()] == [PARAMETERS]
        kept = json.dumps([stored, returned]) + repr(rendered) + caplog.text + "".join(capsys.readouterr())
        assert found_in(kept, PERSONAL) == []
        assert isinstance(rendered, TransactionlinkDecoratedOperator)
        if way not in {"plain", "override"}:
            withheld: Any = rendered.op_kwargs
            assert stored["op_kwargs"] == dict.fromkeys(withheld.reveal(), "***")
        assert rendered.retries == (3 if way == "override" else 0)

    @pytest.mark.parametrize("way", ["plain", "named", "override", "expand", "partial", "expand_kwargs"])
    def test_serialized_dag_has_no_value(self, way: str) -> None:
        """What is stored of the arguments is at most where they come from."""
        with DAG("dag") as dag:
            made = self.ways()[way]()
        assert isinstance(made, XComArg)
        stored = json.dumps(stored_dag(dag), default=str)
        assert "applicants" in stored
        assert found_in(stored, PERSONAL) == []


def test_airflow_knows_the_decorator_by_its_provider() -> None:
    """`task.transactionlink` is found by the entry point of the installed distribution."""
    assert task.transactionlink is not None

    @task.transactionlink(workflow_definition_id="kyc-approve")
    def check() -> dict[str, str]:
        return {}

    with DAG("dag"):
        made: Any = check()
    assert isinstance(made.operator, TransactionlinkDecoratedOperator)
    assert made.operator.multiple_outputs is False
