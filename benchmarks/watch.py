"""
Thousands of executions watched by one process: this project's watcher beside what one would write instead.

Each figure comes from a process of its own with a service of its own; those of one block ran one after the other, so
look at ratios, not at seconds. ``--full`` takes longer: all ways everywhere, and three rounds of each.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from benchmarks.pollers import CONNECTIONS, WAYS
from tl_orchestration.pacing import Pacing

TARGET_RATIO = 1.1
TARGET_BYTES = 4096
#: Fewer polls say nothing about the cost of one.
_TOO_FEW = 20
MEMORY_EXECUTIONS = 2000


@frozen
class Load:
    """
    So many executions, polled so often together; seconds and ways by default, seconds with ``--full``.
    """

    executions: int
    rate: int
    seconds: float
    ways: tuple[str, ...]
    full_seconds: float

    @property
    def interval(self) -> float:
        return self.executions / self.rate


_MOST = ("watcher", "bounded", "unbounded", "aiohttp")
LOADS = (
    Load(1_000, 160, 8.5, _MOST, 30.0),
    Load(1_000, 160, 6.0, ("per-poll",), 0.0),
    Load(1_000, 1_000, 3.0, _MOST, 20.0),
    Load(10_000, 160, 3.5, ("watcher", "bounded", "aiohttp"), 150.0),
    Load(10_000, 1_000, 12.0, ("watcher", "bounded", "aiohttp"), 45.0),
    Load(10_000, 1_000, 4.0, ("unbounded",), 0.0),
)
_FLAT_OUT_SECONDS = 2.5
_TITLES = {
    "watcher": "watcher",
    "bounded": f"httpx, shared, {CONNECTIONS} in flight",
    "unbounded": "httpx, shared, as it comes",
    "per-poll": "httpx, a client per poll",
    "aiohttp": f"aiohttp, shared, {CONNECTIONS}",
}


@contextmanager
def service() -> Iterator[str]:
    """
    A service in a process of its own; gives its URL.
    """
    command = [sys.executable, "-m", "benchmarks.poll_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def measure(way: str, executions: int, interval: float, seconds: float | str) -> dict[str, Any]:
    """
    What one process measured.
    """
    with service() as url:
        command = [sys.executable, "-m", "benchmarks.pollers", way, url, str(executions), str(interval), str(seconds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def typical(measurements: list[dict[str, Any]]) -> dict[str, Any]:
    """
    The measurement in the middle by CPU.
    """
    return sorted(measurements, key=lambda found: float(found["cpu_per_10k"]))[len(measurements) // 2]


def _shown(found: dict[str, Any], beside: dict[str, Any] | None, title: str, wanted: float | None) -> str:
    if found["polls"] < _TOO_FEW:
        return f"  {title:30s} stuck: {found['polls']} polls done"
    ratio = "     -" if beside is None else f"{found['cpu_per_10k'] / beside['cpu_per_10k']:6.2f}"
    delay = "       -       -" if found["p50"] is None else f"{found['p50']:8.2f}{found['p95']:8.2f}"
    of = "" if wanted is None else f" of {wanted:,.0f}"
    return (
        f"  {title:30s}{ratio}{found['cpu_per_10k']:9.2f}{found['per_second']:9,.0f}{of:9s}"
        f"{delay}{found['connections']:9,}{found['rss_mib']:8.0f}"
    )


def _block(heading: str, found: dict[str, dict[str, Any]], wanted: float | None) -> None:
    print(f"\n{heading}")
    print(f"  {'':30s} ratio  CPU s/   polls/s          detection s    connec-    peak")
    print(f"  {'':30s}          10k                       p50     p95    tions     MiB")
    for way, one in found.items():
        print(_shown(one, found.get("bounded"), _TITLES[way], wanted), flush=True)


def flat_out(rounds: int) -> float:
    """
    Watcher and bounded loop in turn, without pause between polls: the steadiest ratio.
    """
    samples: dict[str, list[dict[str, Any]]] = {way: [] for way in ("watcher", "bounded", "per-poll", "aiohttp")}
    for way in ("watcher", "bounded") * rounds + ("per-poll", "aiohttp"):
        samples[way].append(measure(way, 5 * CONNECTIONS, 0.0, _FLAT_OUT_SECONDS))
    _block(
        f"{5 * CONNECTIONS} executions, polled without pause",
        {way: typical(found) for way, found in samples.items()},
        None,
    )
    pairs = zip(samples["watcher"], samples["bounded"], strict=True)
    ratios = [float(ours["cpu_per_10k"] / theirs["cpu_per_10k"]) for ours, theirs in pairs]
    return statistics.median(ratios)


def under_load(*, full: bool) -> None:
    """
    The table of loads.
    """
    grouped: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
    for load in LOADS:
        if full and not load.full_seconds:
            continue
        found = grouped.setdefault((load.executions, load.rate), {})
        rounds, seconds = (3, load.full_seconds) if full else (1, load.seconds)
        for way in WAYS if full else load.ways:
            found[way] = typical([measure(way, load.executions, load.interval, seconds) for _ in range(rounds)])
    for (executions, rate), found in grouped.items():
        heading = f"{executions:,} executions, {rate:,} polls/s wanted (every {executions / rate:g} s each)"
        _block(heading, found, rate)


def requests_by_duration() -> None:
    """
    How often an execution is polled until its end is seen, and how late that is: arithmetic, no clock.
    """
    print("\nrequests per execution, and seconds until the end is seen (mean of 500)")
    print(f"  {'lasts':10s}{'default pacing':>20s}{'every 5 s':>20s}{'of them':>9s}")
    for title, seconds in (("5 s", 5.0), ("1 min", 60.0), ("10 min", 600.0), ("1 h", 3600.0)):
        ours, fixed = _polled(Pacing(), seconds), _polled(Pacing.every(5.0), seconds)
        shown = [f"{requests:.1f} / {late:.1f} s" for requests, late in (ours, fixed)]
        print(f"  {title:10s}{shown[0]:>20s}{shown[1]:>20s}{ours[0] / fixed[0]:8.2f}x")


def _polled(pacing: Pacing, lasts: float) -> tuple[float, float]:
    rng = random.Random(1)
    requests, late, runs = 0, 0.0, 500
    for _ in range(runs):
        ends, now = lasts * rng.uniform(0.95, 1.05), 0.0
        requests += 1
        while now < ends:
            now += pacing.delay(now, rng)
            requests += 1
        late += now - ends
    return requests / runs, late / runs


def main() -> None:
    """
    Measure and print.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all ways at every load, longer, three rounds each")
    full = parser.parse_args().full
    held = {way: measure(way, MEMORY_EXECUTIONS, 0.0, "memory")["bytes"] for way in ("watcher", "bounded")}
    print("watching: ratio = CPU per poll beside the bounded loop over one shared httpx.AsyncClient, same parsing")
    print(f"memory per waiting execution: {held['watcher']:,.0f} bytes (target: under {TARGET_BYTES:,});", end=" ")
    print(f"the bounded loop: {held['bounded']:,.0f}")
    ratio = flat_out(5 if full else 3)
    print(f"  watcher / bounded loop, median of pairs: {ratio:.2f} (target: at most {TARGET_RATIO})")
    under_load(full=full)
    requests_by_duration()


if __name__ == "__main__":
    main()
