"""
What importing the operators costs over what Airflow has loaded anyway.

Each sample is a fresh interpreter; the two are taken in turn, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

BASE = "import airflow.sdk.bases.operator"
SCRIPT = """
import sys, time
{base}
seen = set(sys.modules)
began = time.perf_counter()
{statement}
print((time.perf_counter() - began) * 1000, *sorted(set(sys.modules) - seen))
"""
ROUNDS = 7


def sample(statement: str) -> tuple[float, list[str]]:
    script = SCRIPT.format(base=BASE, statement=statement)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    milliseconds, *modules = done.stdout.split()
    return float(milliseconds), modules


def main() -> None:
    ours = [sample("import airflow_provider.operators") for _ in range(ROUNDS)]
    sensor = [sample("import airflow.providers.standard.operators.python") for _ in range(ROUNDS)]
    milliseconds = statistics.median(taken for taken, _ in ours)
    compared = statistics.median(taken for taken, _ in sensor)
    print(f"airflow_provider.operators over {BASE.split()[-1]}: {milliseconds:.1f} ms (target: at most 80 ms)")
    print(f"the standard provider's PythonOperator, for comparison: {compared:.1f} ms")
    print(f"extra modules ({len(ours[0][1])}): {', '.join(ours[0][1])}")


if __name__ == "__main__":
    main()
