"""
What people see of executions in Prefect: events, labels, artifacts.

All of it holds ids, counts and states only, and none of it can fail a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import re
import threading
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from prefect_blocks.versions import PREFECT_FAILURES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from uuid import UUID

    from prefect_blocks.run import TransactionlinkWorkflowRun
    from tl_orchestration import Execution
    from tl_orchestration.batch import BatchSummary

log = logging.getLogger(__name__)

_PACE = 1.0
"""
Seconds between two updates of a progress artifact.
"""

_LABEL = 10.0
#: Name of the threads that write labels.
LABELLER = "transactionlink-label"
"""
Seconds for one answer about a label.
"""

_LISTED = 500
"""
Ids in one summary.
"""

_EVENTS = uuid.UUID("5b1f1d54-2a9e-4b39-9f9a-5f4d6c0b7a11")


def started(run: TransactionlinkWorkflowRun, execution: Execution) -> None:
    """
    An execution has been started, or found again: an event for the first, a label on the flow run and the link artifact
    for both.
    """
    if not execution.reattached:
        _emit("started", run, execution)
    _label(run)
    _link(run)


def changed(run: TransactionlinkWorkflowRun, execution: Execution) -> None:
    """
    A poll shows another status than the one before. One event; it does not block.
    """
    from tl_orchestration import Status

    if execution.status is Status.UNKNOWN:
        what = "unknown"
    elif execution.status is Status.CANCELLED:
        what = "cancelled"
    else:
        what = "ended" if execution.is_terminal else "changed"
    _emit(what, run, execution)


@contextlib.contextmanager
def start_unknown(definition: str, flow_run_id: UUID | None) -> Iterator[None]:
    """
    A start in here that is of unknown fate makes an event: somebody has to look. It is about the flow run, for there is
    no execution.
    """
    from tl_orchestration.errors import StartOutcomeUnknown

    try:
        yield
    except StartOutcomeUnknown:
        if flow_run_id is not None:
            resource = {
                "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
                "transactionlink.definition": definition,
            }
            with _harmless():
                _send("transactionlink.start.unknown", resource, [], {})
        raise


def summary(outcomes: Sequence[Mapping[str, Any]]) -> None:
    """
    A markdown artifact about many executions: how many of each status, and their ids.

    Args:
        outcomes: ``execution_id``, and ``status`` or ``error``, of each.
    """
    kinds = Counter(_kind(outcome) for outcome in outcomes)
    lines = ["| status | executions |", "| --- | --- |"]
    lines += [f"| {kind} | {count} |" for kind, count in sorted(kinds.items())]
    lines += ["", "| execution | status |", "| --- | --- |"]
    lines += [f"| `{outcome['execution_id']}` | {_kind(outcome)} |" for outcome in outcomes[:_LISTED]]
    if len(outcomes) > _LISTED:
        lines.append(f"\nand {len(outcomes) - _LISTED} more")
    _create("markdown", "transactionlink-executions", "\n".join(lines), f"{len(outcomes)} executions")


def batch_bar(campaign: str, rows: int) -> UUID | None:
    """
    The progress artifact of a campaign in this flow run, the same one when the flow runs again; None: there is none.
    """
    key = "transactionlink-batch-" + hashlib.sha256(campaign.encode()).hexdigest()[:12]
    return _artifact(key) or _create("progress", key, 0.0, f"Campaign {campaign}: {rows} rows")


def batch_progress(bar: UUID, percent: float) -> None:
    """
    So much of the campaign has come to its end.
    """
    _update(bar, percent)


def batch_summary(summary: BatchSummary, errors: Sequence[str] = ()) -> None:
    """
    A markdown artifact about a campaign: rows by state, requests, what could not be run and why. Values of rows are not
    in it.

    Args:
        errors: Kinds of error that shards have failed with.
    """
    outcome = "failed with " + ", ".join(sorted(set(errors))) if errors else summary.outcome
    lines = [f"Campaign `{summary.campaign}`: {outcome}", "", "| rows | |", "| --- | ---: |"]
    lines += [f"| {state} | {count} |" for state, count in sorted(summary.counts.items())]
    lines += [f"| all | {summary.rows} |", f"| started by this flow run | {summary.started_here} |"]
    if summary.load is not None:
        found = ("rejected", "conflicting", "changed", "withdrawn")
        lines += [f"| {name} in the source | {count} |" for name in found if (count := getattr(summary.load, name))]
    lines += [""]
    lines += ["| requests | |", "| --- | ---: |"]
    lines += [f"| {operation} | {count} |" for operation, count in sorted(summary.requests.items())]
    if summary.polls_p95 is not None:
        lines += [f"| polls of a row, 95th percentile | {summary.polls_p95} |"]
    if summary.output is not None:
        lines += ["", f"Results are in `{summary.output}`."]
    if summary.unknown:
        lines += [
            "",
            f"{summary.unknown} rows may or may not have started: `tl batch export '{summary.campaign}' --state"
            " UNKNOWN` names them.",
        ]
    if summary.load is not None and summary.load.samples:
        lines += ["", "| row | key | column | why it cannot be run |", "| --- | --- | --- | --- |"]
        lines += [
            "| " + " | ".join(_cell(one.get(name)) for name in ("row", "key", "column", "reason")) + " |"
            for one in summary.load.samples
        ]
    _create("markdown", "transactionlink-batch", "\n".join(lines), f"Campaign {summary.campaign}")


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|")


@contextlib.asynccontextmanager
async def progress(total: int, *, done: int = 0, of: Sequence[str] = ()) -> AsyncIterator[Callable[[], None]]:
    """
    A progress artifact about so many executions. Call what this gives once for each that has ended.

    Args:
        done: How many have ended before.
        of: Their ids, if a flow that begins again is to go on with the artifact of its former process.
    """
    ended = done

    def one_more() -> None:
        nonlocal ended
        ended += 1

    artifact = None
    if total > 1:
        artifact = await asyncio.to_thread(_bar, total, of)
    if artifact is None:
        yield one_more
        return

    async def keep_up() -> None:
        shown = done
        while True:
            await asyncio.sleep(_PACE)
            if ended > shown:
                shown = ended
                await asyncio.to_thread(_update, artifact, 100.0 * shown / total)

    keeping = asyncio.ensure_future(keep_up())
    try:
        yield one_more
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    if ended > done:
        await asyncio.to_thread(_update, artifact, 100.0 * ended / total)


def _bar(total: int, of: Sequence[str]) -> UUID | None:
    """
    The progress artifact of these executions in this flow run; a new one where there is none yet.
    """
    key = "transactionlink-progress"
    if of:
        key += "-" + hashlib.sha256("\0".join(of).encode()).hexdigest()[:12]
        if (found := _artifact(key)) is not None:
            return found
    return _create("progress", key, 0.0, f"{total} executions")


def _artifact(key: str) -> UUID | None:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

    from prefect_blocks import identity

    flow_run_id = identity.flow_run_id()
    if flow_run_id is None:
        return None
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]), flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    found: list[UUID] = []
    with _harmless(), _client() as client:
        found += [artifact.id for artifact in client.read_artifacts(artifact_filter=wanted, limit=1)]
    return found[0] if found else None


def _kind(outcome: Mapping[str, Any]) -> str:
    return str(outcome.get("status") or outcome.get("error") or "UNKNOWN")


def _emit(what: str, run: TransactionlinkWorkflowRun, execution: Execution) -> None:
    from prefect.settings import PREFECT_API_URL

    with _harmless():
        flow_run_id, status = run.flow_run_id, execution.status.value
        if flow_run_id is None and PREFECT_API_URL.value() is None:
            return  # a script without a server: for an event, Prefect would start one
        related = []
        if flow_run_id is not None:
            related.append(
                {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.role": "flow-run"}
            )
        resource = {
            "prefect.resource.id": f"transactionlink.execution.{execution.id}",
            "prefect.resource.name": execution.id,
            "transactionlink.service": run.handle.service,
            "transactionlink.definition": run.definition,
        }
        # Who waits for it again after a resume sees the same ending again: one id, so that it is one event.
        once = uuid.uuid5(_EVENTS, f"{flow_run_id}/{execution.id}/{what}") if what in _ONCE else None
        _send(f"transactionlink.execution.{what}", resource, related, {"status": status}, once)


_ONCE = frozenset({"started", "ended", "cancelled"})


def _send(
    event: str,
    resource: dict[str, str],
    related: list[dict[str, str]],
    payload: dict[str, Any],
    identity: UUID | None = None,
) -> None:
    from prefect.events import emit_event

    emit_event(event, resource=resource, related=related, payload=payload, id=identity)


def _label(run: TransactionlinkWorkflowRun) -> None:
    """
    For people to find. The lock is the ledger's: of two who set a label, the last wins. Nobody waits for it: a server
    on SQLite answers 503 when something else is written at the same moment, and Prefect's client then sleeps for
    seconds.
    """
    flow_run_id = run.flow_run_id
    if flow_run_id is None:
        return
    labels: dict[str, Any] = {f"transactionlink.execution.{run.handle.key or run.definition}": run.execution_id}

    def write() -> None:
        with _harmless(), _client(httpx_settings={"timeout": _LABEL}) as client:
            client.update_flow_run_labels(flow_run_id, labels)

    threading.Thread(target=contextvars.copy_context().run, args=(write,), name=LABELLER, daemon=True).start()


def _link(run: TransactionlinkWorkflowRun) -> None:
    """
    To where the credentials say; never to the hosted page, whose address lets its holder in.
    """
    link = run.workflow.credentials.link_to(run.execution_id)
    if link is not None:
        key = "transactionlink-" + re.sub(r"[^a-z0-9]+", "-", run.execution_id.lower()).strip("-")
        _create("markdown", key, f"[Execution {run.execution_id}]({link})", None)


def _create(kind: str, key: str, data: Any, description: str | None) -> UUID | None:
    """
    None: there is no artifact, because nothing runs here that it could belong to, or because Prefect did not take it.
    """
    from prefect.client.schemas.actions import ArtifactCreate

    from prefect_blocks import identity

    flow_run_id, task_run_id = identity.flow_run_id(), identity.task_run_id()
    if flow_run_id is None and task_run_id is None:
        return None
    artifact = ArtifactCreate(
        key=key, type=kind, description=description, data=data, flow_run_id=flow_run_id, task_run_id=task_run_id
    )
    made: list[UUID] = []
    with _harmless(), _client() as client:
        made.append(client.create_artifact(artifact).id)
    return made[0] if made else None


def _update(artifact: UUID, percent: float) -> None:
    from prefect.client.schemas.actions import ArtifactUpdate

    with _harmless(), _client() as client:
        client.update_artifact(artifact, ArtifactUpdate(data=percent))


def _client(httpx_settings: dict[str, Any] | None = None) -> Any:
    """
    With settings, one of its own; without them, that of the flow run, which ends with it.
    """
    from prefect import get_client

    return get_client(httpx_settings=httpx_settings, sync_client=True)


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except PREFECT_FAILURES as error:
        log.warning("Prefect does not show this (%s); the step goes on.", type(error).__name__)
    except Exception as error:  # whatever is shown, no step is worth losing for it
        log.error("This could not be shown (%s); the step goes on.", type(error).__name__)


__all__ = [
    "LABELLER",
    "batch_bar",
    "batch_progress",
    "batch_summary",
    "changed",
    "progress",
    "start_unknown",
    "started",
    "summary",
]
