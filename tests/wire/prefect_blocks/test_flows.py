"""
The ready flow: by block names, with parameters that Prefect does not store.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_blocks import TransactionlinkWorkflow, run_workflow_flow
from prefect_blocks.versions import load_block
from tests.remote import Remote
from tests.wire.prefect_blocks.conftest import MakeWorkflow, credentials_for
from tl_orchestration.errors import InvalidRequest


def test_runs_one_workflow(remote: Remote, workflow: MakeWorkflow) -> None:
    """The parameters of the execution come from a Secret block, and are no parameters of the flow run."""
    workflow(result_fields={"decision": "decision"})
    Secret(value=SecretStr(json.dumps({"customerId": "canary-4410"}))).save("applicant", overwrite=True)

    state: Any = run_workflow_flow("kyc", parameters_secret="applicant", return_state=True)

    (start,) = remote.starts()
    assert start["parameters"] == {"customerId": "canary-4410"}
    assert state.result() == {
        "execution_id": start["execution_id"],
        "status": "SUCCEEDED",
        "fields": {"decision": "approve"},
    }
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(state.state_details.flow_run_id)
    assert "canary-4410" not in flow_run.model_dump_json()


@pytest.mark.parametrize("secret", ["{secret", "[1]", '"text"'])
def test_secret_that_holds_no_parameters_starts_nothing(remote: Remote, workflow: MakeWorkflow, secret: str) -> None:
    """The error names the block, and quotes nothing of it."""
    workflow()
    Secret(value=SecretStr(secret)).save("broken", overwrite=True)

    with pytest.raises(InvalidRequest, match="'broken' holds no JSON object") as refused:
        run_workflow_flow("kyc", parameters_secret="broken")
    assert secret not in str(refused.value)
    assert remote.starts() == []


def test_key_is_for_all_flow_runs(remote: Remote, workflow: MakeWorkflow, tmp_path: Path) -> None:
    """With a business key, a second flow run goes on with what the first has started."""
    credentials = credentials_for(remote, ledger_url=f"sqlite:///{tmp_path}/ledger.db")
    credentials.save("with-ledger", overwrite=True)
    workflow()
    block = load_block(TransactionlinkWorkflow, "kyc")
    block.credentials = credentials
    block.save("kyc-keyed", overwrite=True)

    outcomes = [run_workflow_flow("kyc-keyed", key="customer-7") for _ in range(2)]

    assert outcomes[0] == outcomes[1]
    assert len(remote.starts()) == 1
