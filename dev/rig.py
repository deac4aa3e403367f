"""
What every rig is: a service of several processes in one folder, started, watched and ended as a whole.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from dev import sessions
from dev.http_service import HttpService, ServiceError
from dev.services import Guard, Service, tail

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType


class Rig(HttpService):
    """
    A context manager. No process of it outlives this one, however this one ends.

    Args:
        url: Of its HTTP interface.
        home: What it writes is below this folder.
        python: Interpreter of the environment that has it.
        env: More environment for every process; wins over the rig's own settings.
    """

    product: ClassVar[str]
    """
    What is run.
    """

    trouble: ClassVar[re.Pattern[str]]
    """
    What makes a line of a log worth showing.
    """

    def __init__(self, url: str, home: Path, python: Path | None, env: Mapping[str, str] | None) -> None:
        super().__init__(url)
        self.home = home.absolute()
        self.log_dir = self.home / "services"
        self._python = (python or Path(sys.executable)).absolute()
        self._extra = dict(env or {})
        self._services: dict[str, Service] = {}
        self._ended: set[str] = set()
        self._guard: Guard | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """
        Of every process of the rig.
        """
        raise NotImplementedError

    def start(self, timeout: float = 240) -> None:
        """
        Start all processes and wait until each is at work.

        Args:
            timeout: Seconds until that is given up.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """
        End all processes: 2 to 5 seconds. Afterwards none is left, not even of tasks and flows that were running.
        """
        atexit.unregister(self.stop)
        guard, self._guard = self._guard, None
        if guard is None:
            return
        try:
            self._end(list(self._services.values()))
        finally:
            guard.close()
            self.close()

    def processes(self) -> list[int]:
        """
        Pids of everything that runs in this rig.
        """
        return sessions.members(s.session for s in self._services.values() if s.session is not None)

    def check(self) -> None:
        """
        Raise if a process has died without being told to.
        """
        for name, service in self._services.items():
            if service.session is not None and not service.running and name not in self._ended:
                said = f"{self.product}'s {name} ended with code {service.returncode}."
                raise ServiceError(f"{said} The end of {service.log}:\n{tail(service.log, 40)}")

    def complaints(self) -> str:
        """
        What each process complained about last.
        """
        return "\n".join(f"From {s.log}:\n{tail(s.log, 8, only=self.trouble)}" for s in self._services.values())

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """
        The body launches processes; if it raises, they are ended.
        """
        if self._services:
            raise RuntimeError("A rig is started once; make another one.")
        self.home.mkdir(parents=True, exist_ok=True)
        atexit.register(self.stop)
        try:
            self._guard = Guard()
            yield
        except BaseException:
            self.stop()
            raise

    def _launch(self, name: str, arguments: Sequence[str]) -> Service:
        assert self._guard is not None, "the rig has been started"
        log = self.log_dir / f"{name}.log"
        log.unlink(missing_ok=True)
        self._ended.discard(name)
        command = [str(self._python), "-m", *arguments]
        service = self._services[name] = Service(name, command, self.environment(), self.home, log, self._guard)
        service.start()
        return service

    def _end(self, services: Sequence[Service]) -> None:
        raise NotImplementedError
