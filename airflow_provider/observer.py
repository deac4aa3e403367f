"""
The core's counters and durations, as Airflow's own metrics: ``transactionlink.starts``, ``transactionlink.polls`` and
so on, with the tags ``service`` and ``outcome``. What they mean: :mod:`tl_orchestration.observer`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider import versions

if TYPE_CHECKING:
    from tl_orchestration.observer import Count, Duration, Level, Observer

_PREFIX = "transactionlink."
#: Where one of these is on, Airflow sends metrics.
_SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")


class Stats(Protocol):
    """
    The part of Airflow's metrics that is used here.
    """

    def incr(self, stat: str, *, tags: dict[str, Any] | None = None) -> None: ...
    def timing(self, stat: str, dt: timedelta, *, tags: dict[str, Any] | None = None) -> None: ...
    def gauge(self, stat: str, value: float, *, delta: bool = False, tags: dict[str, Any] | None = None) -> None: ...


class StatsObserver:
    """
    Tells Airflow's metrics.
    """

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def count(self, what: Count, *, service: str, outcome: str | None = None) -> None:
        """
        A counter.
        """
        self._stats.incr(_PREFIX + what, tags=_tags(service, outcome))

    def duration(self, what: Duration, seconds: float, *, service: str, outcome: str | None = None) -> None:
        """
        A timing.
        """
        self._stats.timing(_PREFIX + what, timedelta(seconds=seconds), tags=_tags(service, outcome))

    def change(self, what: Level, by: int, *, service: str) -> None:
        """
        A gauge that is moved, not set, because several processes move it.
        """
        self._stats.gauge(_PREFIX + what, by, delta=True, tags=_tags(service, None))


def _tags(service: str, outcome: str | None) -> dict[str, Any]:
    return {"service": service} if outcome is None else {"service": service, "outcome": outcome}


def observer(*, triggerer: bool) -> Observer | None:
    """
    For a client in a triggerer, or in a worker; None where Airflow sends no metrics, because then it would only cost.
    """
    if not any(versions.conf.getboolean("metrics", switch, fallback=False) for switch in _SWITCHES):
        return None
    return StatsObserver(versions.stats(triggerer=triggerer))
