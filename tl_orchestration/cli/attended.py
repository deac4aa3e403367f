"""
Starting and waiting with a person in front: Ctrl-C loses nothing, and every error names the execution.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

from rich.console import Console

from tl_orchestration.answers import safe_id
from tl_orchestration.cli.interrupts import Interrupts
from tl_orchestration.cli.progress import Progress, WatchedPacing
from tl_orchestration.client import Client
from tl_orchestration.errors import StartOutcomeUnknown, TransactionlinkError, WaitInterrupted
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.start import Step
from tl_orchestration.wait import Patience


def start(client: Client, request: RunRequest, timeout: float | None, step: Step | None = None) -> Execution:
    """
    Start an execution under :class:`Interrupts`.

    Raises:
        StartOutcomeUnknown: The person did not wait for the answer.
    """
    try:
        return client.run(request, step, timeout=timeout)
    except KeyboardInterrupt:
        known = "" if step is None else f" What the ledger knows: `tl ledger show {shlex.quote(step.key)}`."
        raise StartOutcomeUnknown(
            "Interrupted before the answer to the start arrived: an execution may or may not have started. Look for"
            f" it in the vendor's dashboard before you run it again.{known}",
            key=None if step is None else step.key,
        ) from None


def wait(
    client: Client,
    target: Execution | str,
    console: Console,
    interrupts: Interrupts,
    *,
    timeout: float | None,
    cancel: bool,
) -> Execution:
    """
    Wait with the progress on stderr.

    Args:
        timeout: Seconds from now; None: the deadline that the execution has.
        cancel: Whether it is cancelled when that has passed.

    Raises:
        WaitInterrupted: The person interrupted; the execution was left running.
    """
    execution_id = target if isinstance(target, str) else target.id
    progress = Progress(console)
    patience = Patience(
        pacing=WatchedPacing(on_delay=progress.pausing), cancel_on_timeout=cancel, on_change=progress.changed
    )

    def stop() -> bool:
        progress.tick()
        return interrupts.happened

    try:
        with progress, about(execution_id):
            return client.wait(target, timeout, patience=patience, stop=stop)
    except (KeyboardInterrupt, WaitInterrupted):
        raise WaitInterrupted(
            f"Interrupted: execution {execution_id} was left running. To stop it: `tl cancel {execution_id}`.",
            execution_id=execution_id,
        ) from None


@contextlib.contextmanager
def about(execution_id: str) -> Iterator[None]:
    """
    Let every error name the execution, also one that nobody answered to.
    """
    try:
        yield
    except TransactionlinkError as error:
        raise (error.about(execution_id) if safe_id(execution_id) else error) from None
