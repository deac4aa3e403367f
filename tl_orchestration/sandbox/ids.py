"""Ids that repeat under a seed."""

import random
import uuid


class Streams:
    """
    One source of ids for each kind of them.

    Each kind has its own: how many errors or links were handed out does not shift the ids of executions.

    Args:
        seed: makes the ids repeat; without one they are fresh.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._streams: dict[str, random.Random] = {}

    def uuid(self, kind: str) -> str:
        """A uuid of version 4."""
        return str(uuid.UUID(int=self._stream(kind).getrandbits(128), version=4))

    def hex(self, kind: str, digits: int) -> str:
        """So many hexadecimal digits."""
        return f"{self._stream(kind).getrandbits(4 * digits):0{digits}x}"

    def share(self, kind: str) -> float:
        """A number from 0 up to 1, by chance."""
        return self._stream(kind).random()

    def _stream(self, kind: str) -> random.Random:
        if kind not in self._streams:
            seed = None if self._seed is None else f"{self._seed}/{kind}"
            self._streams.setdefault(kind, random.Random(seed))  # noqa: S311  # guards nothing real
        return self._streams[kind]
