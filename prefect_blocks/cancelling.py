"""
Cancelling what a flow run has started when nothing of it runs any more: a hook for the flow, and a flow for the
automation that covers flow runs which were cancelled while they had no process.

Both find the executions in the ledger of the flow run, and the credentials by the name of their block, which the ledger
has too. Both may run twice: what has ended is left alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from attrs import frozen
from prefect import flow, get_run_logger
from prefect.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.schemas.objects import FlowRun, State
    from prefect.deployments.runner import RunnerDeployment

    from prefect_blocks.credentials import TransactionlinkCredentials
    from prefect_blocks.ledger import Recorded
    from prefect_blocks.notes import Note
    from tl_orchestration.ledger import Ledger
    from tl_orchestration.ledger.entry import Entry

    Logger = logging.Logger | logging.LoggerAdapter[Any]

CLEANUP_FLOW = "transactionlink-cleanup"
CLEANUP_NAME = "transactionlink"
CLEANUP_DEPLOYMENT = f"{CLEANUP_FLOW}/{CLEANUP_NAME}"


@frozen
class Outcome:
    """
    What became of one step's execution.

    Args:
        step: The step's key.
        execution_id: None: a start of unknown fate.
        what: ``left``: it may still run, because the block says ``on_cancel='leave'``, or because the service cannot
            cancel it. ``failed``: it may still run, and somebody, or another try, can change that.
    """

    step: str
    execution_id: str | None
    what: Literal["cancelled", "ended", "left", "failed"]


def cancel_remote_executions(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """
    Hook for ``on_cancellation``: cancel the executions of a flow run that a person has cancelled. A worker that goes
    away leads to the same hook; the server knows the difference, and then nothing is cancelled.

    As a hook for ``on_crashed``, it cancels the executions of a flow run that has crashed. Without it they go on, and a
    retry of the flow run goes on with them.
    """
    from prefect_blocks import decisions

    log = get_logger("prefect_blocks.cancelling")
    if not state.is_crashed() and not decisions.somebody_decided(flow_run.id):
        log.info("Nobody cancelled flow run %s: its executions are left running.", flow_run.id)
        return
    cancel_executions_of(flow_run.id, log)


@flow(name=CLEANUP_FLOW, retries=3, retry_delay_seconds=20)
def cleanup_flow(flow_run_id: str) -> dict[str, int]:
    """
    Cancel the executions of a flow run, if a person has cancelled it. The automation of
    :func:`prefect_blocks.automations.create_automations` runs it.

    Returns:
        How many executions were cancelled, had ended, were left.

    Raises:
        RuntimeError: Some may still run; the flow is retried.
    """
    from prefect_blocks import decisions

    log = get_run_logger()
    of = UUID(flow_run_id)
    if not decisions.somebody_decided(of):
        log.info("Nobody cancelled flow run %s: its executions are left running.", of)
        return {}
    outcomes = cancel_executions_of(of, log)
    if failed := [outcome for outcome in outcomes if outcome.what == "failed"]:
        raise RuntimeError(f"{len(failed)} executions of flow run {of} may still run; the log says which and why.")
    kinds = [outcome.what for outcome in outcomes]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def cleanup_deployment(name: str = CLEANUP_NAME) -> RunnerDeployment:
    """
    The cleanup flow as a deployment, to be served beside others: ``serve(mine.to_deployment("prod"),
    cleanup_deployment())``. The process that serves it needs the network and this package; the credentials come from
    their block.
    """
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    return RunnerDeployment.from_flow(cleanup_flow, name=name, entrypoint_type=EntrypointType.MODULE_PATH)


def serve_cleanup(name: str = CLEANUP_NAME) -> None:
    """
    Serve the cleanup flow alone until a signal comes.
    """
    from prefect import serve

    serve(cleanup_deployment(name))


def cancel_executions_of(flow_run_id: UUID, log: Logger | None = None) -> list[Outcome]:
    """
    Cancel what a flow run and its subflows have started and what has not ended. Whoever calls has decided it.

    Args:
        flow_run_id: Of any flow run, also of a subflow.
        log: Where it is told.

    Raises:
        LedgerError: The Prefect server does not show what the flow run has started.
    """
    from prefect_blocks import identity, marks, notes
    from prefect_blocks.ledger import FlowRunInputLedger, recorded

    log = log or get_logger("prefect_blocks.cancelling")
    where = identity.scope_of(flow_run_id)
    chosen = marks.steps_of(where)
    outcomes: list[Outcome] = []
    for step in recorded(where.flow_run_id):
        if chosen is None or step.step in chosen:
            kept = FlowRunInputLedger(where.flow_run_id, credentials=step.credentials, on_cancel=step.on_cancel)
            outcomes += _cancel(step, kept, log)
    for note in notes.kept(where.flow_run_id):
        if chosen is None or note.key in chosen:
            outcomes += _cancel_keyed(note, log)
    return outcomes


def _cancel_keyed(note: Note, log: Logger) -> list[Outcome]:
    """
    What the flow run has started with a key; nothing, if somebody else has.
    """
    from prefect_blocks.ledger import Recorded

    if note.on_cancel == "leave":
        log.info("What key %s has started goes on, as its block says.", note.key)
        return [Outcome(note.key, None, "left")]
    if note.credentials is None:
        log.error("Key %s was used by credentials that are no saved block: `tl ledger show` knows more.", note.key)
        return [Outcome(note.key, None, "failed")]
    found: list[Entry] = []

    def look(credentials: TransactionlinkCredentials) -> None:
        if (entry := note.entry_in(credentials.sql_ledger())) is not None:
            found.append(entry)

    if (failure := _failure(note.credentials, look)) is not None:
        log.error("What key %s has started cannot be told: %s", note.key, failure)
        return [Outcome(note.key, None, "failed")]
    about: dict[str, Any] = {"credentials": note.credentials, "on_cancel": note.on_cancel}
    steps = [Recorded(step=note.key, namespace=note.namespace, entry=entry, **about) for entry in found]
    return [outcome for step in steps for outcome in _cancel(step, None, log)]


def _cancel(step: Recorded, ledger: Ledger | None, log: Logger) -> list[Outcome]:
    """
    The step's execution, and those that may run besides after starts of unknown fate, as far as their ids are known.

    Args:
        ledger: Where the step is; None: in the SQL ledger of the credentials.
    """
    from tl_orchestration.ledger.entry import OPEN, UNDECIDED

    entry = step.entry
    unknown = entry.state in UNDECIDED and not entry.preparing
    ids = {entry.execution_id: step.step} if entry.execution_id and entry.state in OPEN else {}
    suspects = [*entry.suspects, *([entry.execution_id] if unknown and entry.execution_id else [])]
    nameless = entry.restarts + unknown - len(suspects)
    if step.on_cancel == "leave" and (ids or suspects or nameless):
        log.info("Execution %s of step %s goes on, as its block says.", entry.execution_id, step.step)
        return [Outcome(step.step, entry.execution_id, "left")]
    outcomes = [_cancel_one(step, one, key, ledger, log) for one, key in (ids | dict.fromkeys(suspects)).items()]
    if nameless:
        sought = ", ".join(one for one in (*entry.suspect_correlation_ids, entry.correlation_id) if one)
        log.error(
            "Step %s has a start of unknown fate: look for its execution in the vendor's dashboard%s.",
            step.step,
            f" by one of these correlation ids: {sought}" if sought else "",
        )
        outcomes.append(Outcome(step.step, None, "failed"))
    return outcomes or [Outcome(step.step, entry.execution_id, "ended")]


def _cancel_one(step: Recorded, execution_id: str, key: str | None, ledger: Ledger | None, log: Logger) -> Outcome:
    """
    Args:
        key: Of the entry that is about this execution; None: that of a suspect is about another.
    """
    from tl_orchestration import Handle
    from tl_orchestration.errors import NotSupported

    if step.credentials is None:
        log.error(
            "Execution %s was started by credentials that are no saved block: `tl cancel %s`.",
            execution_id,
            execution_id,
        )
        return Outcome(step.step, execution_id, "failed")

    def send(credentials: TransactionlinkCredentials) -> None:
        handle = Handle(execution_id=execution_id, service=credentials.service, key=key, owned=True)
        with credentials.get_client(ledger=ledger or credentials.sql_ledger()) as client:
            client.cancel(handle)

    try:
        failure = _failure(step.credentials, send)
    except NotSupported as error:
        log.warning("Execution %s goes on: %s", execution_id, error)
        return Outcome(step.step, execution_id, "left")
    if failure is not None:
        log.error("Execution %s could not be cancelled: %s", execution_id, failure)
        return Outcome(step.step, execution_id, "failed")
    log.info("Execution %s of step %s was cancelled.", execution_id, step.step)
    return Outcome(step.step, execution_id, "cancelled")


def _failure(credentials: str, use: Callable[[TransactionlinkCredentials], object]) -> str | None:
    """
    Why a saved block could not be used so; None: it could.

    Raises:
        NotSupported: It can never be used so.
    """
    from prefect_blocks.credentials import TransactionlinkCredentials
    from prefect_blocks.versions import PREFECT_FAILURES, load_block
    from tl_orchestration.errors import NotSupported, TransactionlinkError

    try:
        use(load_block(TransactionlinkCredentials, credentials))
    except NotSupported:
        raise
    except TransactionlinkError as error:
        return None if error.cancel_accepted else str(error)
    except PREFECT_FAILURES as error:
        return f"the credentials block {credentials!r} could not be read ({type(error).__name__})."
    return None


__all__ = [
    "CLEANUP_DEPLOYMENT",
    "CLEANUP_FLOW",
    "CLEANUP_NAME",
    "Outcome",
    "cancel_executions_of",
    "cancel_remote_executions",
    "cleanup_deployment",
    "cleanup_flow",
    "serve_cleanup",
]
