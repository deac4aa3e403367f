"""
The trigger's arguments and events: ids and times only, and stable for tasks that were deferred before an upgrade.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

from airflow_provider.triggers import TransactionlinkExecutionTrigger


def trigger(**changes: Any) -> TransactionlinkExecutionTrigger:
    arguments: dict[str, Any] = {
        "transactionlink_conn_id": "kyc",
        "execution_id": "3f",
        "deadline": 1700000000.0,
        "expires_at": 1700000100.0,
        "poll_interval": 5.0,
        "status_map": {"ON_HOLD": "WAITING"},
        "owned": True,
        "service": "transactionlink-legacy",
        "api_version": 1,
        "cancel_on_kill": True,
        "durable": False,
        **changes,
    }
    return TransactionlinkExecutionTrigger(**arguments)


def test_serialized_trigger_is_json_and_builds_the_same_trigger() -> None:
    """What is stored is JSON, names the class by its path, and every stored argument is one of the constructor's."""
    path, arguments = trigger().serialize()

    assert path == f"{TransactionlinkExecutionTrigger.__module__}.{TransactionlinkExecutionTrigger.__qualname__}"
    assert json.loads(json.dumps(arguments)) == arguments
    assert TransactionlinkExecutionTrigger(**arguments).serialize() == (path, arguments)
    constructor = inspect.signature(TransactionlinkExecutionTrigger).parameters
    assert set(arguments) == set(constructor)


def test_trigger_of_the_first_release_still_loads() -> None:
    """Deferred tasks outlive deployments: the arguments of each release are accepted for ever."""
    released: dict[str, dict[str, Any]] = {
        "0.1.0": {
            "transactionlink_conn_id": "kyc",
            "execution_id": "3f",
            "deadline": None,
            "expires_at": None,
            "poll_interval": None,
            "status_map": {},
            "owned": True,
        }
    }
    for arguments in released.values():
        assert TransactionlinkExecutionTrigger(**arguments).serialize()[1] == arguments
