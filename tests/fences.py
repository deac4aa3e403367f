"""
The fences of the documents, as a reader copies them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
_PRELUDE = "pip() { :; }\n"
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@frozen
class Page:
    """
    One document.

    Args:
        name: Its path below ``docs``.
    """

    name: str

    @property
    def fences(self) -> list[tuple[str, str]]:
        """
        Language and text of each fence.
        """
        found = _FENCE.findall((DOCS / self.name).read_text())
        return [(language, textwrap.dedent(text)) for _, language, text in found]

    def fence(self, language: str, number: int = 0) -> str:
        """
        The text of one of the fences in a language.
        """
        return [text for kind, text in self.fences if kind == language][number]


def counted() -> dict[str, dict[str, int]]:
    """
    How many fences of which language each page has.
    """
    pages = [Page(str(path.relative_to(DOCS))) for path in sorted(DOCS.glob("**/*.md"))]
    return {page.name: dict(Counter(kind for kind, _ in page.fences)) for page in pages if page.fences}


def placed(text: str, places: Mapping[str, str]) -> str:
    """
    The text with what is elsewhere here, such as a host: nothing else of a fence is changed, and nothing in vain.

    Args:
        places: From what the text says to what holds here.
    """
    for place, here in places.items():
        assert place in text, place
        text = text.replace(place, here)
    return text


def bash(script: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """
    Run commands to their success, with the programs of this environment. What ``pip`` would install is there.

    Args:
        folder: Where.
        env: Over the variables of this process, of which none is about Transactionlink.

    Returns:
        What they printed to standard output.
    """
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{_PRELUDE}{script}"],
        cwd=folder,
        env=environment() | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def running(script: str, folder: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """
    Commands that go on until somebody acts, or until Ctrl-C, which comes at the end.
    """
    process = subprocess.Popen(
        ["bash", "-euc", f"{_PRELUDE}{script}"],
        cwd=folder,
        env=environment() | dict(env or {}),
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
        # Whoever runs the tests in a shell's background has Ctrl-C ignored, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        try:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def until_it_answers(url: str) -> None:
    """
    Return when a server has come up.
    """
    ends = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, trust_env=False, timeout=30)
            return
        assert time.monotonic() < ends, f"nobody answers at {url}"
        time.sleep(0.05)


def environment() -> dict[str, str]:
    """
    Of a shell in which this environment is active.
    """
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {name: text for name, text in os.environ.items() if not name.startswith(("TRANSACTIONLINK_", "AIRFLOW"))}
    return ours | {"PATH": programs, "PYTHONPATH": str(PROJECT)}
