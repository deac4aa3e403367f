"""
What importing the blocks costs over what Prefect has loaded anyway: every server, worker and flow run pays it.

Each sample is a fresh interpreter.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

SCRIPT = """
import sys, time
import prefect
seen = set(sys.modules)
began = time.perf_counter()
import prefect_blocks
print((time.perf_counter() - began) * 1000, *sorted(set(sys.modules) - seen))
"""
ROUNDS = 7


def sample() -> tuple[float, list[str]]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=True)
    milliseconds, *modules = done.stdout.split()
    return float(milliseconds), modules


def main() -> None:
    samples = [sample() for _ in range(ROUNDS)]
    milliseconds = statistics.median(taken for taken, _ in samples)
    print(f"prefect_blocks over import prefect: {milliseconds:.1f} ms (target: at most 50 ms)")
    print(f"extra modules ({len(samples[0][1])}): {', '.join(samples[0][1])}")


if __name__ == "__main__":
    main()
