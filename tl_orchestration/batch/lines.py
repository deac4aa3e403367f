"""
The lines of a file with their places, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

_CHUNK = 1024 * 1024
#: Longest line, bytes.
LONGEST_LINE = 4 * 1024 * 1024


def lines(file: IO[bytes], offset: int = 0, length: int | None = None) -> Iterator[tuple[int, bytes]]:
    """
    Each line with its end of line, and the offset behind it. Of a line longer than ``LONGEST_LINE``, one byte more than
    that.

    Args:
        offset: Where to begin, bytes.
        length: How much to read, bytes; None: to the end.
    """
    file.seek(offset)
    left, rest, at, skipping = length, b"", offset, False
    while True:
        chunk = file.read(_CHUNK if left is None else min(_CHUNK, left))
        if left is not None:
            left -= len(chunk)
        pieces = _split(rest + chunk)
        rest = b""
        if chunk and pieces and not pieces[-1].endswith(b"\n"):
            rest = pieces.pop()
        for piece in pieces:
            at += len(piece)
            if not skipping:
                yield at, piece[: LONGEST_LINE + 1]
            skipping = False
        if len(rest) > LONGEST_LINE:
            at += len(rest)
            if not skipping:
                yield at, rest[: LONGEST_LINE + 1]
            rest, skipping = b"", True
        if not chunk:
            return


def _split(text: bytes) -> list[bytes]:
    """
    At line feeds only.
    """
    parts = text.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


__all__ = ["LONGEST_LINE", "lines"]
