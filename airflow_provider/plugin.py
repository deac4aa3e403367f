"""
What Airflow loads of this provider as a plugin: the receiver of webhooks, where it is switched on.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_provider import receiving


class TransactionlinkPlugin(AirflowPlugin):
    """
    Found by its entry point (``airflow.plugins``): Airflow loads what a provider's info names only where it does not
    load providers lazily.
    """

    name = "transactionlink"
    fastapi_apps: list[Any] = receiving.applications()
