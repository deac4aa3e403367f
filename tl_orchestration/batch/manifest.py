"""
The manifest: what the parts of a campaign are, and what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tl_orchestration.batch.campaigns import Campaign
from tl_orchestration.batch.parts import committed, revisions
from tl_orchestration.batch.places import Place
from tl_orchestration.batch.summary import BatchSummary
from tl_orchestration.database.engine import Database

NAME = "manifest.json"
FORMAT = 1


def manifest(database: Database, campaign: Campaign, summary: BatchSummary, now: float) -> dict[str, Any]:
    """
    As JSON values. A row that was retried is in a part for each attempt that has ended.
    """
    return {
        "format": FORMAT,
        "campaign": campaign.name,
        "workflow_definition_id": campaign.definition,
        "revisions": revisions(database, campaign.id),
        "counts": {state.value: count for state, count in sorted(summary.counts.items())},
        "unkept": summary.unkept,
        "finished": summary.is_finished,
        "requests": dict(summary.requests),
        "load": None if summary.load is None else summary.load.to_dict(),
        "parts": committed(database, campaign.id),
        "written_at": now,
    }


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """
    Whether both say the same of rows and parts.
    """
    return all(one[name] == other[name] for name in ("counts", "unkept", "load", "parts"))


def write(folder: Place, document: dict[str, Any]) -> None:
    """
    Write it over the one that is there.

    Raises:
        StorageFailed: It was not written.
    """
    (folder / NAME).write(json.dumps(document, indent=2, ensure_ascii=False).encode(errors="backslashreplace"))


__all__ = ["FORMAT", "NAME", "is_same", "manifest", "write"]
