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
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

from attrs import evolve, frozen

from prefect_blocks import inputs
from prefect_blocks.versions import PREFECT_FAILURES
from tl_orchestration.errors import LedgerError, RequestChanged
from tl_orchestration.ledger.entry import UNDECIDED, Entry, Event, State, fold

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from prefect.client.orchestration import SyncPrefectClient

T = TypeVar("T")

_PREFIX = "tl-"
_FORMAT = 1
_KEY = re.compile(r"tl-[a-z0-9-]*[0-9a-f]{24}-(?P<version>[0-9]+)")
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
        counted: Whether the key is the default one, which counts the calls of a pass.
        actor: Who wrote it, where a person did.
    """

    step: str
    namespace: str
    entry: Entry
    credentials: str | None = None
    on_cancel: str = "cancel"
    counted: bool = False
    actor: str | None = None

    @property
    def may_have_started(self) -> bool:
        """
        Whether an execution may have come of it. None has where the start was refused, or was never sent.
        """
        return may_have_started(self.entry)


class FlowRunInputLedger:
    """
    Keeps entries in the inputs of one flow run.

    Args:
        flow_run_id: Whose inputs.
        credentials: Recorded with each entry, so that whoever cleans up knows by what: name of a saved block.
        on_cancel: Recorded with each entry: ``cancel`` or ``leave``.
        counted: Recorded with each claim: whether its key is a default one.

    Raises:
        LedgerError: From every method: the server cannot be reached, refuses, or somebody else was faster.
    """

    fenced = False

    def __init__(
        self,
        flow_run_id: UUID,
        *,
        credentials: str | None = None,
        on_cancel: str = "cancel",
        counted: bool = False,
    ) -> None:
        self.flow_run_id = flow_run_id
        self._about = {"credentials": credentials, "on_cancel": on_cancel}
        self.counted = counted
        self._namespace = ""

    @property
    def identity(self) -> tuple[UUID, str | None, str, bool, str]:
        """
        Ledgers for which this is the same are the same.
        """
        about = self._about["credentials"], str(self._about["on_cancel"]), self.counted
        return self.flow_run_id, *about, self._namespace

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
        The newest entry, or None. Within one flow run a key is one step, wherever its credentials lead to: what a start
        at another service, host or workspace came to nothing with is left behind.

        Raises:
            RequestChanged: An execution may have been started there.
        """
        found = self._newest(key)
        if found is None or found.namespace == self._namespace:
            return None if found is None else found.entry
        if found.may_have_started:
            raise RequestChanged(
                f"Step {key} of flow run {self.flow_run_id} has started {found.entry.execution_id or 'an execution'} at"
                f" {found.namespace}, and its credentials now lead to {self._namespace}. Nothing was sent. Restore the"
                " credentials block (service, base_url, workspace_id), or start anew under another step_key.",
                execution_id=found.entry.execution_id,
            )
        return evolve(found.entry, progress={})

    def claim(self, key: str, intent: Event, after: Entry | None) -> Entry:
        """
        Record an intent as the version that follows ``after``, unless somebody else has written that one.
        """
        claimed = fold(after, intent)
        if not self._create(key, claimed, self._namespace, counted=self.counted):
            raise LedgerError("Another process has claimed this step in the meantime; read it again.")
        return claimed

    def append(self, key: str, event: Event) -> Entry:
        """
        Fold one more event into the newest entry. Where it belongs to, and how it got its key, stays as it is.
        """
        for _ in range(_TRIES):
            found = self._newest(key)
            entry = fold(None if found is None else found.entry, event)
            namespace, counted = (found.namespace, found.counted) if found else (self._namespace, self.counted)
            if self._create(key, entry, namespace, counted=counted, actor=event.actor):
                return entry
        raise LedgerError("Other processes write to this step all the time; try again.")

    def history(self, key: str) -> list[Recorded]:
        """
        All versions of the entry, oldest first.
        """
        found = self._call(lambda client: inputs.read(client, self.flow_run_id, self._name(key)))
        versions = [_recorded(value) for name, value in found.items() if _KEY.fullmatch(name)]
        return sorted(versions, key=lambda version: version.entry.version)

    def _newest(self, key: str) -> Recorded | None:
        found = _newest(self._call(lambda client: inputs.read(client, self.flow_run_id, self._name(key))))
        return None if not found else _recorded(next(iter(found.values())))

    def _create(self, key: str, entry: Entry, namespace: str, *, counted: bool, actor: str | None = None) -> bool:
        """
        Whether this call wrote that version: the mark tells it from another's that is there.
        """
        name, mark = f"{self._name(key)}{entry.version}", uuid.uuid4().hex
        document = {
            "format": _FORMAT,
            "step": key,
            "namespace": namespace,
            **self._about,
            "counted": counted,
            "mark": mark,
            "entry": entry.to_dict(),
            **({"actor": actor} if actor is not None else {}),
        }
        value = json.dumps(document)

        def create(client: SyncPrefectClient) -> bool:
            if inputs.create(client, self.flow_run_id, name, value):
                return True
            there = json.loads(client.read_flow_run_input(self.flow_run_id, name))
            return isinstance(there, dict) and there.get("mark") == mark

        return self._call(create)

    def _name(self, key: str) -> str:
        """
        What the names of the key's versions begin with. Prefect takes ``[a-z0-9-]`` only; the digest keeps keys apart
        that look alike.
        """
        shown = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")[:48]
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        return f"{_PREFIX}{shown}-{digest}-"

    def _call(self, operation: Callable[[SyncPrefectClient], T]) -> T:
        return _called(self.flow_run_id, operation)


