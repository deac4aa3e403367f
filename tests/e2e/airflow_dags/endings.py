"""
DAGs whose wait in the triggerer is ended by Airflow itself: its time-outs, a trigger that crashes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.sdk import dag
from airflow.triggers.base import TriggerEvent

from airflow_provider.operators import TransactionlinkRunWorkflowOperator
from airflow_provider.triggers import TransactionlinkExecutionTrigger
from tests.e2e.airflow_dags.steps import CONNECTION, DEFINITION, applicant, step


class CrashingTrigger(TransactionlinkExecutionTrigger):
    """Dies as a trigger does that has a bug."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "tests.e2e.airflow_dags.endings.CrashingTrigger", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent(self._crash())  # type: ignore[no-untyped-call]  # Airflow's

    def _crash(self) -> object:
        raise RuntimeError("planted")


class Crashing(TransactionlinkRunWorkflowOperator):
    """Defers to a trigger that crashes."""

    def defer(self, *, trigger: Any, **arguments: Any) -> None:  # type: ignore[override]  # raises, as Airflow's does
        super().defer(trigger=CrashingTrigger(**trigger.serialize()[1]), **arguments)


class Limited(TransactionlinkRunWorkflowOperator):
    """Defers with Airflow's own time-out, as an author's subclass may."""

    def defer(self, **arguments: Any) -> None:  # type: ignore[override]  # raises, as Airflow's does
        super().defer(**arguments, timeout=timedelta(seconds=3))


def deferring(kind: type[TransactionlinkRunWorkflowOperator], **arguments: Any) -> None:
    kind(
        task_id="check",
        workflow_definition_id=DEFINITION,
        parameters=applicant,
        transactionlink_conn_id=CONNECTION,
        poll_interval=0.5,
        defer_after=0,
        deferrable=True,
        **arguments,
    )


@dag(schedule=None)
def trigger_crashes() -> None:
    deferring(Crashing)


@dag(schedule=None)
def trigger_crashes_without_state() -> None:
    deferring(Crashing, durable=False)


@dag(schedule=None)
def defer_times_out() -> None:
    deferring(Limited)


@dag(schedule=None, dagrun_timeout=timedelta(hours=1))
def run_times_out() -> None:
    step(deferrable=True, defer_after=0)


@dag(schedule=None)
def left_alone_deferred() -> None:
    step(deferrable=True, defer_after=0, cancel_on_kill=False)


@dag(schedule=None)
def polled_rarely() -> None:
    step(deferrable=True, defer_after=0, poll_interval=60)


@dag(schedule=None)
def deferred_without_state() -> None:
    step(deferrable=True, defer_after=0, durable=False)


@dag(schedule=None)
def persistent() -> None:
    step(deferrable=False, retries=30, retry_delay=timedelta(seconds=5))


trigger_crashes()
trigger_crashes_without_state()
defer_times_out()
run_times_out()
left_alone_deferred()
polled_rarely()
deferred_without_state()
persistent()
