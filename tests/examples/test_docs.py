"""
The documents lead somewhere: to files that exist, and to tests that exist.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
LINKED_TEST = re.compile(r"\[`(test_\w+)`\]\(([^)#\s]+\.py)\)")
TEST = re.compile(r"\b((?:tests/)?(?:[a-z0-9_]+/)*test_[a-z0-9_]+\.py)::(\w+(?:::\w+)?)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    """Each relative link of a document names a file of the project."""
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert missing == []


def test_named_tests_exist() -> None:
    """Each test that a document names as its evidence is there."""
    named = {found for document in DOCUMENTS for found in TEST.findall(document.read_text())}
    assert len(named) > 10
    for path, name in named:
        files = [file for file in PROJECT.glob("tests/**/*.py") if str(file).endswith(f"/{path}")]
        assert len(files) == 1, path
        assert set(name.split("::")) <= known(files[0]), f"{path}::{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_tests_exist(document: Path) -> None:
    """Each link that bears a test's name leads to the file that has this test."""
    linked = LINKED_TEST.findall(document.read_text())
    assert [name for name, path in linked if name not in known(document.parent / path)] == []


def test_each_ending_has_its_test() -> None:
    """Each row about what ends an execution in Airflow leads to its test, or says why there is none."""
    lines = (PROJECT / "docs/reference/airflow-endings.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|") and not line.startswith("| ---")]
    evidence = [row.rstrip("| ").rsplit("| ", 1)[-1] for row in rows]
    assert len(evidence) > 40
    reasons = [cell for cell in evidence if not LINKED_TEST.search(cell) and cell != "test"]
    assert [cell for cell in reasons if not re.fullmatch(r"none: \w.{20,}", cell)] == []


def known(file: Path) -> set[str]:
    """The functions and classes of a file."""
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
