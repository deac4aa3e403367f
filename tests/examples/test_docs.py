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
TEST = re.compile(r"\b((?:tests/)?(?:[a-z0-9_]+/)*test_[a-z0-9_]+\.py)::(\w+(?:::\w+)?)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    """Each relative link of a document names a file of the project."""
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert missing == []


def test_named_tests_exist() -> None:
    """Each test that a document names as its evidence is there."""
    named = {found for document in DOCUMENTS for found in TEST.findall(document.read_text())}
    assert len(named) > 25
    for path, name in named:
        files = [file for file in PROJECT.glob("tests/**/*.py") if str(file).endswith(f"/{path}")]
        assert len(files) == 1, path
        tree = ast.parse(files[0].read_text())
        known = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert set(name.split("::")) <= known, f"{path}::{name}"
