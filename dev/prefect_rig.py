"""
A real Prefect server and a process runner on this machine, for tests and demonstrations.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dev import sessions
from dev.prefect_api import PrefectApi
from dev.prefect_runner import DEPLOYMENT
from dev.rig import Rig
from dev.services import Service, free_port, stop

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent


class PrefectRig(Rig, PrefectApi):
    """
    A Prefect server in about fifteen seconds, a runner of flows in about eight more, and gone without a trace:
    a context manager.

    No process of it outlives this one, however this one ends. Everything it writes is below ``home``.

    Args:
        home: PREFECT_HOME: the database, results that are stored.
        flows: ``path/of/file.py:name_of_flow`` for each flow that the runner serves, as ``flow-name/rig``.
        python: Interpreter of the environment that has Prefect.
        env: More environment for every process; wins over the rig's own settings.
        port: Of the server; default any free one.
    """

    product: ClassVar[str] = "Prefect"
    trouble: ClassVar[re.Pattern[str]] = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|Traceback|Error\b")

    def __init__(
        self,
        home: Path,
        flows: Sequence[str] = (),
        *,
        python: Path | None = None,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self._flows = list(flows)
        super().__init__(f"http://127.0.0.1:{self.port}/api", home, python, env)

    # --- processes

    @property
    def database(self) -> Path:
        """
        The server's SQLite file; to be opened for reading only.
        """
        return self.home / "prefect.db"

    def environment(self) -> dict[str, str]:
        """
        Of every process of the rig, and of whoever wants to talk to its server by Prefect's own client.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "PREFECT__", "TRANSACTIONLINK_"))
        }
        return inherited | {
            "PATH": f"{self._python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.database}",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLIENT_METRICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_LOGGING_COLORS": "false",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
            **self._extra,
        }

    def start(self, timeout: float = 240) -> None:
        """
        Start the server and, if there are flows, the runner; wait until both are at work.

        Args:
            timeout: Seconds until that is given up, for each.
        """
        with self._starting():
            command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui"]
            self._launch("server", command)
            self.wait_for(lambda: self.healthy() or None, "the server to answer", timeout)
            if self._flows:
                self.start_runner(timeout)

    def start_runner(self, timeout: float = 240) -> None:
        """
        Start the runner, for the first time or again, and wait until it has said that it looks for runs.
        """
        if "runner" in self._services:
            self._services.pop("runner").reap()
        runner = self._launch("runner", ["dev.prefect_runner", *self._flows])
        self.wait_for(lambda: "are being served" in runner.log.read_text() or None, "the runner", timeout)

    def stop_runner(self, number: signal.Signals = signal.SIGTERM, patience: float = 45) -> None:
        """
        Signal the runner and wait until it, and every flow process below it, is gone.

        Args:
            number: With SIGTERM it shuts down in order, as in a redeployment; with SIGKILL all die at once.
            patience: Seconds until what is left is killed.
        """
        service = self._services["runner"]
        self._ended.add("runner")
        service.signal(number, whole=number is signal.SIGKILL)
        if service.session is not None:
            sessions.wait_until_empty([service.session], patience)
            sessions.kill_all([service.session])
            service.reap()

    def run_here(
        self, deployment: str, parameters: Mapping[str, object] | None = None, tags: Collection[str] = ()
    ) -> str:
        """
        Run a flow that this rig's runner serves, by its name.
        """
        return self.run(f"{deployment}/{DEPLOYMENT}", parameters, tags)

    def _end(self, services: Sequence[Service]) -> None:
        for service in services:
            if service.name == "runner":  # nothing is left to be saved: asking it in order costs its grace of 30 s
                service.signal(signal.SIGKILL, whole=True)
        stop(services, patience=5)
