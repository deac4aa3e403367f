"""
A real Prefect server and a process runner on this machine, for tests and demonstrations.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dev import sessions
from dev.prefect_api import PrefectApi, PrefectError
from dev.prefect_runner import DEPLOYMENT
from dev.services import Guard, Service, free_port, stop, tail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent

TROUBLE = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|Traceback|Error\b")
"""
What makes a line of a log worth showing.
"""


class PrefectRig(PrefectApi):
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

    def __init__(
        self,
        home: Path,
        flows: Sequence[str] = (),
        *,
        python: Path | None = None,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.home = home.absolute()
        self.port = port or free_port()
        self.log_dir = self.home / "services"
        self._flows = list(flows)
        self._python = (python or Path(sys.executable)).absolute()
        self._extra = dict(env or {})
        self._services: dict[str, Service] = {}
        self._ended: set[str] = set()
        self._guard: Guard | None = None
        super().__init__(f"http://127.0.0.1:{self.port}/api")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

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

    def start(self, timeout: float = 90) -> None:
        """
        Start the server and, if there are flows, the runner; wait until both are at work.

        Args:
            timeout: Seconds until that is given up, for each.
        """
        if self._services:
            raise RuntimeError("A rig is started once; make another one.")
        self.home.mkdir(parents=True, exist_ok=True)
        atexit.register(self.stop)
        try:
            self._guard = Guard()
            command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui"]
            self._launch("server", command)
            self.wait_for(lambda: self.healthy() or None, "the server to answer", timeout)
            if self._flows:
                self.start_runner(timeout)
        except BaseException:
            self.stop()
            raise

    def start_runner(self, timeout: float = 60) -> None:
        """
        Start the runner, for the first time or again, and wait until it has said that it looks for runs.
        """
        if "runner" in self._services:
            self._services.pop("runner").reap()
        self._launch("runner", ["-m", "dev.prefect_runner", *self._flows])
        log = self._services["runner"].log
        self.wait_for(lambda: "are being served" in log.read_text() or None, "the runner", timeout)

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

    def stop(self) -> None:
        """
        End all processes, those of running flows too.
        """
        atexit.unregister(self.stop)
        guard, self._guard = self._guard, None
        if guard is None:
            return
        try:
            runner = [service for name, service in self._services.items() if name == "runner"]
            for service in runner:  # nothing is left to be saved: asking it in order costs its grace of 30 s
                service.signal(signal.SIGKILL, whole=True)
            stop(list(self._services.values()), patience=5)
        finally:
            guard.close()
            self.close()

    def flow_processes(self) -> list[int]:
        """
        Pids below the runner: each flow run is one process of its own (beside what Python's multiprocessing needs).
        """
        service = self._services["runner"]
        everything = [] if service.session is None else sessions.members([service.session])
        return [pid for pid in everything if pid != service.pid and not _is_tracker(pid)]

    def run_here(self, deployment: str, parameters: Mapping[str, object] | None = None) -> str:
        """
        Run a flow that this rig's runner serves, by its name.
        """
        return self.run(f"{deployment}/{DEPLOYMENT}", parameters)

    def check(self) -> None:
        """
        Raise if a process has died without being told to.
        """
        for name, service in self._services.items():
            if service.session is not None and not service.running and name not in self._ended:
                said = f"Prefect's {name} ended with code {service.returncode}."
                raise PrefectError(f"{said} The end of {service.log}:\n{tail(service.log, 40)}")

    def complaints(self) -> str:
        """
        What each process complained about last.
        """
        return "\n".join(f"From {s.log}:\n{tail(s.log, 8, only=TROUBLE)}" for s in self._services.values())

    def _launch(self, name: str, arguments: Sequence[str]) -> None:
        assert self._guard is not None, "the rig has been started"
        log = self.log_dir / f"{name}.log"
        log.unlink(missing_ok=True)
        self._ended.discard(name)
        command = [str(self._python), *arguments]
        self._services[name] = Service(name, command, self.environment(), self.home, log, self._guard)
        self._services[name].start()


def _is_tracker(pid: int) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
