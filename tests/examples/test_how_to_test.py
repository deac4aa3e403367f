"""The fences of the how-to about tests are one module that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "how-to" / "test-your-own-dags.md"
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def _module() -> dict[str, object]:
    names: dict[str, object] = {"__name__": "how_to"}
    exec(compile("\n".join(text for _, text in FENCES), PAGE.name, "exec"), names)  # noqa: S102  # our own page
    return names


MODULE = _module()


def test_every_fence_is_python_and_runs() -> None:
    """Whoever adds a fence of another language adds its test."""
    assert [language for language, _ in FENCES] == ["python"] * 5


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in MODULE if name.startswith("test_")])
def test_example_passes(name: str) -> None:
    """Each test that the page shows passes."""
    test = MODULE[name]
    assert callable(test)
    test()
