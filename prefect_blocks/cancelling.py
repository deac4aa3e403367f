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

    from prefect_blocks.ledger import Recorded
    from prefect_blocks.notes import Note

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
        what: ``left``: the block says ``on_cancel='leave'``. ``failed``: it may still run.
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
        flow_run_id: Of the outermost flow run.
        log: Where it is told.

    Raises:
        LedgerError: The Prefect server does not show what the flow run has started.
    """
    from prefect_blocks import notes
    from prefect_blocks.ledger import recorded

    log = log or get_logger("prefect_blocks.cancelling")
    outcomes = [_cancel(flow_run_id, each, log) for each in recorded(flow_run_id)]
    return outcomes + [_cancel_noted(note, log) for note in notes.kept(flow_run_id)]


def _cancel(flow_run_id: UUID, step: Recorded, log: Logger) -> Outcome:
    from tl_orchestration.ledger.entry import OPEN, UNDECIDED

    entry, execution_id = step.entry, step.entry.execution_id
    if entry.state in UNDECIDED and not entry.preparing:
        log.error("Step %s has a start of unknown fate: look for its execution in the vendor's dashboard.", step.step)
        return Outcome(step.step, execution_id, "failed")
    if entry.state not in OPEN or execution_id is None:
        return Outcome(step.step, execution_id, "ended")
    if (spared := _spared(step.step, execution_id, step.credentials, step.on_cancel, log)) is not None:
        return spared
    return _sent(step.step, execution_id, step.credentials, lambda: _send(flow_run_id, step, execution_id), log)


def _cancel_noted(note: Note, log: Logger) -> Outcome:
    if (spared := _spared(note.key, note.execution_id, note.credentials, note.on_cancel, log)) is not None:
        return spared
    return _sent(note.key, note.execution_id, note.credentials, lambda: _send_noted(note), log)


def _spared(step: str, execution_id: str, credentials: str | None, on_cancel: str, log: Logger) -> Outcome | None:
    """
    None: it can and may be cancelled.
    """
    if on_cancel == "leave":
        log.info("Execution %s of step %s goes on, as its block says.", execution_id, step)
        return Outcome(step, execution_id, "left")
    if credentials is None:
        log.error(
            "Execution %s was started by credentials that are no saved block: `tl cancel %s`.",
            execution_id,
            execution_id,
        )
        return Outcome(step, execution_id, "failed")
    return None


def _sent(step: str, execution_id: str, credentials: str | None, send: Callable[[], object], log: Logger) -> Outcome:
    from prefect_blocks.versions import PREFECT_FAILURES
    from tl_orchestration.errors import TransactionlinkError

    try:
        send()
    except TransactionlinkError as error:
        if not error.cancel_accepted:
            log.error("Execution %s could not be cancelled: %s", execution_id, error)
            return Outcome(step, execution_id, "failed")
        log.warning("%s", error)
    except PREFECT_FAILURES as error:
        log.error(
            "Execution %s could not be cancelled: the credentials block %r could not be read (%s).",
            execution_id,
            credentials,
            type(error).__name__,
        )
        return Outcome(step, execution_id, "failed")
    log.info("Execution %s of step %s was cancelled.", execution_id, step)
    return Outcome(step, execution_id, "cancelled")


def _send(flow_run_id: UUID, step: Recorded, execution_id: str) -> None:
    from prefect_blocks.credentials import TransactionlinkCredentials
    from prefect_blocks.ledger import FlowRunInputLedger
    from prefect_blocks.versions import load_block
    from tl_orchestration import Handle

    assert step.credentials is not None
    block = load_block(TransactionlinkCredentials, step.credentials)
    ledger = FlowRunInputLedger(flow_run_id, credentials=step.credentials, on_cancel=step.on_cancel)
    with block.get_client(ledger=ledger) as client:
        client.cancel(Handle(execution_id=execution_id, service=block.service, key=step.step, owned=True))


def _send_noted(note: Note) -> None:
    from prefect_blocks.credentials import TransactionlinkCredentials
    from prefect_blocks.versions import load_block
    from tl_orchestration import Handle

    assert note.credentials is not None
    block = load_block(TransactionlinkCredentials, note.credentials)
    with block.get_client(ledger=block.sql_ledger()) as client:
        client.cancel(Handle(execution_id=note.execution_id, service=block.service, key=note.key, owned=True))


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
