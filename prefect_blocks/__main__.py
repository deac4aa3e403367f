"""
``python -m prefect_blocks``: what has to stand on a Prefect server, and what a person does about flow runs.
"""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect_blocks.automations import Outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command against the server that PREFECT_API_URL or the profile names.

    Returns:
        Exit code: 0; 1 if an execution could not be cancelled, or the server refused; 2 for a wrong command.
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
    actions.add_parser("delete", help="delete them")
    actions.add_parser("show", help="say which are there")
    commands.add_parser("serve-cleanup", help="serve the cleanup flow until a signal comes")
    commands.add_parser("wake", help="resume all flow runs that wait for an execution; each looks once and waits on")
    cancel = commands.add_parser("cancel", help="cancel the executions that a flow run has started")
    cancel.add_argument("flow_run_id", type=UUID)
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
    else:
        for automation in _automations(options):
            print(f"{automation.id or '-'} {automation.change} {automation.name}")
    return 0


def _automations(options: argparse.Namespace) -> list[Outcome]:
    from prefect_blocks import automations

    if options.action == "delete":
        return automations.delete_automations()
    if options.action == "show":
        return automations.read_automations()
    return automations.create_automations(
        wake_after=timedelta(seconds=options.wake_after), cleanup_deployment=options.cleanup_deployment
    )


if __name__ == "__main__":
    sys.exit(main())
