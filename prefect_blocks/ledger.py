"""
A ledger in the inputs of a flow run: kept with it over task retries, flow retries, retries from the UI and resumes.

Prefect refuses to create an input whose key is taken, so that each version of an entry is an input of its own and
creating it is a compare-and-set. Nothing is ever overwritten: the older versions are the step's history.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import uuid
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from attrs import evolve, frozen

from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import LedgerError
from tl_orchestration.ledger.entry import Entry, Event, fold

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from prefect.client.orchestration import SyncPrefectClient

_PREFIX = "tl-"
_FORMAT = 1
_KEY = re.compile(r"tl-[a-z0-9-]*[0-9a-f]{24}-(?P<version>[0-9]+)")
#: How many inputs one question to the server may bring, as it allows.
_PAGE = 200
#: How often an append is tried against other writers.
_TRIES = 20


@frozen(kw_only=True)
class Recorded:
    """
    One step of a flow run, as its ledger has it.

    Args:
        step: The step's key.
        namespace: Service, host and workspace that it is about.
        entry: Its newest entry.
        credentials: Name of the saved credentials block by which it was started; None: the block was not saved.
        on_cancel: Whether the execution is to be cancelled when the flow run is: ``cancel`` or ``leave``.
    """

    step: str
    namespace: str
    entry: Entry
    credentials: str | None = None
    on_cancel: str = "cancel"


class FlowRunInputLedger:
    """
    Keeps entries in the inputs of one flow run.

    Args:
        flow_run_id: Whose inputs.
        credentials: Recorded with each entry, so that whoever cleans up knows by what: name of a saved block.
        on_cancel: Recorded with each entry: ``cancel`` or ``leave``.

    Raises:
        LedgerError: From every method: the server cannot be reached, refuses, or somebody else was faster.
    """

    fenced = False

    def __init__(self, flow_run_id: UUID, *, credentials: str | None = None, on_cancel: str = "cancel") -> None:
        self.flow_run_id = flow_run_id
        self._about = {"credentials": credentials, "on_cancel": on_cancel}
        self._namespace = ""

    def for_namespace(self, namespace: str) -> Self:
        """
        The same inputs, bound to a namespace. A ledger that is bound already stays as it is.
        """
        if self._namespace:
            return self
        view = copy.copy(self)
        view._namespace = namespace
        return view

    def read(self, key: str) -> Entry | None:
        """
        The newest entry, or None.
        """
        found = _newest(self._call(lambda client: _inputs(client, self.flow_run_id, self._name(key))))
        return None if not found else _recorded(next(iter(found.values()))).entry

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        """
        Record an intent as the version that follows ``after``, unless somebody else has written that one.
        """
        claimed = fold(after, intent)
        if not self._create(key, claimed):
            raise LedgerError("Another process has claimed this step in the meantime; read it again.")
        return claimed

    def append(self, key: str, event: Event) -> Entry:
        """
        Fold one more event into the newest entry.
        """
        for _ in range(_TRIES):
            entry = fold(self.read(key), event)
            if self._create(key, entry):
                return entry
        raise LedgerError("Other processes write to this step all the time; try again.")

    def _create(self, key: str, entry: Entry) -> bool:
        """
        Whether this call wrote that version. Prefect's client repeats a request whose answer was lost, and then finds
        its own write in the way: the mark tells it from another's.
        """
        name, mark = f"{self._name(key)}{entry.version}", uuid.uuid4().hex
        document = {
            "format": _FORMAT,
            "step": key,
            "namespace": self._namespace,
            **self._about,
            "mark": mark,
            "entry": entry.to_dict(),
        }
        value = json.dumps(document)

        def create(client: SyncPrefectClient) -> bool:
            from prefect.exceptions import PrefectHTTPStatusError

            try:
                client.create_flow_run_input(self.flow_run_id, name, value)
            except PrefectHTTPStatusError as error:
                if error.response.status_code != 409:
                    raise
                there = json.loads(client.read_flow_run_input(self.flow_run_id, name))
                return isinstance(there, dict) and there.get("mark") == mark
            return True

        return self._call(create)

    def _name(self, key: str) -> str:
        """
        What the names of the key's versions begin with. Prefect takes ``[a-z0-9-]`` only; the digest keeps keys apart
        that look alike.
        """
        shown = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")[:48]
        digest = hashlib.sha256(f"{self._namespace}\0{key}".encode()).hexdigest()[:24]
        return f"{_PREFIX}{shown}-{digest}-"

    def _call[T](self, operation: Callable[[SyncPrefectClient], T]) -> T:
        return _called(self.flow_run_id, operation)
