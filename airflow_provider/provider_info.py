"""
What Airflow asks a provider package about itself (entry point ``apache_airflow_provider``).
"""

from __future__ import annotations

from typing import Any

from airflow_provider import connection_form

_INTEGRATION = "Transactionlink"


def get_provider_info() -> dict[str, Any]:
    """
    Name, connection type with its form, classes and configuration of this provider.
    """
    return {
        "package-name": "tl-orchestration",
        "name": "Transactionlink",
        "description": "Run a Transactionlink workflow execution as one step of a DAG.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://docs.transactionlink.io",
                "tags": ["service"],
            }
        ],
        "operators": [{"integration-name": _INTEGRATION, "python-modules": ["airflow_provider.operators"]}],
        "sensors": [{"integration-name": _INTEGRATION, "python-modules": ["airflow_provider.sensors"]}],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": ["airflow_provider.hooks"]}],
        "triggers": [{"integration-name": _INTEGRATION, "python-modules": ["airflow_provider.triggers"]}],
        "connection-types": [
            {
                "connection-type": connection_form.CONN_TYPE,
                "hook-class-name": "airflow_provider.hooks.TransactionlinkHook",
                "hook-name": connection_form.HOOK_NAME,
                "ui-field-behaviour": {
                    "hidden-fields": connection_form.HIDDEN,
                    "relabeling": connection_form.RELABELED,
                    "placeholders": connection_form.PLACEHOLDERS,
                },
                "conn-fields": connection_form.FIELDS,
            }
        ],
        "extra-links": ["airflow_provider.links.TransactionlinkExecutionLink"],
        "config": {
            "transactionlink": {
                "description": "Settings of the Transactionlink provider.",
                "options": {
                    "allowed_hosts": {
                        "description": (
                            "Comma-separated hosts that connections may name, instead of the vendors' hosts and"
                            " loopback; no connection overrides it. An entry http://host allows a sandbox without TLS."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "api.transactionlink.io",
                        "default": "",
                    },
                    "ledger_url": {
                        "description": (
                            "Database that keeps tasks with a key from starting twice, for connections that name none:"
                            " postgresql+psycopg://user@host/database, or sqlite:///FILE for one host."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "postgresql+psycopg://user@host/database",
                        "default": "",
                        "sensitive": True,
                    },
                },
            }
        },
    }
