"""
The page about Airflow versions is of those that the constraints files pin, and says what their tests said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dev import airflow_versions

if TYPE_CHECKING:
    from pathlib import Path

CASE = (
    '<testsuites><testsuite><testcase name="a"><properties><property name="feature" value="links"/>'
    '<property name="here" value="{here}"/></properties></testcase>{more}</testsuite></testsuites>'
)
FAILED = '<testcase name="broken"><failure/></testcase>'


def test_page_has_a_column_for_each_version() -> None:
    """Whoever pins another version runs the matrix again."""
    heads = next(line for line in airflow_versions.PAGE.read_text().splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in heads.strip("|").split("|")] == ["", *airflow_versions.versions().values()]


def test_table_is_what_the_tests_said(tmp_path: Path) -> None:
    """A feature that a test recorded, and how many passed; a failure makes no table."""
    for series, here in (("3.1", "no"), ("3.2", "yes")):
        for part in airflow_versions.PARTS:
            (tmp_path / f"{series}-{part}.xml").write_text(CASE.format(here=here, more=""))
    reports = [airflow_versions.read(tmp_path, series, f"{series}.0") for series in ("3.1", "3.2")]
    table = airflow_versions.table(reports).splitlines()
    assert table[0] == "|  | 3.1.0 | 3.2.0 |"
    assert table[2] == "| links | no | yes |"
    assert table[3].endswith("| 1 pass | 1 pass |")
    (tmp_path / "3.1-smoke.xml").write_text(CASE.format(here="no", more=FAILED))
    with pytest.raises(ValueError, match="broken"):
        airflow_versions.read(tmp_path, "3.1", "3.1.0")
