"""
Work that is killed in the middle: each piece in a fork of one process that has imported everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Killed(Exception):
    """The fork was killed by SIGKILL."""


class Mother:
    """
    A program that ends in :func:`serve`, from the side of a test.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, order: dict[str, Any]) -> Any:
        """
        Let it carry out an order, and return its answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def mother(module: str) -> Iterator[Mother]:
    """
    The program of a module, as long as this lasts.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Mother(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """
    Answer each order that comes, until there are no more.
    """
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


def in_a_fork(work: Callable[[], Any]) -> Any:
    """
    What some work returns, as JSON holds it; None: it crashed.

    Raises:
        Killed: It was killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as file:
                json.dump(work(), file)
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        raise Killed
    return json.loads(told) if told else None
