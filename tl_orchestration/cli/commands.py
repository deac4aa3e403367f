"""
The command ``tl``: its sub-commands, and the one place where errors become sentences and exit codes.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
from rich.console import Console

from tl_orchestration.cli.batch import batch
from tl_orchestration.cli.database import db
from tl_orchestration.cli.doctor import doctor
from tl_orchestration.cli.executions import cancel, poll, result, run, wait
from tl_orchestration.cli.ledger import ledger
from tl_orchestration.cli.outcomes import INTERRUPTED, SUCCESS, UNEXPECTED, USAGE, as_help, code_of_error
from tl_orchestration.cli.output import answer_json, tell
from tl_orchestration.cli.progress import ConsoleLog
from tl_orchestration.cli.sandbox import sandbox
from tl_orchestration.cli.settings import verbose_option
from tl_orchestration.cli.webhooks import webhooks
from tl_orchestration.errors import TransactionlinkError

_CREDENTIAL = re.compile(r"\b(?:tot_|b3sk_|eyJ)\S+")


class Tl(click.Group):
    """
    A group whose commands return their exit code and may raise any error.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """
        As click's, except that every ending is one code of the table, and every error one sentence on stderr.
        """
        given = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in itertools.takewhile(lambda argument: argument != "--", given)
        console = Console(stderr=True, highlight=False)
        with _logging_to(console):
            try:
                code = super().main(
                    given or ["--help"], prog_name, complete_var, standalone_mode=False, obj=console, **extra
                )
            except Exception as error:
                code = _report(error, as_json=as_json)
        if standalone_mode:
            sys.exit(code)
        return code


def _report(error: Exception, *, as_json: bool) -> int:
    """
    Print an error. Returns its exit code.
    """
    kind, code, facts = type(error).__name__, UNEXPECTED, error if isinstance(error, TransactionlinkError) else None
    if facts is not None:
        message, code = facts.message, code_of_error(type(facts))
    elif isinstance(error, click.ClickException):
        message, code = _usage(error), USAGE
    elif isinstance(error, click.Abort):
        kind, message, code = "Interrupted", "Interrupted.", INTERRUPTED
    else:
        # Only where, not what: the text of a foreign exception may quote anything.
        message = f"Unexpected {kind} at {_place(error)}; please report it."
    message = _CREDENTIAL.sub("***", message)
    tell(f"Error: {message}")
    if as_json:
        answer_json(
            {
                "error": {
                    "type": kind,
                    "message": message,
                    "execution_id": facts.execution_id if facts else None,
                    "status_code": facts.status_code if facts else None,
                    "codes": list(facts.codes) if facts else [],
                    "fingerprint": facts.fingerprint if facts else None,
                }
            }
        )
    return code


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    more = f" See `{context.command_path} --help`." if context is not None else ""
    return f"{error.format_message().rstrip('.')}.{more}"


def _place(error: Exception) -> str:
    trace, place = error.__traceback__, "an unknown place"
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.startswith("tl_orchestration"):
            place = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


@contextlib.contextmanager
def _logging_to(console: Console) -> Iterator[None]:
    """
    Show this package's warnings while a command runs; ``--verbose`` shows more.
    """
    log, handler = logging.getLogger("tl_orchestration"), ConsoleLog(console)
    level = log.level
    log.setLevel(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        try:
            click.echo(version("tl-orchestration"))
        except PackageNotFoundError:
            click.echo("unknown: not installed")
        ctx.exit(SUCCESS)


@click.group(cls=Tl, epilog=as_help(), context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print it.")
@verbose_option
def tl() -> None:
    """
    Run Transactionlink workflow executions: start, poll, wait, result, cancel.

    The token comes from TRANSACTIONLINK_TOKEN or TRANSACTIONLINK_TOKEN_FILE, the legacy service's key and secret from
    TRANSACTIONLINK_KEY and TRANSACTIONLINK_SECRET or TRANSACTIONLINK_SECRET_FILE, never from an argument.
    """


for command in (run, poll, wait, result, cancel, batch, ledger, db, webhooks, doctor, sandbox):
    tl.add_command(command)