def may_have_started(entry: Entry) -> bool:
    """
    Whether an execution may have come of what the entry is about.
    """
    unsent = entry.state in UNDECIDED and entry.preparing
    return entry.state is not State.REJECTED and not unsent


def recorded(flow_run_id: UUID) -> list[Recorded]:
    """
    The newest entry of every step that a flow run has on record, oldest step first. The steps of its subflows are
    among them: they are kept with the outermost flow run.

    Raises:
        LedgerError: The server cannot be reached, refuses, or an entry cannot be read.
    """
    found = _called(flow_run_id, lambda client: _newest(inputs.read(client, flow_run_id, _PREFIX)))
    return [_recorded(value) for value in found.values()]


def _newest(inputs: dict[str, str]) -> dict[str, str]:
    """
    Name without version -> value of the highest version. Inputs of others are passed over.
    """
    newest: dict[str, tuple[int, str]] = {}
    for name, value in inputs.items():
        match = _KEY.fullmatch(name)
        if match is None:
            continue
        version, step = int(match["version"]), name.rpartition("-")[0]
        if step not in newest or newest[step][0] < version:
            newest[step] = (version, value)
    return {step: value for step, (_, value) in newest.items()}


def _recorded(value: str) -> Recorded:
    try:
        document: Any = json.loads(value)
        if document["format"] != _FORMAT:
            raise LedgerError(
                f"A step of this flow run is recorded in format {document['format']!r}; this version reads format"
                f" {_FORMAT}. Upgrade tl-orchestration where it runs the older version."
            )
        return Recorded(
            step=document["step"],
            namespace=document["namespace"],
            entry=Entry.from_dict(document["entry"]),
            credentials=document["credentials"],
            on_cancel=document["on_cancel"],
            counted=document["counted"],
            actor=document.get("actor"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"A step of this flow run cannot be read ({type(error).__name__}).") from None


def _called(flow_run_id: UUID, operation: Callable[[SyncPrefectClient], T]) -> T:
    """
    By the synchronous client, also where the flow is asynchronous: the core calls a ledger in a thread.
    """
    from prefect import get_client

    try:
        client: AbstractContextManager[SyncPrefectClient] = get_client(sync_client=True)
        with client as entered:
            return operation(entered)
    except PREFECT_FAILURES as error:
        raise LedgerError(
            f"The Prefect server cannot be reached, or refuses, where flow run {flow_run_id} keeps its steps"
            f" ({type(error).__name__})."
        ) from None


__all__ = ["FlowRunInputLedger", "Recorded", "may_have_started", "recorded"]
