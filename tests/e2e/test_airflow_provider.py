"""
What Airflow itself says about the provider: listed, its connection type and form known, its connections addable.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider import connection_form

if TYPE_CHECKING:
    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)


def test_provider_is_listed(airflow: AirflowRig) -> None:
    """Airflow's own list of providers names the distribution."""
    listed = airflow.request("GET", "providers", params={"limit": 100})["providers"]

    assert "tl-orchestration" in {provider["package_name"] for provider in listed}


def test_connection_can_be_added_and_used(airflow: AirflowRig, oracle: Oracle) -> None:
    """A connection that `airflow connections add` made, its extra included, is one that a step runs with."""
    airflow.command(
        *("connections", "add", "by_hand", "--conn-type", "transactionlink", "--conn-host", oracle.url),
        *("--conn-password", "tot_sandbox", "--conn-extra", json.dumps({"status_map": {"VERIFIED": "SUCCEEDED"}})),
    )
    definition = oracle.define("by-hand", like="kyc-approve", duration=1, outcome="VERIFIED")
    airflow.wait_for_dag("deferred")

    run_id = airflow.trigger("deferred", {"definition": definition, "connection": "by_hand"})

    state = airflow.wait_for_run("deferred", run_id)
    assert state == "success", airflow.describe_run("deferred", run_id)
    assert len(oracle.started(definition)) == 1


def test_connection_form_is_what_the_provider_declares(airflow: AirflowRig) -> None:
    """The page for a new connection offers our type, with our labels, every field of ours, and no other's."""
    (form,) = [
        kind
        for kind in airflow.request("GET", "connections/hook_meta", root="/ui")
        if kind["connection_type"] == connection_form.CONN_TYPE
    ]
    fields: dict[str, Any] = form["extra_fields"]

    assert form["hook_name"] == connection_form.HOOK_NAME
    assert set(fields) == set(connection_form.FIELDS)
    assert {name: shown["schema"]["title"] for name, shown in fields.items()} == {
        name: declared["label"] for name, declared in connection_form.FIELDS.items()
    }
    standard = form["standard_fields"]
    assert {name: standard[name]["title"] for name in connection_form.RELABELED} == connection_form.RELABELED
    assert standard["login"]["hidden"] is False
    assert fields["service"]["schema"]["enum"] == connection_form.FIELDS["service"]["schema"]["enum"]
    assert standard["url_schema"]["hidden"] is True
