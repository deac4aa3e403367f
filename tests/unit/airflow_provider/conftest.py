"""
Airflow reads its home at import: it must not be the one of whoever runs the tests.

``test_retry_policy.py`` tests a module that Airflow 3.3 makes possible; ``test_versions.py`` what earlier ones say.
"""

from __future__ import annotations

import os
import tempfile

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"

import pytest

from airflow_provider import versions, waiting_trigger

collect_ignore = [] if versions.HAS_RETRY_POLICY else ["test_retry_policy.py"]


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Triggers report at once: nobody has to hear first that a worker's process has ended.
    """
    monkeypatch.setattr(waiting_trigger, "DWELL", 0.0)
