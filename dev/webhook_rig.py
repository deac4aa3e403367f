"""
The way of webhooks on this machine: a receiver, an inbox in a file and, where there is a Prefect, forwarders.
"""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING, ClassVar

import httpx

from dev.http_service import ServiceError
from dev.rig import Rig
from dev.services import free_port, stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dev.services import Service

FORWARDER = "forwarder"


class WebhookRig(Rig):
    """
    ``tl webhooks serve`` and, on demand, ``tl webhooks forward``: a context manager.

    Args:
        home: The inbox and the logs are below this folder.
        sandbox_url: Whose keys are good, and which delivers to here while this runs.
        python: Interpreter of the environment that has the extra ``webhooks``.
        env: More environment for every process, such as where a Prefect server is.
    """

    product = "Webhooks"
    trouble: ClassVar[re.Pattern[str]] = re.compile(r"WARNING|ERROR|refused|could not|Traceback|waits, and goes on")

    def __init__(
        self, home: Path, sandbox_url: str, *, python: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}", home, python, env)
        self.inbox_url = f"sqlite:///{self.home / 'inbox.db'}"
        self._sandbox_url = sandbox_url

    def environment(self) -> dict[str, str]:
        """
        Of every process: no token is in it.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRANSACTIONLINK_")}
        return inherited | {
            "TRANSACTIONLINK_LEDGER_URL": self.inbox_url,
            "TRANSACTIONLINK_BASE_URL": self._sandbox_url,
            **self._extra,
        }

    def start(self, timeout: float = 180) -> None:
        """
        Start the receiver, and let the sandbox deliver to it.

        Args:
            timeout: Seconds until that is given up.
        """
        with self._starting():
            self._launch("receiver", ["tl_orchestration.cli", "webhooks", "serve", "--port", str(self.port)])
            self.wait_for(lambda: self._healthy() or None, "the receiver to answer", timeout)
            self._deliver_to([{"url": f"{self.base_url}/webhooks/transactionlink"}])

    def start_forwarder(self, name: str = FORWARDER, timeout: float = 180) -> None:
        """
        Start a forwarder to Prefect, for the first time or again, and wait until it is at work.
        """
        if name in self._services:
            self._services.pop(name).reap()
        forwarder = self._launch(name, ["tl_orchestration.cli", "webhooks", "forward", "--prefect"])
        self.wait_for(lambda: "Forwarding from" in forwarder.log.read_text() or None, "the forwarder", timeout)

    def stop_forwarder(self, number: signal.Signals = signal.SIGTERM, name: str = FORWARDER) -> None:
        """
        Signal a forwarder and wait until it is gone.
        """
        service = self._services[name]
        self._ended.add(name)
        service.signal(number)
        self.wait_for(lambda: None if service.running else True, f"the end of the {name}", 90)
        service.reap()

    def log_of(self, name: str) -> str:
        """
        What a process has said since its last start.
        """
        return self._services[name].log.read_text()

    def _healthy(self) -> bool:
        try:
            return self._send("GET", "/healthz", {}).status_code == 200
        except ServiceError:
            return False

    def _deliver_to(self, targets: list[dict[str, str]]) -> None:
        url = f"{self._sandbox_url}/_sandbox/webhooks"
        httpx.put(url, json=targets, timeout=10, trust_env=False).raise_for_status()

    def _end(self, services: Sequence[Service]) -> None:
        try:
            self._deliver_to([])
        finally:
            stop(services, patience=5)
