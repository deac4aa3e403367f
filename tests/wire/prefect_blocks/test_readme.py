"""
The README's Prefect example runs, unchanged.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prefect_blocks import TransactionlinkCredentials, TransactionlinkWorkflow
from tests.remote import Remote

README = Path(__file__).parents[3] / "README.md"


def test_prefect_example_runs(sandbox: TransactionlinkCredentials, remote: Remote, tmp_path: Path) -> None:
    """The flow of the README, on a real server: the account is opened after the one check that was started."""
    TransactionlinkWorkflow(credentials=sandbox, workflow_definition_id="kyc-approve").save("kyc-check", overwrite=True)
    (example,) = re.findall(r"^```python\n(from prefect .*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "readme_flow.py"
    file.write_text(example)
    names: dict[str, Any] = {"__name__": "readme_flow", "__file__": str(file)}
    exec(compile(example, str(file), "exec"), names)  # noqa: S102 -- our own README

    said = names["onboarding"]("customer-7")

    (start,) = [start for start in remote.starts() if start["parameters"] == {"customerId": "customer-7"}]
    assert said == f"account opened after check {start['execution_id']}"
