"""
Ledger entries and their trails, as lines for people and as JSON values for machines.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tl_orchestration.claim import settle_window
from tl_orchestration.correlation import recorded_correlation
from tl_orchestration.ledger.entry import State

if TYPE_CHECKING:
    from tl_orchestration.ledger.entry import Entry, Record
    from tl_orchestration.ledger.records import Line


def row_text(record: Record, now: float) -> str:
    """
    An entry as one row of a list: state, age, execution, key, namespace.
    """
    entry = record.entry
    age = _age(now - entry.changed_at)
    return f"{entry.state:<17}{age:>5}  {entry.execution_id or '-':<36}  {record.key}  {record.namespace}"


def entry_lines(record: Record) -> list[tuple[str, str | None]]:
    """
    All that an entry says, by label.
    """
    entry = record.entry
    return [
        ("key", record.key),
        ("namespace", record.namespace),
        ("state", entry.state),
        ("execution", _execution(entry)),
        ("ended", f"{entry.status} ({entry.raw_status})" if entry.status else None),
        ("correlation", str(correlation) if (correlation := recorded_correlation(entry)) else None),
        ("suspects", " ".join([*entry.suspects, *entry.suspect_correlation_ids])),
        ("former", entry.former),
        ("made", " ".join(f"{name}={value}" for name, value in entry.progress.items())),
        ("generation", entry.generation),
        ("attempt", str(entry.attempt)),
        ("changed", _moment(entry.changed_at)),
        ("settles", _moment(entry.changed_at + settle_window(entry)) if entry.state is State.INTENT else None),
        ("deadline", _moment(entry.deadline)),
        ("expires", _moment(entry.expires_at)),
        ("reason", entry.reason),
    ]


def line_text(line: Line) -> str:
    """
    One write of a trail.
    """
    said = " ".join(part for part in (line.state, line.execution_id, line.reason and f'"{line.reason}"') if part)
    return f"{_moment(line.time)}  {line.action:<11}  {said}  by {line.actor}"


def record_json(record: Record) -> dict[str, Any]:
    """
    An entry as JSON values.
    """
    entry = record.entry
    return {
        "namespace": record.namespace,
        "key": record.key,
        "state": entry.state.value,
        "execution_id": entry.execution_id,
        "generation": entry.generation,
        "attempt": entry.attempt,
        "restarts": entry.restarts,
        "correlation_parameter": entry.correlation_parameter,
        "correlation_id": entry.correlation_id,
        "suspects": list(entry.suspects),
        "suspect_correlation_ids": list(entry.suspect_correlation_ids),
        "former": entry.former,
        "progress": dict(entry.progress),
        "preparing": entry.preparing,
        "adopted": entry.adopted,
        "status": entry.status,
        "raw_status": entry.raw_status,
        "reason": entry.reason,
        "changed_at": _moment(entry.changed_at),
        "settles_at": _moment(entry.settles_at),
        "deadline": _moment(entry.deadline),
        "expires_at": _moment(entry.expires_at),
        "version": entry.version,
    }


def line_json(line: Line) -> dict[str, Any]:
    """
    One write of a trail as JSON values.
    """
    return {
        "time": _moment(line.time),
        "action": line.action,
        "state": line.state.value,
        "execution_id": line.execution_id,
        "actor": line.actor,
        "reason": line.reason,
        "version": line.version,
    }


def _execution(entry: Entry) -> str | None:
    if entry.execution_id is None or not entry.adopted:
        return entry.execution_id
    return f"{entry.execution_id} (adopted, {'not gone on with yet' if entry.consumed_by is None else 'gone on with'})"


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
