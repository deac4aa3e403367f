"""
Runs that begin together: a test that says with ``begins`` what it looks at does not wait alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark."""
    config.addinivalue_line(
        "markers",
        "begins(dag_id, conf=None, **script): the DAG run, with a definition of its own, that a test is about",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Search for traces of personal data when all others have left theirs."""
    ours = [place for place, item in enumerate(items) if "tests/e2e/test_airflow" in item.nodeid]
    ordered = sorted((items[place] for place in ours), key=lambda item: "test_airflow_traces.py" in item.nodeid)
    for place, item in zip(ours, ordered, strict=True):
        items[place] = item


@frozen
class Begun:
    """
    A run that was begun with others, for they do not disturb each other.
    """

    airflow: AirflowRig
    dag_id: str
    definition: str
    run_id: str

    def ends(self) -> str:
        """
        Wait for the end of the run; its state.
        """
        return self.airflow.wait_for_run(self.dag_id, self.run_id)


@pytest.fixture(scope="module")
def under_way(request: pytest.FixtureRequest, airflow: AirflowRig, oracle: Oracle) -> dict[str, Begun]:
    """The runs of all tests of this module, by test."""
    begun = {}
    for item in request.session.items:
        mark = item.get_closest_marker("begins")
        if mark is None or item.path != request.path:
            continue
        (dag_id,), script = mark.args, dict(mark.kwargs)
        conf = script.pop("conf", {})
        definition = oracle.define(re.sub(r"\W+", "-", item.name).strip("-"), **({"like": "kyc-slow"} | script))
        airflow.wait_for_dag(dag_id)
        run_id = airflow.trigger(dag_id, {"definition": definition} | conf)
        begun[item.nodeid] = Begun(airflow, dag_id, definition, run_id)
    return begun


@pytest.fixture
def begun(request: pytest.FixtureRequest, under_way: dict[str, Begun]) -> Begun:
    """The run that this test says it begins."""
    return under_way[request.node.nodeid]
