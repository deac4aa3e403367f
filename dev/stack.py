"""
What the demonstration and the standing services share: where things are, how to talk to a person, how to be stopped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import httpx

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
DAGS = ROOT / "example_dags" / "airflow"
DAG_ID = "kyc_onboarding"
SAFETY_NET = 30
"""
Seconds between two polls of a wait to which webhooks come.
"""
TOKEN = "tot_sandbox"  # noqa: S105 - known to everybody, opens nothing but the sandbox

COLOURS = {
    "success": "32",
    "failed": "31",
    "upstream_failed": "31",
    "up_for_retry": "33",
    "running": "36",
    "deferred": "35",
    "queued": "2",
    "skipped": "2",
    "title": "1",
}
"""
State of a task to a colour of the terminal.
"""


def connections(sandbox_url: str) -> dict[str, str]:
    """
    The Airflow connection that leads to the sandbox, by connection id.
    """
    fields = {
        "conn_type": "transactionlink",
        "host": sandbox_url,
        "password": TOKEN,
        "extra": {"execution_url": f"{sandbox_url}/_sandbox/starts#{{execution_id}}"},
    }
    return {"transactionlink_default": json.dumps(fields)}


def webhooks_into(inbox: Path, sandbox_url: str) -> dict[str, str]:
    """
    Environment of an Airflow whose API server takes the sandbox's webhooks, and whose triggerer hears of them.
    """
    return {
        "AIRFLOW__TRANSACTIONLINK__INBOX_URL": f"sqlite:///{inbox}",
        "AIRFLOW__TRANSACTIONLINK__RECEIVE_WEBHOOKS": "True",
        "AIRFLOW__TRANSACTIONLINK__WEBHOOK_KEY_HOST": sandbox_url,
        "AIRFLOW__TRANSACTIONLINK__SAFETY_NET": str(SAFETY_NET),
    }


def deliver_to(airflow_url: str, sandbox_url: str) -> None:
    """
    Let the sandbox deliver its webhooks to an Airflow.
    """
    target = {"url": f"{airflow_url}/transactionlink/webhooks/transactionlink"}
    httpx.put(f"{sandbox_url}/_sandbox/webhooks", json=[target], trust_env=False, timeout=10).raise_for_status()


def end_on_signals() -> None:
    """
    From now on SIGINT and SIGTERM both raise KeyboardInterrupt, once; the clean-up that follows is not disturbed.
    """
    names = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for name in names:
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    for name in names:
        signal.signal(name, interrupt)


class Console:
    """
    Prints lines with the seconds since it was made; colours only for a person at a terminal.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def say(self, subject: str, text: str) -> None:
        """
        One line about one thing.
        """
        print(f"{time.monotonic() - self._started:6.1f} s  {subject:<12} {text}", flush=True)

    def paint(self, text: str, style: str) -> str:
        """
        The text in the colour of a state, or as it is.
        """
        code = COLOURS.get(style)
        return f"\033[{code}m{text}\033[0m" if self._colour and code else text
