"""
Where the tests find what another Airflow version has elsewhere. What the provider itself needs of a version is in
:mod:`airflow_provider.versions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import DAG

# Airflow 3.2 moved these into the SDK; 3.1 has them in the core.
try:
    from airflow.sdk.bases.secrets_backend import BaseSecretsBackend
    from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferred
except ImportError:
    from airflow.exceptions import (  # type: ignore[no-redef]  # checked against 3.3
        AirflowRescheduleException,
        TaskDeferred,
    )
    from airflow.secrets.base_secrets import BaseSecretsBackend  # type: ignore[assignment]  # checked against 3.3

__all__ = ["AirflowRescheduleException", "BaseSecretsBackend", "TaskDeferred", "forget_secrets_backends", "stored_dag"]


def stored_dag(dag: DAG) -> dict[str, Any]:
    """
    What Airflow stores of a DAG. The class that does it got this name in 3.2.
    """
    from airflow.serialization import serialized_objects

    named = "DagSerialization" if hasattr(serialized_objects, "DagSerialization") else "SerializedDAG"
    stored: dict[str, Any] = getattr(serialized_objects, named).to_dict(dag)
    return stored


def forget_secrets_backends() -> None:
    """
    Let the next look-up read the configuration again. Before 3.3 each one does.
    """
    try:
        from airflow.sdk.configuration import clear_secrets_backends_cache
    except ImportError:
        return
    clear_secrets_backends_cache()
