"""
What a flow run starts with business keys: the ledger is elsewhere, so notes in its inputs say which starts are its own.

A note is written before the start is claimed, with the moment of the claim, which the entry in the ledger has too. So
whoever cleans up finds the execution of a process that was killed at any moment, and never takes another flow run's for
this one's.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any, Self

from attrs import asdict, frozen

from prefect_blocks import inputs
from prefect_blocks.ledger import may_have_started
from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import LedgerError, RequestChanged
from tl_orchestration.ledger.namespace import bound

if TYPE_CHECKING:
    from collections.abc import Hashable
    from uuid import UUID

    from tl_orchestration.ledger import Ledger
    from tl_orchestration.ledger.entry import Entry, Event

_PREFIX = "tlkey-"
_FORMAT = 1


@frozen(kw_only=True)
class Note:
    """
    One start that the flow run has meant to make.

    Args:
        key: The business key; not personal.
        namespace: Service, host and workspace that it is about.
        intended_at: When, epoch seconds: an entry of the ledger that says the same is the flow run's own.
        credentials: Name of the saved credentials block by which it was started; None: the block was not saved.
        on_cancel: Whether the execution is to be cancelled when the flow run is: ``cancel`` or ``leave``.
    """

    key: str
    namespace: str
    intended_at: float
    credentials: str | None
    on_cancel: str

    def entry_in(self, ledger: Ledger) -> Entry | None:
        """
        What became of this start; None: nothing, or somebody else was faster.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        entry = bound(ledger, self.namespace).read(self.key)
        return entry if entry is not None and entry.intended_at == self.intended_at else None


class NotingLedger:
    """
    A ledger of business keys that notes each claim in the inputs of a flow run, before it makes it.

    Args:
        ledger: Where the keys are.
        flow_run_id: Whose inputs.
        credentials, on_cancel: See :class:`Note`.

    Raises:
        LedgerError: From ``claim``: Prefect does not take the note. Nothing was claimed.
    """

    fenced = False

    def __init__(self, ledger: Ledger, flow_run_id: UUID, *, credentials: str | None, on_cancel: str) -> None:
        self._store = self._ledger = ledger
        self._of = flow_run_id
        self._credentials = credentials
        self._on_cancel = on_cancel
        self._namespace = ""

    @property
    def identity(self) -> Hashable:
        """
        Ledgers of the same credentials for which this is the same are the same.
        """
        return self._of, self._credentials, self._on_cancel, self._namespace

    def for_namespace(self, namespace: str) -> Self:
        """
        The same store, bound to a namespace. A ledger that is bound already stays as it is.
        """
        if self._namespace:
            return self
        view = copy.copy(self)
        view._ledger, view._namespace = bound(self._ledger, namespace), namespace
        return view

    def read(self, key: str) -> Entry | None:
        """
        The entry as last written, or None. Within one flow run a key is one step, wherever its credentials lead to.

        Raises:
            RequestChanged: This flow run may have started an execution with the key at another service, host or
                workspace.
            LedgerError: The notes or the ledger cannot be read.
        """
        for note in kept(self._of):
            if note.key == key and note.namespace != self._namespace:
                self._check_elsewhere(note)
        return self._ledger.read(key)

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        """
        Note the claim, then make it.
        """
        note = Note(
            key=key,
            namespace=self._namespace,
            intended_at=intent.at,
            credentials=self._credentials,
            on_cancel=self._on_cancel,
        )
        _keep(self._of, note)
        return self._ledger.claim(key, intent, after)

    def append(self, key: str, event: Event) -> Entry:
        """
        Fold one more event into the entry.
        """
        return self._ledger.append(key, event)

    def _check_elsewhere(self, note: Note) -> None:
        entry = note.entry_in(self._store)
        if entry is not None and may_have_started(entry):
            raise RequestChanged(
                f"Flow run {self._of} has started {entry.execution_id or 'an execution'} with key {note.key} at"
                f" {note.namespace}, and its credentials now lead to {self._namespace}. Nothing was sent. Restore the"
                " credentials block (service, base_url, workspace_id), or start anew under another key.",
                execution_id=entry.execution_id,
            )

    def owns(self, key: str) -> bool:
        """
        Whether the flow run has started what the key stands for.

        Raises:
            LedgerError: The notes or the ledger cannot be read.
        """
        return any(note.entry_in(self._ledger) is not None for note in kept(self._of) if note.key == key)


def kept(flow_run_id: UUID) -> list[Note]:
    """
    What the flow run and its subflows have meant to start with keys.

    Raises:
        LedgerError: The server cannot be reached, refuses, or a note cannot be read.
    """
    from prefect import get_client

    try:
        with get_client(sync_client=True) as client:
            found = inputs.read(client, flow_run_id, _PREFIX)
        return [_note(json.loads(value)) for value in found.values()]
    except (*PREFECT_FAILURES, KeyError, TypeError) as error:
        raise LedgerError(
            f"What flow run {flow_run_id} has started with keys cannot be read ({type(error).__name__})."
        ) from None


def _keep(flow_run_id: UUID, note: Note) -> None:
    from prefect import get_client

    value = json.dumps({"format": _FORMAT, **asdict(note)})
    name = _PREFIX + hashlib.sha256(value.encode()).hexdigest()[:32]
    try:
        with get_client(sync_client=True) as client:
            inputs.create(client, flow_run_id, name, value)
    except PREFECT_FAILURES as error:
        raise LedgerError(
            f"The Prefect server does not take the note that flow run {flow_run_id} starts {note.key}"
            f" ({type(error).__name__}). Nothing was sent; try again."
        ) from None


def _note(document: dict[str, Any]) -> Note:
    if document.pop("format") != _FORMAT:
        raise ValueError("format")
    return Note(**document)


__all__ = ["Note", "NotingLedger", "kept"]
