"""
Long-running child processes that cannot outlive the program that started them.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dev import sessions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_GIVEN_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(preferred: int | None = None) -> int:
    """
    A loopback port that nobody listens on: the preferred one if it can be had, else any.

    Who is told the number may take a while to listen. So it is none that the system gives to whoever connects or
    listens meanwhile and has named none.
    """
    first_given_out = int(_GIVEN_OUT.read_text().split()[0]) if _GIVEN_OUT.exists() else 0
    others = random.SystemRandom().sample(range(10_000, first_given_out), 20) if first_given_out > 20_000 else []
    for candidate in [*([preferred] if preferred else []), *others, 0]:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            return int(probe.getsockname()[1])
    raise OSError("No free port on the loopback interface.")


def tail(path: Path, lines: int = 20, *, only: re.Pattern[str] | None = None) -> str:
    """
    The last lines of a log file; empty if there is none.

    Args:
        only: Just lines in which this is found; if it is nowhere, the very last lines.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    everything = text.splitlines()
    chosen = [line for line in everything if only is not None and only.search(line)]
    return "\n".join(chosen[-lines:] if chosen else everything[-lines if only is None else -2 :])


class Guard:
    """
    A helper process that ends our services if we die without doing so (SIGKILL, ``os._exit``, a crash).
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(sessions.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
            text=True,
        )

    @property
    def pid(self) -> int:
        """
        Of the helper process.
        """
        return self._process.pid

    def hold(self, session: int) -> None:
        """
        From now on this session must not outlive us.
        """
        self._tell(f"+ {session}\n")

    def release(self, session: int) -> None:
        """
        This session was ended.
        """
        self._tell(f"- {session}\n")

    def close(self) -> None:
        """
        End the helper; it ends what it still holds.
        """
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait(60)

    def _tell(self, line: str) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


class Service:
    """
    One child process, leader of its own session, writing to its own log file.

    Args:
        name: For people.
        command: Program and arguments.
        env: The whole environment of the process.
        cwd: Where it runs.
        log: Where its output goes; a restart goes on at its end.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path, guard: Guard
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._env = env
        self._cwd = cwd
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None
        self._born = 0
        self._reaped = True

    def __repr__(self) -> str:
        return f"<Service {self.name} pid={self.pid} running={self.running}>"

    @property
    def pid(self) -> int | None:
        """
        Of the last start, also its session; None before the first.
        """
        return None if self._process is None else self._process.pid

    @property
    def session(self) -> int | None:
        """
        The session to end; None once it is over, for the number may then be given to somebody else.
        """
        if self._reaped or self._process is None:
            return None
        now = sessions.find(self._process.pid)
        return self._process.pid if now is None or now.started == self._born else None

    @property
    def running(self) -> bool:
        """
        Whether the process itself still runs, whatever became of its children.
        """
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """
        How the process ended; None if it did not.
        """
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """
        Start the process; nothing of an earlier start may be left.
        """
        if self.session is not None:
            raise RuntimeError(f"{self.name} was started already (pid {self.pid}).")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=dict(self._env),
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reaped = False
        leader = sessions.find(self._process.pid)  # there at least as a zombie: nobody has waited for it
        self._born = leader.started if leader else 0
        self._guard.hold(self._process.pid)

    def signal(self, number: signal.Signals, *, whole: bool = False) -> None:
        """
        Signal the process, or with ``whole`` everything it started too.
        """
        if self.session is None or self._process is None:
            return
        if whole:
            for pid in sessions.members([self.session]):
                sessions.send(pid, number)
        else:
            self._process.send_signal(number)

    def reap(self) -> None:
        """
        Record the end of a session in which nothing runs any more.
        """
        if self._process is not None and not self._reaped:
            self._process.wait(30)
            self._guard.release(self._process.pid)
            self._reaped = True


def stop(services: Sequence[Service], *, idle_alone: str = "", patience: float = 5.0) -> None:
    """
    End services and everything they started: ask, wait, then kill.

    Args:
        idle_alone: Name of a service that has nothing left to do once its children have gone: it is killed then.
        patience: Seconds from asking to killing.
    """
    ours = {service.session: service.name for service in services if service.session is not None}
    for service in services:
        service.signal(signal.SIGTERM)
        service.signal(signal.SIGCONT, whole=True)  # what was stopped hears nothing
    deadline = time.monotonic() + patience
    while (left := sessions.members(ours)) and time.monotonic() < deadline:
        for pid in left:
            if ours.get(pid) == idle_alone and sessions.members([pid]) == [pid]:
                sessions.send(pid, signal.SIGKILL)
        time.sleep(0.05)
    if immortal := sessions.kill_all(ours):
        raise RuntimeError(f"Processes {immortal} cannot be killed.")
    for service in services:
        service.reap()
