"""
How do I check many applicants, with parameters that a function makes?

Each applicant is a mapped task. The function reads personal data where it lives and returns it as parameters; Airflow
keeps neither its arguments nor what it returns.
"""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None, params={"workflow_definition_id": "kyc-approve"}, tags=["transactionlink", "kyc"])
def kyc_batch_of_applicants() -> None:
    @task
    def new_applications() -> list[str]:
        return ["application-1", "application-2", "application-3"]

    @task.transactionlink(
        workflow_definition_id="{{ params.workflow_definition_id }}",
        deferrable=True,
        result_fields={"decision": "decision"},
        max_active_tis_per_dagrun=16,
    )
    def check_customer(application: str) -> dict[str, str]:
        return {"firstName": "Ada", "lastName": "Lovelace", "applicationId": application}

    check_customer.expand(application=new_applications())


kyc_batch_of_applicants()
