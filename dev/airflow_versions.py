"""
Writes ``docs/reference/airflow-versions.md`` from what the tests said in the environment of each Airflow version.

``make test-airflow-matrix`` leaves two reports for each version in a folder, and calls this with it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

from attrs import field, frozen

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs/reference/airflow-versions.md"
#: Which tests a report is of, by the end of its name.
PARTS = {"unit": "tests of the provider", "smoke": "a real Airflow: runs, retry after a killed worker, kill, bad input"}

_TEXT = """# What each Airflow version cannot do

The provider supports the versions below. `make test-airflow-matrix` runs its tests, and a few steps on a real Airflow,
in an environment of each one, and writes this page from the outcome. Why the code tells versions apart is said in
[`versions.py`](../../airflow_provider/versions.py), beside each difference.

{table}

Before 3.3, Airflow keeps nothing of a task over its retries. Where the connection, or `[transactionlink]` of
`airflow.cfg`, names a `ledger_url`, the step is kept there instead, under the name `dag/run/task`: a retry goes on, a
clear starts anew. Give each Airflow a ledger of its own: two with the same DAGs would take each other's steps for
theirs. A run that is deleted and made again under the same name finds the entry of the former one, and goes on
with that: clear its tasks to start anew. `tl ledger purge` does not help, for a purged key starts nothing any more.
"""


@frozen
class Report:
    """
    What the tests of one version said.

    Args:
        version: Of Airflow.
        passed: Tests by part, as a cell of the table.
        features: What a user gets, by feature.
    """

    version: str
    passed: dict[str, str] = field(factory=dict)
    features: dict[str, str] = field(factory=dict)


def versions() -> dict[str, str]:
    """
    The supported versions, oldest first: the series, such as ``3.1``, and the version that is tested.
    """
    pinned = [
        re.search(r"^apache-airflow==(\S+)$", file.read_text(), re.MULTILINE)
        for file in sorted((PROJECT / "constraints").glob("airflow*.txt"))
    ]
    found = sorted(match[1] for match in pinned if match)
    return {".".join(version.split(".")[:2]): version for version in found}


def read(folder: Path, series: str, version: str) -> Report:
    """
    The reports of one version.

    Raises:
        ValueError: A test has failed, or none has run.
    """
    report = Report(version)
    for part in PARTS:
        cases = list(ET.parse(folder / f"{series}-{part}.xml").iter("testcase"))  # noqa: S314  # our own
        bad = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
        if bad or not cases:
            raise ValueError(f"{part} tests with Airflow {version}: {bad or 'none has run'}")
        left = sum(case.find("skipped") is not None for case in cases)
        report.passed[part] = f"{len(cases) - left} pass"
        for case in cases:
            said = {one.get("name"): one.get("value", "") for one in case.iter("property")}
            if said.get("feature"):
                report.features[said["feature"]] = said["here"]
    return report


def table(reports: list[Report]) -> str:
    """
    One column for each version: what the tests found of each feature, then how many passed.
    """
    features = sorted({feature for report in reports for feature in report.features})
    rows = [["", *(report.version for report in reports)], ["---"] * (len(reports) + 1)]
    rows += [[feature, *(report.features.get(feature, "not tested") for report in reports)] for feature in features]
    rows += [[label, *(report.passed[part] for report in reports)] for part, label in PARTS.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(folder: Path) -> None:
    """
    Write the page.
    """
    PAGE.write_text(_TEXT.format(table=table([read(folder, *pair) for pair in versions().items()])))
    print(f"{PAGE.relative_to(PROJECT)} is written.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
