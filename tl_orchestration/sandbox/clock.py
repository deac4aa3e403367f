"""The sandbox's time: a source that can be replaced, and an offset that only moves forward."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone


class Clock:
    """
    Tells the time in seconds since the epoch.

    Args:
        source: gives epoch seconds; the offset is added to what it says.
    """

    def __init__(self, source: Callable[[], float]) -> None:
        self._source = source
        self._offset = 0.0
        self._lock = threading.Lock()

    @property
    def offset(self) -> float:
        """Seconds by which this clock is ahead of its source."""
        return self._offset

    def now(self) -> float:
        """Epoch seconds."""
        return self._source() + self._offset

    def advance(self, seconds: float) -> None:
        """Move forward by so many seconds."""
        with self._lock:
            self._offset += seconds

    def reset(self) -> None:
        """Agree with the source again."""
        with self._lock:
            self._offset = 0.0


_ZONES = {"Z": UTC, "+02:00": timezone(timedelta(hours=2))}


def to_text(epoch: float, zone: str = "Z") -> str:
    """Epoch seconds as the services write them: ISO 8601, microseconds, `Z` or `+02:00`."""
    return datetime.fromtimestamp(epoch, _ZONES[zone]).isoformat(timespec="microseconds").replace("+00:00", "Z")


def to_epoch(text: object) -> float:
    """
    Read an ISO 8601 time with an offset.

    Raises `ValueError` for anything else; a time without an offset names no instant.
    """
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"not an ISO 8601 time with an offset: {text!r}")
    return moment.timestamp()
