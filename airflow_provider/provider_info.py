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
        "triggers": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    "airflow_provider.triggers",
                    "airflow_provider.batch_trigger",
                    "airflow_provider.event_trigger",
                ],
            }
        ],
        "task-decorators": [
            {"name": "transactionlink", "class-name": "airflow_provider.decorators.transactionlink_task"}
        ],
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
                    "inbox_url": {
                        "description": (
                            "Database in which webhooks arrive, for connections that name none; it may be the ledger's."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "postgresql+psycopg://user@host/database",
                        "default": "",
                        "sensitive": True,
                    },
                    "safety_net": {
                        "description": (
                            "Seconds between two polls of a wait that hears of webhooks. Default: five minutes, then"
                            " fifteen. A poll_interval of a task holds instead."
                        ),
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": "120",
                        "default": "",
                    },
                    "receive_webhooks": {
                        "description": (
                            "Whether the API server takes webhooks, at /transactionlink/webhooks/transactionlink, into"
                            " inbox_url. Airflow asks no log-in there: a delivery proves itself by its signature."
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": "True",
                        "default": "False",
                    },
                    "webhook_key_host": {
                        "description": "Base URL of the service that has the public keys. Default: the vendor's.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "https://api.transactionlink.io",
                        "default": "",
                    },
                    "webhook_keys": {
                        "description": "Folder with the public keys to trust, as <kid>.pem; none is fetched then.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/etc/tl/keys",
                        "default": "",
                    },
                    "webhook_unencoded": {
                        "description": (
                            'Whether signatures over the body as it is are taken, too, whose header says "b64": false.'
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": "True",
                        "default": "False",
                    },
                    "webhook_b3os_secrets": {
                        "description": (
                            "Signing secrets of the B3OS endpoint, with white space between them; empty: B3OS's"
                            " webhooks are not taken."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "~",
                        "default": "",
                        "sensitive": True,
                    },
                    "webhook_b3os_header": {
                        "description": "Header that has B3OS's signature.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "x-b3os-signature",
                        "default": "",
                    },
                },
            }
        },
    }
