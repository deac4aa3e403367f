"""
What a flow run has started with a business key: the ledger is elsewhere, so a note in its inputs names the execution.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import LedgerError

if TYPE_CHECKING:
    from uuid import UUID

log = logging.getLogger(__name__)

_PREFIX = "tlkey-"
_FORMAT = 1
_PAGE = 200


@frozen(kw_only=True)
class Note:
    """
    One execution.

    Args:
        key: The business key; not personal.
        execution_id: Its id at the service.
        credentials: Name of the saved credentials block by which it was started; None: the block was not saved.
        on_cancel: Whether the execution is to be cancelled when the flow run is: ``cancel`` or ``leave``.
    """

    key: str
    execution_id: str
    credentials: str | None
    on_cancel: str


def keep(flow_run_id: UUID, note: Note) -> None:
    """
    Write the note. The execution runs: that it cannot be written is logged, and no failure.
    """
    from prefect import get_client

    name = _PREFIX + hashlib.sha256(f"{note.key}\0{note.execution_id}".encode()).hexdigest()[:32]
    try:
        with get_client(sync_client=True) as client:
            client.create_flow_run_input(flow_run_id, name, json.dumps({"format": _FORMAT, **asdict(note)}))
    except PREFECT_FAILURES as error:
        log.warning(
            "Prefect did not take the note that flow run %s has started execution %s (%s): only the wait cancels it.",
            flow_run_id,
            note.execution_id,
            type(error).__name__,
        )


def kept(flow_run_id: UUID) -> list[Note]:
    """
    What the flow run and its subflows have started with keys.

    Raises:
        LedgerError: The server cannot be reached, refuses, or a note cannot be read.
    """
    from prefect import get_client

    found: dict[str, str] = {}
    try:
        with get_client(sync_client=True) as client:
            while True:
                page = client.filter_flow_run_input(flow_run_id, _PREFIX, _PAGE, set(found))
                found |= {each.key: each.value for each in page}
                if len(page) < _PAGE:
                    break
        return [_note(json.loads(value)) for value in found.values()]
    except (*PREFECT_FAILURES, KeyError, TypeError) as error:
        raise LedgerError(
            f"What flow run {flow_run_id} has started with keys cannot be read ({type(error).__name__})."
        ) from None


def _note(document: dict[str, Any]) -> Note:
    if document["format"] != _FORMAT:
        raise ValueError("format")
    return Note(
        key=document["key"],
        execution_id=document["execution_id"],
        credentials=document["credentials"],
        on_cancel=document["on_cancel"],
    )


__all__ = ["Note", "keep", "kept"]
