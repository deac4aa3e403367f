"""
Real Airflow on this machine, in four processes, for tests and demonstrations.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dev import airflow_home, sessions
from dev.airflow_api import AirflowApi
from dev.airflow_http import AirflowError
from dev.services import Guard, Service, free_port, stop, tail

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

COMMANDS = {
    "api-server": ["api-server", "--host", "127.0.0.1", "--workers", "1"],
    "scheduler": ["scheduler", "--skip-serve-logs"],  # its log server would listen on all addresses
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}

TROUBLE = re.compile(r"\[(warning|error|critical)|Traceback|Error\b")
"""
What makes a line of a log worth showing.
"""


class AirflowRig(AirflowApi):
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
        template_db: A migrated database to begin with, built if missing; default: kept beside ``python``.
        log_dir: One log file per process; default ``home/services``.
        database_url: Of an empty database for Airflow's own tables; default: an SQLite file in ``home``.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        python: Path | None = None,
        connections: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        template_db: Path | None = None,
        log_dir: Path | None = None,
        database_url: str | None = None,
    ) -> None:
        self.home = home.absolute()
        self.dags_folder = dags_folder.absolute()
        self.port = port or free_port()
        self.log_dir = (log_dir or self.home / "services").absolute()
        self._python = (python or Path(sys.executable)).absolute()
        self._connections = dict(connections or {})
        self._extra = dict(env or {})
        self._template = template_db
        self.database_url = database_url
        self._services: dict[str, Service] = {}
        self._killed: set[str] = set()
        self._guard: Guard | None = None
        super().__init__(f"http://127.0.0.1:{self.port}")

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
        Airflow's SQLite file; to be opened for reading only.
        """
        return self.home / "airflow.db"

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

    def start(self, timeout: float = 90) -> None:
        """
        Start all four processes and wait until each has reported itself healthy.

        Args:
            timeout: Seconds until that is given up.
        """
        if self._services:
            raise RuntimeError("A rig is started once; make another one.")
        self.home.mkdir(parents=True, exist_ok=True)
        env = self._environment()
        if self.database_url is None:
            airflow_home.prepare_database(self._python, self.home, env, self._template)
        else:
            airflow_home.migrate(self._python, env)
        atexit.register(self.stop)
        try:
            self._guard = Guard()
            since = datetime.now(UTC)
            for name in COMMANDS:
                self._launch(name, name)
            self._wait_until_healthy(since, timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """
        End all processes: 2 to 5 seconds. Afterwards none is left, not even of tasks that were running.
        """
        atexit.unregister(self.stop)
        guard, self._guard = self._guard, None
        if guard is None:
            return
        try:
            # The triggerer's supervisor sits out a delay of ten seconds although its runner has gone.
            stop(list(self._services.values()), idle_alone="triggerer")
        finally:
            guard.close()
            self.close()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, whole: bool = True) -> None:
        """
        Signal one of the four; after SIGKILL, wait until it is gone. It is not started again.

        Args:
            name: ``api-server``, ``scheduler``, ``dag-processor`` or ``triggerer``.
            whole: Signal also everything below it (of the scheduler: running tasks and their supervisors).
        """
        service = self._services[name]
        self._killed.add(name)
        service.signal(number, whole=whole)
        if number is signal.SIGKILL and whole and service.session is not None:
            sessions.kill_all([service.session])
            service.reap()

    def add_triggerer(self, timeout: float = 60) -> str:
        """
        Start one more triggerer and wait until it is at work.

        Returns:
            Its name, for :meth:`kill` and :meth:`remove`.
        """
        before = len(self.live_jobs("TriggererJob"))
        name = f"triggerer-{len(self._services)}"
        self._launch(name, "triggerer")
        self.wait_for(lambda: len(self.live_jobs("TriggererJob")) > before or None, name, timeout)
        return name

    def remove(self, name: str) -> None:
        """
        End one that :meth:`add_triggerer` has started.
        """
        stop([self._services.pop(name)], patience=3)
        self._killed.discard(name)

    def _launch(self, name: str, kind: str) -> None:
        assert self._guard is not None, "the rig has been started"
        command = [str(self._python), "-m", "airflow", *COMMANDS[kind]]
        log = self.log_dir / f"{name}.log"
        log.unlink(missing_ok=True)
        self._services[name] = Service(name, command, self._environment(), self.home, log, self._guard)
        self._services[name].start()

    def restart(self, name: str, timeout: float = 60) -> None:
        """
        Let one of the four shut down properly (the triggerer may take 11 seconds), start it, wait until it is healthy.
        """
        service = self._services[name]
        stop([service], patience=15)
        since = datetime.now(UTC)
        service.start()
        self._killed.discard(name)
        self._wait_until_healthy(since, timeout, only=name)

    def processes(self) -> list[int]:
        """
        Pids of everything that runs in this rig.
        """
        return sessions.members(s.session for s in self._services.values() if s.session is not None)

    def task_process(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, timeout: float = 30) -> int:
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

    def command(self, *arguments: str, timeout: float = 60) -> str:
        """
        Run ``airflow`` with this Airflow's settings; costs three to four seconds.

        Returns:
            What it printed to standard output.
        """
        command = [str(self._python), "-m", "airflow", *arguments]
        done = subprocess.run(
            command, env=self._environment(), cwd=self.home, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise AirflowError(f"airflow {' '.join(arguments[:2])} ended with code {done.returncode}: {done.stderr}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        settings = airflow_home.settings(
            self._python, self.home, self.dags_folder, self.port, self._connections, self.database_url
        )
        return settings | self._extra

    # --- telling what went wrong

    def check(self) -> None:
        """
        Raise if one of the four has died without being told to.
        """
        for name, service in self._services.items():
            if service.session is not None and not service.running and name not in self._killed:
                said = f"Airflow's {name} ended with code {service.returncode}."
                raise AirflowError(f"{said} The end of {service.log}:\n{tail(service.log, 40)}")

    def complaints(self) -> str:
        """
        Import errors, and what each process complained about last.
        """
        try:
            said = [f"Import error in {file}:\n{trace}" for file, trace in self.import_errors().items()]
        except AirflowError as error:
            said = [f"The import errors cannot be read: {error}"]
        said += [f"From {s.log}:\n{tail(s.log, 8, only=TROUBLE)}" for s in self._services.values()]
        return "\n".join(said)

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
