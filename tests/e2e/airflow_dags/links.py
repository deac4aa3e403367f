"""
DAGs of the end-to-end tests: a step in which a person has to act, whose link a callable or a notifier hands over.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier, dag

from airflow_provider.operators import TransactionlinkRunWorkflowOperator


def write(context: Any) -> None:
    """Hand the link over to whoever reads the file that the run names."""
    handed_over = {name: context[name] for name in ("link", "link_token", "execution_id")}
    Path(context["dag_run"].conf["delivered_to"]).write_text(json.dumps(handed_over))


def write_at_second_try(context: Any) -> None:
    """Fail as a mail server does that is away."""
    if context["ti"].try_number == 1:
        raise RuntimeError("No post office.")
    write(context)


class Letter(BaseNotifier):
    """Writes its text into the file that the run names; the first attempt fails, and quotes what it cannot send."""

    template_fields = ("text", "path")

    def __init__(self, text: str, path: str) -> None:
        super().__init__()
        self.text = text
        self.path = path

    def notify(self, context: Any) -> None:
        if context["ti"].try_number == 1:
            raise RuntimeError(f"No post office for {self.text} and {context['link_token']}")
        Path(self.path).write_text(self.text)


def step(**arguments: Any) -> None:
    TransactionlinkRunWorkflowOperator(
        task_id="review",
        workflow_definition_id="{{ dag_run.conf['definition'] }}",
        deferrable=True,
        defer_after=0,
        poll_interval=0.5,
        result_fields={"decision": "decision"},
        **arguments,
    )


@dag(schedule=None)
def link_by_callable() -> None:
    step(on_link=write)


@dag(schedule=None)
def link_by_notifier() -> None:
    letter = Letter(text="Please decide: {{ link }}", path="{{ dag_run.conf['delivered_to'] }}")
    step(on_link=letter, retries=1, retry_delay=timedelta(seconds=1))


@dag(schedule=None)
def link_lost() -> None:
    step(on_link=write_at_second_try, retries=3, retry_delay=timedelta(seconds=1))


@dag(schedule=None)
def link_lost_and_started_again() -> None:
    step(on_link=write_at_second_try, on_link_lost="restart", retries=3, retry_delay=timedelta(seconds=1))


@dag(schedule=None)
def link_for_days() -> None:
    step(on_link=write, timeout=timedelta(days=7))


link_by_callable()
link_by_notifier()
link_lost()
link_lost_and_started_again()
link_for_days()
