"""
What differs between the services for a user of Airflow: the connection, and what a step has to be given.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.planted import FIRST_NAME
from tl_orchestration import B3osKey, Client, OrganizationToken, WorkspaceKey
from tl_orchestration.credentials import Credentials

if TYPE_CHECKING:
    import pytest

CONN_ID = "KYC_service"
SERVICES = ("transactionlink", "transactionlink-legacy", "b3os")
LEGACY_OPTIONS = {"first_name": FIRST_NAME}
B3OS_OPTIONS = {"source_system": "airflow", "source_entity_type": "customer"}
OPTIONS: dict[str, dict[str, Any] | None] = {
    "transactionlink": None,
    "transactionlink-legacy": LEGACY_OPTIONS,
    "b3os": B3OS_OPTIONS,
}
RIGHT: dict[str, dict[str, Any]] = {
    "transactionlink": {"password": "tot_sandbox"},
    "transactionlink-legacy": {"login": "sandbox-key", "password": "sandbox-secret"},
    "b3os": {"password": "b3sk_sandbox"},
}
WRONG: dict[str, dict[str, Any]] = {
    "transactionlink": {"password": "tot_PLANTED"},
    "transactionlink-legacy": {"login": "sandbox-key", "password": "PLANTED"},
    "b3os": {"password": "b3sk_PLANTED"},
}


def connect(
    monkeypatch: pytest.MonkeyPatch, url: str, service: str, extra: dict[str, Any] | None = None, **fields: Any
) -> None:
    """
    Give Airflow a connection of that service, by its environment.
    """
    chosen = {"conn_type": "transactionlink", "host": url, "extra": {"service": service, **(extra or {})}}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(chosen | (fields or RIGHT[service])))


def client_of(service: str, url: str) -> Client:
    """
    A client that asks the sandbox without Airflow.
    """
    credentials: dict[str, Credentials] = {
        "transactionlink": OrganizationToken("tot_sandbox"),
        "transactionlink-legacy": WorkspaceKey("sandbox-key", "sandbox-secret"),
        "b3os": B3osKey("b3sk_sandbox"),
    }
    return Client(credentials[service], url, service)
