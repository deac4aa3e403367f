"""
Which campaigns a flow run and its subflows are at: noted in its inputs, so that its hook knows what to cancel when no
process of it is left to say.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from prefect_blocks import inputs
from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import LedgerError

if TYPE_CHECKING:
    from prefect_blocks.identity import Scope

_PREFIX = "tlbatch-"
_FORMAT = 1


@frozen(kw_only=True)
class BatchNote:
    """
    One batch of a flow run.

    Args:
        credentials: Name of the saved credentials block.
        campaign: Its name, without placeholders.
        shards: How many workers of the flow run it has.
        on_cancel: Whether what they have in flight is to be cancelled when the flow run is: ``cancel`` or ``leave``.
    """

    credentials: str
    campaign: str
    shards: int
    on_cancel: str


def keep(where: Scope, note: BatchNote) -> None:
    """
    Note a batch with the outermost flow run, before anything of it is started. Doing it once more changes nothing.

    Raises:
        LedgerError: Prefect does not take it.
    """
    from prefect import get_client

    value = json.dumps({"format": _FORMAT, **asdict(note), "within": [str(one) for one in where.subflows]})
    name = _PREFIX + hashlib.sha256(value.encode()).hexdigest()[:32]
    try:
        with get_client(sync_client=True) as client:
            inputs.create(client, where.flow_run_id, name, value)
    except PREFECT_FAILURES as error:
        raise LedgerError(
            f"The Prefect server does not take the note that flow run {where.flow_run_id} is at campaign"
            f" {note.campaign} ({type(error).__name__}). Nothing was sent; try again."
        ) from None


def kept(where: Scope) -> list[BatchNote]:
    """
    The batches of a flow run and of its subflows.

    Raises:
        LedgerError: The server cannot be reached, refuses, or a note cannot be read.
    """
    from prefect import get_client

    try:
        with get_client(sync_client=True) as client:
            found = inputs.read(client, where.flow_run_id, _PREFIX)
        documents = [json.loads(value) for value in found.values()]
        mine = [one for one in documents if not where.subflows or str(where.subflows[0]) in one["within"]]
        return list(dict.fromkeys(_note(one) for one in mine))
    except (*PREFECT_FAILURES, KeyError, TypeError) as error:
        raise LedgerError(
            f"The batches of flow run {where.flow_run_id} cannot be read ({type(error).__name__})."
        ) from None


def _note(document: dict[str, Any]) -> BatchNote:
    if document.pop("format") != _FORMAT:
        raise ValueError("format")
    del document["within"]
    return BatchNote(**document)


__all__ = ["BatchNote", "keep", "kept"]
