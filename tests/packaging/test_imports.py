"""
What importing costs a DAG file: no network, no connection look-up, nothing that the class itself does not need.
"""

from __future__ import annotations

import subprocess
import sys

#: Each is imported where it is used: in execute, in a trigger, in a hook's method.
HEAVY = {"jmespath", "sqlalchemy.dialects.sqlite", "starlette", "uvicorn", "wtforms", "click"}


def modules_after(statement: str, before: str = "import airflow.sdk.bases.operator") -> set[str]:
    script = f"import sys; {before}; seen = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - seen))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_operators_import_nothing_of_the_core() -> None:
    """Parsing a DAG file with our operator loads our adapter's few files, not the client behind them."""
    added = modules_after("import airflow_provider.operators")

    ours = {name for name in added if name.split(".")[0] in {"airflow_provider", "tl_orchestration"}}
    assert "airflow_provider.operators.run_workflow" in ours
    assert ours <= {
        "airflow_provider",
        "airflow_provider.connection_form",
        "airflow_provider.links",
        "airflow_provider.operators",
        "airflow_provider.operators.batch",
        "airflow_provider.operators.cancel_workflow",
        "airflow_provider.operators.run_workflow",
        "airflow_provider.redaction",
        "airflow_provider.versions",
    }
    assert not added & HEAVY


def test_core_loads_no_orchestrator_and_no_server() -> None:
    """The core needs httpx, attrs and the standard library."""
    added = modules_after("import tl_orchestration", before="pass")

    assert not {"airflow", "prefect", "sqlalchemy", "starlette", "uvicorn", "jmespath"} & added


def test_provider_info_imports_nothing_else() -> None:
    """Airflow loads the provider info in every process, so it costs nothing."""
    added = modules_after("import airflow_provider.provider_info", before="pass")

    assert {name for name in added if name.split(".")[0] in {"airflow", "tl_orchestration", "httpx"}} == set()
