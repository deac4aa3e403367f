"""
Real Airflow on this machine, in four processes, for tests and demonstrations.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from dev import airflow_home, sessions
from dev.airflow_api import AirflowApi
from dev.http_service import ServiceError
from dev.rig import Rig
from dev.services import Service, free_port, stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COMMANDS = {
    "api-server": ["api-server", "--host", "127.0.0.1", "--workers", "1"],
    "scheduler": ["scheduler", "--skip-serve-logs"],  # its log server would listen on all addresses
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}


class AirflowRig(Rig, AirflowApi):
    """
    Airflow from nothing in about ten seconds, and gone without a trace: a context manager.

    No process of it outlives this one, however this one ends. Everything it writes is below ``home``. DAG files
    may be added and changed while it runs; see :meth:`write_dag`. So one rig can serve a whole test session.

    Args:
        home: AIRFLOW_HOME. A database that is there already is used again.
        dags_folder: Folder with DAG files.
        python: Interpreter of the environment that has Airflow; its ``bin`` comes first on PATH.
        connections: Connection id to JSON or URI.
        env: More environment for every process; wins over the rig's own settings.
        port: Of the api-server; default any free one.
        database_url: Of an empty database for Airflow's own tables; default: an SQLite file in ``home``.
    """

    product: ClassVar[str] = "Airflow"
    trouble: ClassVar[re.Pattern[str]] = re.compile(r"\[(warning|error|critical)|Traceback|Error\b")

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        python: Path | None = None,
        connections: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        database_url: str | None = None,
    ) -> None:
        self.dags_folder = dags_folder.absolute()
        self.port = port or free_port()
        self._connections = dict(connections or {})
        self.database_url = database_url
        super().__init__(f"http://127.0.0.1:{self.port}", home, python, env)

    # --- processes

    @property
    def database(self) -> Path:
        """
        Airflow's SQLite file; to be opened for reading only.
        """
        return self.home / "airflow.db"

    def environment(self) -> dict[str, str]:
        """
        Of every process of the rig.
        """
        settings = airflow_home.settings(
            self._python, self.home, self.dags_folder, self.port, self._connections, self.database_url
        )
        return settings | self._extra

    @property
    def version(self) -> str:
        """
        Of Airflow.
        """
        return airflow_home.airflow_version(self._python)

    @property
    def pids(self) -> dict[str, int]:
        """
        Process by name, of those that were started.
        """
        return {name: service.pid for name, service in self._services.items() if service.pid is not None}

    def start(self, timeout: float = 240) -> None:
        """
        Start all four processes and wait until each has reported itself healthy.

        Args:
            timeout: Seconds until that is given up.
        """
        with self._starting():
            if self.database_url is None:
                airflow_home.prepare_database(self._python, self.home, self.environment())
            else:
                airflow_home.migrate(self._python, self.environment())
            since = datetime.now(UTC)
            for name in COMMANDS:
                self._launch_command(name, name)
            self._wait_until_healthy(since, timeout)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, whole: bool = True) -> None:
        """
        Signal one of the four; after SIGKILL, wait until it is gone. It is not started again.

        Args:
            name: ``api-server``, ``scheduler``, ``dag-processor`` or ``triggerer``.
            whole: Signal also everything below it (of the scheduler: running tasks and their supervisors).
        """
        service = self._services[name]
        self._ended.add(name)
        service.signal(number, whole=whole)
        if number is signal.SIGKILL and whole and service.session is not None:
            sessions.kill_all([service.session])
            service.reap()

    def add_triggerer(self, timeout: float = 120) -> str:
        """
        Start one more triggerer and wait until it is at work.

        Returns:
            Its name, for :meth:`kill` and :meth:`remove`.
        """
        before = len(self.live_jobs("TriggererJob"))
        name = f"triggerer-{len(self._services)}"
        self._launch_command(name, "triggerer")
        self.wait_for(lambda: len(self.live_jobs("TriggererJob")) > before or None, name, timeout)
        return name

    def remove(self, name: str) -> None:
        """
        End one that :meth:`add_triggerer` has started.
        """
        stop([self._services.pop(name)], patience=3)
        self._ended.discard(name)

    def restart(self, name: str, timeout: float = 120) -> None:
        """
        Let one of the four shut down properly (the triggerer may take 11 seconds), start it, wait until it is healthy.
        """
        service = self._services[name]
        stop([service], patience=15)
        since = datetime.now(UTC)
        service.start()
        self._ended.discard(name)
        self._wait_until_healthy(since, timeout, only=name)

    def task_process(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, timeout: float = 120) -> int:
        """
        Wait until a task runs.

        Returns:
            Pid of the process in which ``execute`` runs: a child of the LocalExecutor worker that supervises it,
            and so a descendant of the scheduler.
        """

        def look() -> int | None:
            task = self.wait_for_task(dag_id, run_id, task_id, {"running"}, timeout, map_index)
            ours = task.pid is not None and sessions.alive(task.pid)
            return task.pid if ours and self.pids["scheduler"] in sessions.ancestors(task.pid or 0) else None

        return self.wait_for(look, f"the process of {task_id}", timeout)

    # --- DAG files

    def write_dag(self, name: str, source: str) -> datetime:
        """
        Write a DAG file, complete or not at all. Airflow ignores files without the words *airflow* and *dag*.

        Args:
            name: File name without ``.py``.

        Returns:
            A moment for ``wait_for_dag(..., parsed_after=...)``.
        """
        self.dags_folder.mkdir(parents=True, exist_ok=True)
        target = self.dags_folder / f"{name}.py"
        changed = target.exists()
        draft = target.with_suffix(".draft")
        draft.write_text(source)
        if not changed:
            moment = datetime.now(UTC)
            draft.replace(target)
            return moment
        # A parse of the old text may be going on. Airflow parses again only what was changed after the end of the
        # last parse: so the change is dated ahead, and a parse counts that began well after it.
        ahead = max(time.time() + 2, target.stat().st_mtime + 1)  # compiled files tell changes by the second
        os.utime(draft, (ahead, ahead))
        draft.replace(target)
        return datetime.now(UTC) + timedelta(seconds=0.5)

    # --- what the REST interface does not offer

    def command(self, *arguments: str, timeout: float = 180) -> str:
        """
        Run ``airflow`` with this Airflow's settings; costs three to four seconds.

        Returns:
            What it printed to standard output.
        """
        command = [str(self._python), "-m", "airflow", *arguments]
        done = subprocess.run(
            command, env=self.environment(), cwd=self.home, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise ServiceError(f"airflow {' '.join(arguments[:2])} ended with code {done.returncode}: {done.stderr}")
        return done.stdout

    # --- telling what went wrong

    def complaints(self) -> str:
        """
        Import errors, and what each process complained about last.
        """
        try:
            said = [f"Import error in {file}:\n{trace}" for file, trace in self.import_errors().items()]
        except ServiceError as error:
            said = [f"The import errors cannot be read: {error}"]
        return "\n".join([*said, super().complaints()])

    def _launch_command(self, name: str, kind: str) -> None:
        self._launch(name, ["airflow", *COMMANDS[kind]])

    def _end(self, services: Sequence[Service]) -> None:
        # The triggerer's supervisor sits out a delay of ten seconds although its runner has gone.
        stop(services, idle_alone="triggerer")

    def _wait_until_healthy(self, since: datetime, timeout: float, only: str | None = None) -> None:
        """
        Wait for a heartbeat that is younger than ``since``, of all four or of one.
        """
        parts = [n.replace("-", "_") for n in COMMANDS if only in {None, n} and n != "api-server"]

        def look() -> bool | None:
            health = self.health()
            if health is None or health["metadatabase"]["status"] != "healthy":
                return None
            beats = [health[part].get(f"latest_{part}_heartbeat") for part in parts]
            return all(beat and datetime.fromisoformat(beat) > since for beat in beats) or None

        if only in {None, "api-server"}:
            # The api-server builds the part that tasks talk to on its first request, which blocks it for 3 seconds.
            self.wait_for(lambda: self.warm_up() or None, "the api-server to answer", timeout)
        self.wait_for(look, f"{only or 'Airflow'} to be healthy", timeout)
