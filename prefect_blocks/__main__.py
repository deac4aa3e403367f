"""
``python -m prefect_blocks``: what has to stand on a Prefect server, and what a person does about flow runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect_blocks.automations import Outcome
    from prefect_blocks.notes import Note


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command against the server that PREFECT_API_URL or the profile names.

    Returns:
        Exit code: 0; 1 if an execution could not be cancelled, there is nothing to decide, or the server refused; 2 for
        a wrong command.
    """
    options = _parser().parse_args(arguments)
    from prefect_blocks.versions import PREFECT_FAILURES
    from tl_orchestration.errors import TransactionlinkError

    try:
        return _run(options)
    except (*PREFECT_FAILURES, TransactionlinkError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m prefect_blocks")
    commands = parser.add_subparsers(dest="command", required=True)
    automations = commands.add_parser("automations", help="the timer and the cleanup rule on the Prefect server")
    actions = automations.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="create them, or bring them to these settings")
    create.add_argument("--wake-after", type=float, default=300.0, metavar="SECONDS", help="default: 300")
    create.add_argument(
        "--cleanup-deployment", metavar="FLOW/NAME", help="deployment of the cleanup flow; without it: no cleanup rule"
    )
    create.add_argument("--cleanup-tag", metavar="TAG", help="clean up only after flow runs whose deployment has it")
    actions.add_parser("delete", help="delete them")
    actions.add_parser("show", help="say which are there")
    commands.add_parser("serve-cleanup", help="serve the cleanup flow until a signal comes")
    commands.add_parser("wake", help="resume all flow runs that wait for an execution; each looks once and waits on")
    cancel = commands.add_parser("cancel", help="cancel the executions that a flow run has started")
    cancel.add_argument("flow_run_id", type=UUID)
    show = commands.add_parser("show", help="show what a flow run has started, or how one step of it came about")
    show.add_argument("flow_run_id", type=UUID)
    show.add_argument("step_key", nargs="?")
    adopt = commands.add_parser("adopt", help="say which execution a start of unknown fate made")
    not_started = commands.add_parser("not-started", help="say that a start of unknown fate made nothing")
    for verdict in (adopt, not_started):
        verdict.add_argument("flow_run_id", type=UUID)
        verdict.add_argument("step_key")
        verdict.add_argument(
            "--reason", required=True, metavar="TEXT", help="how it is known, for the trail; must not be personal"
        )
        verdict.add_argument("--actor", metavar="NAME", help="who says so; default: the operating system's user")
    adopt.add_argument("execution_id")
    return parser


def _run(options: argparse.Namespace) -> int:
    from prefect_blocks import automations, cancelling

    if options.command == "serve-cleanup":
        cancelling.serve_cleanup()
    elif options.command == "wake":
        for flow_run_id in automations.wake_waiting():
            print(f"{flow_run_id} resumed")
    elif options.command == "cancel":
        outcomes = cancelling.cancel_executions_of(options.flow_run_id)
        for outcome in outcomes:
            print(f"{outcome.execution_id or '-'} {outcome.what} (step {outcome.step})")
        return int(any(outcome.what == "failed" for outcome in outcomes))
    elif options.command == "show":
        _show(options.flow_run_id, options.step_key)
    elif options.command in {"adopt", "not-started"}:
        _settle(options)
    else:
        for automation in _automations(options):
            print(f"{automation.id or '-'} {automation.change} {automation.name}")
    return 0


def _show(flow_run_id: UUID, step_key: str | None) -> None:
    """
    Raises:
        LedgerError: There is no such step, or the server cannot be reached.
    """
    from prefect_blocks import identity, marks, notes
    from prefect_blocks.ledger import FlowRunInputLedger, recorded
    from tl_orchestration.cli.entries import entry_lines, row_text
    from tl_orchestration.cli.output import answer_lines, printable
    from tl_orchestration.errors import LedgerError
    from tl_orchestration.ledger.entry import Record

    where = identity.scope_of(flow_run_id)
    if step_key is None:
        chosen = marks.steps_of(where)
        for step in recorded(where.flow_run_id):
            if chosen is None or step.step in chosen:
                print(printable(row_text(Record(step.namespace, step.step, step.entry), time.time())))
        for note in notes.kept(where.flow_run_id):
            if chosen is None or note.key in chosen:
                print(printable(_noted(note)))
        return
    history = FlowRunInputLedger(where.flow_run_id).history(step_key)
    if not history:
        raise LedgerError(f"Flow run {flow_run_id} has no step with the key {step_key!r}.")
    answer_lines(entry_lines(Record(history[-1].namespace, step_key, history[-1].entry)))
    for version in history:
        entry = version.entry
        moment = datetime.fromtimestamp(entry.changed_at, UTC).isoformat(timespec="seconds")
        said = f' "{entry.reason}"' if entry.reason else ""
        by = f" by {version.actor}" if version.actor else ""
        print(printable(f"{moment}  {entry.state:<17}{entry.execution_id or '-'}{said}{by}"))


def _noted(note: Note) -> str:
    """
    What was started with a business key is in the SQL ledger of the credentials, which may be out of reach from here.
    """
    moment = datetime.fromtimestamp(note.intended_at, UTC).isoformat(timespec="seconds")
    block = f" (credentials {note.credentials})" if note.credentials is not None else ""
    return f"with a key, {moment}: `tl ledger show` knows more{block}  {note.key}  {note.namespace}"


def _settle(options: argparse.Namespace) -> None:
    from prefect_blocks import verdicts

    said = {"reason": options.reason, "actor": options.actor}
    if options.command == "adopt":
        verdicts.adopt(options.flow_run_id, options.step_key, options.execution_id, **said)
        print(f"Recorded. The next attempt goes on with execution {options.execution_id}. Retry the flow run.")
    else:
        verdicts.not_started(options.flow_run_id, options.step_key, **said)
        print("Recorded. The next attempt starts. Retry the flow run.")


def _automations(options: argparse.Namespace) -> list[Outcome]:
    from prefect_blocks import automations

    if options.action == "delete":
        return automations.delete_automations()
    if options.action == "show":
        return automations.read_automations()
    return automations.create_automations(
        wake_after=timedelta(seconds=options.wake_after),
        cleanup_deployment=options.cleanup_deployment,
        cleanup_tag=options.cleanup_tag,
    )


if __name__ == "__main__":
    sys.exit(main())
