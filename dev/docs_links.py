"""
Links of the documents that lead out of ``docs/``, to source and tests, become plain text on the built pages.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["on_page_markdown"]

_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")
_DOCUMENTS = Path(__file__).parents[1] / "docs"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """
    mkdocs calls this with each page's text before it is rendered.
    """
    folder = _DOCUMENTS / PurePosixPath(page.file.src_uri).parent

    def plain(link: re.Match[str]) -> str:
        inside = (folder / link[2]).resolve().is_relative_to(_DOCUMENTS)
        return link[0] if inside else link[1]

    return _LINK.sub(plain, markdown)
