"""
What a person tells a flow run about a start of unknown fate, once its next attempt is to go on.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from typing import TYPE_CHECKING
from uuid import UUID

from tl_orchestration.errors import LedgerError, RequestChanged, StartOutcomeUnknown
from tl_orchestration.ledger import verdicts
from tl_orchestration.ledger.entry import UNDECIDED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect_blocks.ledger import FlowRunInputLedger


def adopt(flow_run_id: UUID | str, step_key: str, execution_id: str, *, reason: str, actor: str | None = None) -> None:
    """
    Say that the start did start this execution. Retry the flow run then: it goes on with that.

    Args:
        flow_run_id: Of the outermost flow run, as the error names it.
        step_key: Of the step, as the error names it.
        execution_id: From the vendor's dashboard.
        reason: Why this is known; not personal.
        actor: Who says so; None: the operating system's user.

    Raises:
        InvalidRequest: That is no execution id, or there is no reason.
        LedgerError: There is nothing to decide about the step, or the server cannot be reached.
    """
    ledger, said = _undecided(flow_run_id, step_key), actor or verdicts.acting()
    verdicts.adopt(ledger, step_key, execution_id, reason=reason, actor=said, now=time.time())


def not_started(flow_run_id: UUID | str, step_key: str, *, reason: str, actor: str | None = None) -> None:
    """
    Say that the start has started nothing. Retry the flow run then: it starts.

    Args and errors as for :func:`adopt`.
    """
    ledger, said = _undecided(flow_run_id, step_key), actor or verdicts.acting()
    verdicts.not_started(ledger, step_key, reason=reason, actor=said, now=time.time())


def _undecided(flow_run_id: UUID | str, step_key: str) -> FlowRunInputLedger:
    from prefect_blocks.ledger import FlowRunInputLedger, recorded

    of = UUID(str(flow_run_id))
    for step in recorded(of):
        if step.step == step_key and step.entry.state in UNDECIDED:
            ledger = FlowRunInputLedger(of, credentials=step.credentials, on_cancel=step.on_cancel)
            return ledger.for_namespace(step.namespace)
    raise LedgerError(f"Flow run {of} has no start of unknown fate with the step key {step_key!r}.")


@contextlib.contextmanager
def way_out(flow_run_id: UUID | None) -> Iterator[None]:
    """
    Have a start of unknown fate, or a request that has changed, say what to do about it here, where a flow run keeps
    the step.

    Args:
        flow_run_id: Which one; None: none does.
    """
    try:
        yield
    except StartOutcomeUnknown as error:
        if flow_run_id is not None and error.key is not None:
            command, step = "python -m prefect_blocks", f"{flow_run_id} {shlex.quote(error.key)}"
            found = shlex.quote(error.execution_id or "EXECUTION_ID")
            error.args = (
                f"{error.what} Then tell the flow run: `{command} adopt {step} {found} --reason TEXT` if it runs,"
                f" `{command} not-started {step} --reason TEXT` if it does not. And retry the flow run.",
            )
        raise
    except RequestChanged as error:
        if flow_run_id is not None and error.what is not None:
            error.args = (
                f"{error.what} Retries and resumes run the flow again, and each pass must ask for the same: make a time"
                " or a random id once, in a task whose result is persisted, and take what changes out of the"
                " parameters. To go on with that execution whatever they are, set on_changed_request='reattach'; to"
                " start anew, give the step another step_key.",
            )
        raise


__all__ = ["adopt", "not_started", "way_out"]
