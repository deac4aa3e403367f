"""
What a campaign may do: its limits, its brakes, and what it keeps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen, validators

from tl_orchestration.batch.columns import Columns
from tl_orchestration.batch.sources import Source
from tl_orchestration.correlation import check_parameter
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.models import RunRequest
from tl_orchestration.options import Options

_CAMPAIGN = re.compile(r"[A-Za-z0-9_.~:+@=-]{1,200}", re.ASCII)


def checked_campaign(name: object) -> str:
    """
    The name of a campaign.

    Raises:
        InvalidSettings: It is none.
    """
    if not isinstance(name, str) or not _CAMPAIGN.fullmatch(name) or name in {".", ".."}:
        raise InvalidSettings("A campaign's name has letters, digits and _.~:+@=-, at most 200 of them, and no blank.")
    return name


def _positive(instance: object, attribute: Any, value: float | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidSettings(f"{attribute.name} must be a number, not {type(value).__name__}.")
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise InvalidSettings(f"{attribute.name} must be greater than zero and finite, not {value!r}.")


@frozen(kw_only=True)
class Book:
    """
    What is to be run: one execution of a definition for each row of a source.

    Args:
        workflow_definition_id: The definition.
        source: Where the rows are: see :func:`~tl_orchestration.batch.source` and
            :class:`~tl_orchestration.batch.query.Query`.
        columns: Which column is what.
        options: What only the client's service takes, for all rows; B3OS needs some. Columns may lie over it.
    """

    workflow_definition_id: str
    source: Source
    columns: Columns
    options: Options | None = None

    def request_of(self, record: Mapping[str, Any]) -> RunRequest:
        """
        What to run for a record.

        Raises:
            BadRow: A value is missing or not what it must be.
        """
        return self.columns.request_of(record, self.workflow_definition_id, self.options)


@frozen(kw_only=True)
class Limits:
    """
    A named quota, kept in the store and shared by all workers of all campaigns that name it.

    Args:
        quota: Its name; campaigns over one connection share one unless they say otherwise.
        in_flight: Executions that may have started and not ended; None: as the store has it, else 500.
        requests_per_second: Requests of any kind; None: as the store has it, else what the client's settings say.
    """

    quota: str = "default"
    in_flight: int | None = field(default=None, validator=_positive)
    requests_per_second: float | None = field(default=None, validator=_positive)


@frozen(kw_only=True)
class Policy:
    """
    How a campaign proceeds.

    Args:
        timeout: Seconds from a row's start to its deadline.
        cancel_on_timeout: Whether the deadline cancels the execution.
        on_bad_rows: With ``stop``, a load that finds a bad row fails. Rows are on record then, and none can be started.
        max_starts: Rows that may ever be started in this campaign, all workers together; those that are retried count
            once.
        canary: The same for one run: so many rows of the campaign, then a stop and a report.
        starts_at_once: Starts of one worker that may wait for their answer; so many may be of unknown fate when the
            service begins to fail.
        breaker_after: Starts in a row without a good answer after which no row is claimed any more.
        results: Whether results are fetched.
        format: Of the parts: ``jsonl`` or ``parquet``.
        part_rows: Rows of a part.
        part_seconds: Longest time for which an outcome waits for its part.
        correlation_parameter: As in :class:`~tl_orchestration.Step`.
        lease: Seconds after which a worker that says nothing has lost its rows to others.
    """

    timeout: float = field(default=24 * 3600.0, validator=_positive)
    cancel_on_timeout: bool = True
    on_bad_rows: Literal["skip", "stop"] = field(default="skip", validator=validators.in_(("skip", "stop")))
    max_starts: int | None = field(default=None, validator=_positive)
    canary: int | None = field(default=None, validator=_positive)
    starts_at_once: int = field(default=5, validator=_positive)
    breaker_after: int = field(default=3, validator=_positive)
    results: bool = True
    format: Literal["jsonl", "parquet"] = field(default="jsonl", validator=validators.in_(("jsonl", "parquet")))
    part_rows: int = field(default=1000, validator=_positive)
    part_seconds: float = field(default=30.0, validator=_positive)
    correlation_parameter: str | None = field(
        default=None, validator=lambda policy, attribute, name: check_parameter(name)
    )
    lease: float = field(default=60.0, validator=_positive)

    @property
    def most_starts(self) -> int | None:
        """
        The lower of ``max_starts`` and ``canary``.
        """
        return min((limit for limit in (self.max_starts, self.canary) if limit is not None), default=None)


__all__ = ["Book", "Limits", "Policy", "checked_campaign"]
