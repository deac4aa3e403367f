"""
Steps whose parameters a decorated function makes.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from tests.e2e.canary import DOCUMENT_NUMBER, FIRST_NAME


@dag(schedule=None)
def decorated() -> None:
    @task
    def documents() -> list[int]:
        return [1, 2]

    @task.transactionlink(
        workflow_definition_id="{{ dag_run.conf.get('definition', 'kyc-approve') }}",
        deferrable=True,
        poll_interval=0.5,
        result_fields={"decision": "decision"},
    )
    def check(document: int, run: str) -> dict[str, str]:
        return {"firstName": FIRST_NAME, "documentNumber": f"{DOCUMENT_NUMBER}-{document}", "run": run}

    check.override(task_id="one", defer_after=60)(0, run="{{ run_id }}")
    check.partial(run="{{ run_id }}").expand(document=documents())


decorated()
