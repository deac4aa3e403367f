"""
The connection form, written once: Airflow 3.2+ reads it from the provider info, 3.1 asks the hook.
"""

from __future__ import annotations

from typing import Any

CONN_TYPE = "transactionlink"
DEFAULT_CONN_ID = "transactionlink_default"
HOOK_NAME = "Transactionlink"

_TEXT = {"type": ["string", "null"]}

#: Fields that are kept in the connection's extra, by name. Labels and help are what the form shows.
FIELDS: dict[str, dict[str, Any]] = {
    "service": {
        "label": "Service",
        "description": (
            "Which API this connection speaks. transactionlink: password is the organization token."
            " transactionlink-legacy: login and password are API key and API secret. b3os: password is the key."
        ),
        "schema": {
            "type": "string",
            "enum": ["transactionlink", "transactionlink-legacy", "b3os"],
            "default": "transactionlink",
        },
    },
    "organization_id": {
        "label": "Organization id (B3OS)",
        "description": "Only for a B3OS key that is bound to no organization: sent as X-Org-ID.",
        "schema": _TEXT,
    },
    "workspace_id": {
        "label": "Workspace id",
        "description": (
            "If given, a start that is answered from another workspace (B3OS: organization) is refused. The legacy API"
            " is not known to say where it started."
        ),
        "schema": _TEXT,
    },
    "request_timeout": {
        "label": "Request time-out (seconds)",
        "description": "Longest time for one request and its whole answer. Default 30.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "max_connections": {
        "label": "Requests in flight",
        "description": "Most requests that one client has open at once. Default 10.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": (
            "Most requests of all waits in one triggerer whose tasks have the same status map, spread evenly. Default:"
            " as many as are due."
        ),
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "proxy": {
        "label": "Proxy",
        "description": "URL of an HTTP proxy. Default: the worker's HTTPS_PROXY and NO_PROXY.",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "ca_bundle": {
        "label": "CA bundle",
        "description": "File on the workers and triggerers with the certificate authorities to trust.",
        "schema": _TEXT,
    },
    "client_cert": {
        "label": "Client certificate",
        "description": "PEM file on the workers and triggerers with a client certificate and its key.",
        "schema": _TEXT,
    },
    "ledger_url": {
        "label": "Ledger URL",
        "description": (
            "Database for tasks with a key: postgresql+psycopg://user@host/database, or sqlite:///FILE for one host."
            " Default: [transactionlink] ledger_url of airflow.cfg."
        ),
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "inbox_url": {
        "label": "Inbox URL",
        "description": (
            "Database in which webhooks arrive, as in the ledger URL: waits in the triggerer then see endings at once,"
            " and poll rarely. Default: [transactionlink] inbox_url of airflow.cfg."
        ),
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "status_map": {
        "label": "Status map (JSON)",
        "description": 'Status words that this version does not know, such as {"ON_HOLD": "WAITING"}.',
        "schema": {"type": ["object", "null"]},
    },
    "execution_url": {
        "label": "Execution link",
        "description": "Where a person looks at an execution; {execution_id} stands for its id.",
        "schema": _TEXT,
    },
    "forbid_full_result": {
        "label": "Forbid full results",
        "description": "Refuse result='full' for every DAG: no result of this connection enters XCom whole.",
        "schema": {"type": "boolean", "default": False},
    },
    "result_uri_prefixes": {
        "label": "Storage for results",
        "description": (
            "Refuse every storage URI as result that is not below one of these, such as s3://conn@bucket/kyc/ (commas"
            " between them, or a JSON list). Empty: no restriction."
        ),
        "schema": _TEXT,
    },
}

HIDDEN = ["schema", "port"]
RELABELED = {
    "host": "Base URL",
    "login": "API key (legacy service only)",
    "password": "Organization token, API secret (legacy) or B3OS key",
}
PLACEHOLDERS = {
    "host": "https://api.transactionlink.io, or https://api.b3os.org",
    "login": "empty, unless the service is transactionlink-legacy",
    "password": "tot_…, API secret, or b3sk_…",
}
