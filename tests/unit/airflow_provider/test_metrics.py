"""
What a step tells Airflow's metrics, where Airflow sends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider import versions
from tests.unit.airflow_provider.services import connect
from tests.unit.airflow_provider.test_steps import context, ended

if TYPE_CHECKING:
    from tests.remote import Remote


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What Airflow was told to send: name and tags."""
    told: list[tuple[str, dict[str, Any]]] = []

    def recorded(name: str, *_: Any, tags: dict[str, Any], **__: Any) -> None:
        told.append((name, tags))

    for triggerer in (False, True):
        for kind in ("incr", "timing", "gauge"):
            monkeypatch.setattr(versions.stats(triggerer=triggerer), kind, recorded)
    return told


def test_starts_polls_and_waits_are_told(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, metrics: list[tuple[str, dict[str, Any]]]
) -> None:
    """By worker and triggerer, under the names of the reference; service and outcome are all the tags."""
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    connect(monkeypatch, remote.url, "transactionlink")
    remote.define("kyc-approve", duration=0.5)

    ended(context())

    assert ("transactionlink.starts", {"service": "transactionlink", "outcome": "started"}) in metrics
    assert ("transactionlink.polls", {"service": "transactionlink", "outcome": "answered"}) in metrics
    assert ("transactionlink.wait", {"service": "transactionlink", "outcome": "succeeded"}) in metrics
    assert {frozenset(tags) for _, tags in metrics} <= {frozenset({"service"}), frozenset({"service", "outcome"})}


def test_nothing_is_told_where_airflow_sends_nothing(
    monkeypatch: pytest.MonkeyPatch, remote: Remote, metrics: list[tuple[str, dict[str, Any]]]
) -> None:
    """Metrics are off by default, and then cost nothing."""
    connect(monkeypatch, remote.url, "transactionlink")
    ended(context())
    assert metrics == []
