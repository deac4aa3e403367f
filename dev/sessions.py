"""
Processes by session, read from ``/proc``; and the guard that ends sessions whose owner died.

Every service is the leader of its own session. A child may change its process group (Airflow's task processes
do), but it stays in the session, so a session names all the processes of a service and no others. Run as a
script, this file is the guard: it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """
    One line of the process table.

    Args:
        started: Clock ticks since boot; with the pid it names one process for ever.
    """

    pid: int
    parent: int
    session: int
    zombie: bool
    started: int


def find(pid: int) -> Process | None:
    """
    The process with this pid, or None if there is none.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    state, parent, _group, session, *rest = stat.rpartition(")")[2].split()  # a name may contain blanks and ")"
    return Process(pid, int(parent), int(session), state in {"Z", "X"}, int(rest[15]))


def alive(pid: int) -> bool:
    """
    Whether a process with this pid still runs (a zombie does not).
    """
    process = find(pid)
    return process is not None and not process.zombie


def ancestors(pid: int) -> Iterator[int]:
    """
    The parent of a process, its parent, and so on.
    """
    process = find(pid)
    while process is not None and process.parent > 0:
        yield process.parent
        process = find(process.parent)


def members(sessions: Iterable[int]) -> list[int]:
    """
    Pids of everything that runs in these sessions.
    """
    wanted = set(sessions)
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    processes = (find(pid) for pid in pids)
    return [p.pid for p in processes if p is not None and p.session in wanted and not p.zombie]


def send(pid: int, number: signal.Signals) -> None:
    """
    Signal one process; one that has gone already is no error.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until_empty(sessions: Iterable[int], patience: float) -> bool:
    """
    Wait for the last process of these sessions to end.

    Args:
        patience: Longest wait, seconds.

    Returns:
        Whether all of them ended in time.
    """
    wanted = set(sessions)
    deadline = time.monotonic() + patience
    while members(wanted):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def kill_all(sessions: Iterable[int], patience: float = 20.0) -> list[int]:
    """
    SIGKILL everything in these sessions, again and again until a look finds nothing.

    A process that forks while it is being killed can leave a child that the first look did not see.

    Returns:
        What would not die.
    """
    wanted = set(sessions)
    deadline = time.monotonic() + patience
    while (left := members(wanted)) and time.monotonic() < deadline:
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(0.02)
    return left


def guard(lines: Iterable[str]) -> None:
    """
    Remember sessions until the input ends, then end what is left of them.

    Args:
        lines: ``+ <session>`` when one begins, ``- <session>`` when it was ended properly. The input ends when
            its writer closes it or dies, no matter how.
    """
    held: dict[int, int] = {}  # session -> start of its leader, lest a reused pid be taken for it
    for line in lines:
        sign, _, number = line.partition(" ")
        session = int(number)
        leader = find(session)
        if sign == "+" and leader is not None:
            held[session] = leader.started
        elif sign == "-":
            held.pop(session, None)
    ours = [s for s, started in held.items() if (now := find(s)) is None or now.started == started]
    for session in ours:
        send(session, signal.SIGTERM)
    wait_until_empty(ours, 2.0)
    kill_all(ours)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    guard(sys.stdin)
