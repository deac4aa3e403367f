"""
What Airflow can store of parameters, by its own code: rendered fields, serialized DAGs, templates.
"""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_provider.operators import TransactionlinkRunWorkflowOperator
from tests.airflow_versions import stored_dag
from tests.planted import PARAMETERS, PERSONAL, found_in
from tests.unit.airflow_provider.services import CONN_ID, connect
from tests.unit.airflow_provider.test_ledger import Store
from tests.unit.airflow_provider.test_steps import TaskInstance

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.remote import Remote

HIDDEN = dict.fromkeys(PARAMETERS, "***")
COMMON: dict[str, Any] = {
    "task_id": "check",
    "transactionlink_conn_id": CONN_ID,
    "wait_for_completion": False,
}


def person(context: dict[str, Any], jinja_env: object) -> dict[str, Any]:
    return PARAMETERS


class Person:
    """A callable whose repr tells too much."""

    def __call__(self, context: dict[str, Any], jinja_env: object) -> dict[str, Any]:
        return PARAMETERS

    def __repr__(self) -> str:
        return f"Person({PARAMETERS})"


@task
def people() -> list[dict[str, Any]]:
    return []


@task
def arguments() -> list[dict[str, Any]]:
    return []


def plain(parameters: Any) -> None:
    TransactionlinkRunWorkflowOperator(**COMMON, workflow_definition_id="kyc-approve", parameters=parameters)


def partial(parameters: Any) -> None:
    TransactionlinkRunWorkflowOperator.partial(**COMMON, parameters=parameters).expand(
        workflow_definition_id=["kyc-approve"]
    )


def expanded(parameters: Any) -> None:
    TransactionlinkRunWorkflowOperator.partial(**COMMON, workflow_definition_id="kyc-approve").expand(
        parameters=parameters
    )


def expanded_kwargs(parameters: Any) -> None:
    TransactionlinkRunWorkflowOperator.partial(**COMMON).expand_kwargs(parameters)


def dag_of(make: Callable[[], None]) -> DAG:
    with DAG("dag") as dag:
        make()
    return dag


def task_and_context(make: Callable[[], None], upstream: Any) -> tuple[Any, Any]:
    """
    The task of a DAG and what Airflow hands to it, where every XCom is ``upstream``.
    """
    dag = dag_of(make)
    given, ti = dag.get_task("check"), TaskInstance()
    ti.map_index, ti.task, ti.xcom_pull = 0, given, lambda **_: upstream
    ti.get_relevant_upstream_map_indexes = lambda **_: None
    facts = {"dag": dag, "dag_run": SimpleNamespace(conf={}), "task": given, "task_state_store": Store()}
    return given, {"ti": ti, "task_instance": ti, **facts}


#: How parameters can be given, and what an upstream task has then returned.
WAYS: dict[str, tuple[Callable[[], None], Any]] = {
    "plain": (lambda: plain(person), None),
    "plain, from an XCom": (lambda: plain(people()), PARAMETERS),
    "partial": (lambda: partial(person), None),
    "partial, from an XCom": (lambda: partial(people()), PARAMETERS),
    "expand, from a list": (lambda: expanded([PARAMETERS]), None),
    "expand, from callables": (lambda: expanded([person]), None),
    "expand, from an XCom": (lambda: expanded(people()), [PARAMETERS]),
    "expand_kwargs, from a list": (
        lambda: expanded_kwargs([{"workflow_definition_id": "kyc-approve", "parameters": PARAMETERS}]),
        None,
    ),
    "expand_kwargs, from an XCom": (
        lambda: expanded_kwargs(arguments()),
        [{"workflow_definition_id": "kyc-approve", "parameters": PARAMETERS}],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_rendered_fields_and_templates_have_keys_only(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, way: str
) -> None:
    """However the parameters came: stored are their keys, a template finds no value, and the service gets them."""
    connect(monkeypatch, remote.url, "transactionlink")
    make, upstream = WAYS[way]
    given, context = task_and_context(make, upstream)

    given.render_template_fields(context)

    rendered: Any = context["task"]
    assert _serialize_rendered_fields(rendered)["parameters"] == HIDDEN
    for template in ("{{ task.parameters }}", "{{ ti.task.parameters }}", "{{ task }}"):
        shown = rendered.render_template(template, context)
        assert found_in(str(shown), PERSONAL) == []
    rendered.execute(context)
    assert [start["parameters"] for start in remote.starts()] == [PARAMETERS]


@pytest.mark.parametrize(
    ("make", "made"),
    [
        (plain, person),
        (plain, Person()),
        (plain, functools.partial(person, jinja_env=PARAMETERS)),
        (partial, person),
        (expanded, [person]),
    ],
)
def test_serialized_dag_has_no_value_of_a_callable(make: Callable[[Any], None], made: Any) -> None:
    """A callable is stored by its name, or by its source where the task is mapped; never by what it holds or makes."""
    stored = json.dumps(stored_dag(dag_of(lambda: make(made))))
    assert found_in(stored, PERSONAL) == []
    assert "person" in stored.casefold() or "functools.partial" in stored


def test_serialized_dag_has_no_value_of_an_upstream_task() -> None:
    """A reference to an XCom is all that is stored."""
    for make in (lambda: expanded(people()), lambda: expanded_kwargs(arguments()), lambda: partial(people())):
        stored = stored_dag(dag_of(make))
        assert "xcomref" in json.dumps(stored, default=str)


def test_parameters_that_cannot_be_rendered_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Airflow logs what it could not render; of values that an upstream task made, it renders nothing."""
    broken = [{"firstName": "{{ broken", **PARAMETERS}]
    given, context = task_and_context(lambda: expanded(people()), broken)
    given.render_template_fields(context)
    assert found_in(caplog.text, PERSONAL) == []
    assert context["task"].parameters.reveal()["lastName"] == PARAMETERS["lastName"]
