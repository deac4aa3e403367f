"""
``tl run``, ``tl poll``, ``tl wait``, ``tl result``, ``tl cancel``. Each returns its exit code.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tl_orchestration.cli import attended, stores
from tl_orchestration.cli.arguments import Command
from tl_orchestration.cli.durations import duration
from tl_orchestration.cli.interrupts import Interrupts
from tl_orchestration.cli.outcomes import INTERRUPTED, SUCCESS, code_of_status
from tl_orchestration.cli.output import (
    answer_json,
    answer_lines,
    execution_json,
    identity_lines,
    json_text,
    status_text,
    tell,
)
from tl_orchestration.cli.parameters import read_object, read_parameters
from tl_orchestration.cli.settings import Choices, connecting
from tl_orchestration.correlation import check_parameter
from tl_orchestration.errors import InvalidSettings
from tl_orchestration.models import Execution, RunRequest
from tl_orchestration.options import Options, options_for
from tl_orchestration.start import Step
from tl_orchestration.status import Status

_START_NOTICE = "Interrupted: waiting for the answer to the start, so that its id is not lost. Ctrl-C again gives up."


def _parameter_name(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    try:
        check_parameter(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


@click.command(cls=Command)
@click.argument("definition")
@click.option("--parameters", metavar="FILE", help="JSON object to run it with; - for standard input.")
@click.option("--locale", default="en", show_default=True, help="Language of what a person sees.")
@click.option("--expires-in", type=duration, help="When the service ends it by itself: 30m to 30d.")
@click.option("--record-id", metavar="UUID", help="Record that it is about.")
@click.option(
    "--options",
    "options",
    metavar="FILE_OR_JSON",
    help="JSON object of what only the chosen service takes; - for standard input. As the argument itself for B3OS"
    " alone: the legacy service's are personal data.",
)
@click.option(
    "--key",
    metavar="KEY",
    help=f"Start at most once for this key, over all calls with it; needs {stores.VARIABLE}. Must not be personal.",
)
@click.option(
    "--correlation-parameter",
    metavar="NAME",
    callback=_parameter_name,
    help="With --key: start with a random id under this name among the parameters, to find it by in the dashboard.",
)
@click.option("--wait/--no-wait", "waits", default=False, show_default=True, help="Wait until it has ended.")
@click.option("--timeout", type=duration, help="With --wait: longest wait.  [default: 1d]")
@click.option(
    "--cancel-on-timeout/--no-cancel-on-timeout",
    default=True,
    show_default=True,
    help="With --wait: whether it is cancelled when the timeout has passed.",
)
@click.option("--show-link", is_flag=True, help="With --json: include the applicant's link, which grants access.")
@connecting
@click.pass_obj
def run(
    console: Console,
    choices: Choices,
    definition: str,
    parameters: str | None,
    locale: str,
    expires_in: float | None,
    record_id: str | None,
    options: str | None,
    key: str | None,
    correlation_parameter: str | None,
    waits: bool,
    timeout: float | None,
    cancel_on_timeout: bool,
    show_link: bool,
    as_json: bool,
) -> int:
    """
    Start one execution of the workflow definition with the id DEFINITION.

    Prints its id and status. If a person has to act on a hosted page, prints the link to it as well: nobody else
    will ever get it. Two calls are two executions, unless they have the same --key.
    """
    if timeout is not None and not waits:
        raise click.UsageError("--timeout needs --wait; --expires-in limits an execution that nobody waits for.")
    if correlation_parameter is not None and key is None:
        raise click.UsageError("--correlation-parameter needs --key: only a ledger keeps the id for a later look.")
    if choices.is_keyless and not waits:
        raise InvalidSettings(
            "Without a key of B3OS nobody can ask for an execution after the command that started it: add --wait, or"
            " set TRANSACTIONLINK_TOKEN."
        )
    request = RunRequest(
        definition,
        read_parameters(parameters),
        locale=locale,
        expires_in=expires_in,
        record_id=record_id,
        options=_options(choices, options, parameters),
    )
    ledger = None if key is None else stores.ledger()
    step = None if key is None else Step(key=key, correlation_parameter=correlation_parameter)
    with choices.client(ledger, keyless=True) as client, Interrupts(_START_NOTICE) as interrupts:
        started = attended.start(client, request, timeout, step)
        interrupts.notice = None
        if started.reattached:
            tell(f"The key was used before and has started execution {started.id}: going on with that one.")
        if not as_json:
            answer_lines([*identity_lines(started), ("link", _link(started))])
        elif waits and not started.reattached:
            tell(f"Execution {started.id} was started.")
        _explain_link(started, as_json=as_json, show_link=show_link, waits=waits)
        execution = started
        if waits:
            execution = attended.wait(client, started, console, interrupts, timeout=None, cancel=cancel_on_timeout)
    if as_json:
        link = {"link": _link(started)} if show_link else {}
        known = {} if key is None else {"reattached": started.reattached}
        answer_json({**execution_json(execution), "interactive": started.is_interactive, **known, **link})
    else:
        answer_lines([("status", status_text(execution))])
    if interrupts.happened and not execution.is_terminal:
        tell(f"Interrupted, but execution {execution.id} was started. To stop it: `tl cancel {execution.id}`.")
        return INTERRUPTED
    return code_of_status(execution.status) if waits else SUCCESS


@click.command(cls=Command)
@click.argument("execution_id", metavar="ID")
@connecting
def poll(choices: Choices, execution_id: str, as_json: bool) -> int:
    """
    Ask once how the execution ID stands.
    """
    with choices.client() as client, attended.about(execution_id):
        execution = client.poll(execution_id)
    return _answer(execution, as_json)


@click.command(cls=Command)
@click.argument("execution_id", metavar="ID")
@click.option("--timeout", type=duration, help="Longest wait, from now.  [default: none]")
@click.option("--cancel-on-timeout", is_flag=True, help="Cancel it when the timeout has passed.")
@connecting
@click.pass_obj
def wait(
    console: Console,
    choices: Choices,
    execution_id: str,
    timeout: float | None,
    cancel_on_timeout: bool,
    as_json: bool,
) -> int:
    """
    Wait until the execution ID has ended.
    """
    with choices.client() as client, Interrupts() as interrupts:
        execution = attended.wait(client, execution_id, console, interrupts, timeout=timeout, cancel=cancel_on_timeout)
    return _answer(execution, as_json)


@click.command(cls=Command)
@click.argument("execution_id", metavar="ID")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write it there instead of to stdout; a new file is readable by its owner alone.",
)
@connecting
def result(choices: Choices, execution_id: str, output: Path | None, as_json: bool) -> int:
    """
    Print the result of the execution ID, a JSON object that is often personal data.
    """
    with choices.client() as client, attended.about(execution_id):
        document = client.result(execution_id)
    if output is None:
        answer_json(document, indent=None if as_json else 2)
        return SUCCESS
    content = (json_text(document, indent=2) + "\n").encode()
    try:
        with open(output, "wb", opener=_private) as file:
            file.write(content)
    except OSError as error:
        raise click.UsageError(f"The --output file cannot be written ({error.strerror}).") from None
    if as_json:
        digest = hashlib.sha256(content).hexdigest()
        answer_json({"id": execution_id, "output": str(output), "size": len(content), "sha256": digest})
    else:
        tell(f"The result of execution {execution_id} is in {output} ({len(content)} bytes).")
    return SUCCESS


@click.command(cls=Command)
@click.argument("execution_id", metavar="ID")
@connecting
def cancel(choices: Choices, execution_id: str, as_json: bool) -> int:
    """
    Cancel the execution ID and print how it then stands. One that is already over is left as it is.
    """
    with choices.client() as client, attended.about(execution_id):
        execution = client.cancel(execution_id)
    _answer(execution, as_json)
    return SUCCESS


def _options(choices: Choices, source: str | None, parameters: str | None) -> Options | None:
    if source == parameters == "-":
        raise click.UsageError("--parameters and --options cannot both be read from standard input.")
    given = None if source is None else read_object(source, "--options", inline=choices.service == "b3os")
    return options_for(choices.service, given, "--options")


def _answer(execution: Execution, as_json: bool) -> int:
    if execution.status is Status.UNKNOWN:
        tell("This version does not know that status: whether the execution has ended cannot be told.")
    if as_json:
        answer_json(execution_json(execution))
    else:
        answer_lines([*identity_lines(execution), ("status", status_text(execution))])
    return code_of_status(execution.status)


def _link(execution: Execution) -> str | None:
    return execution.link.reveal() if execution.link is not None else None


def _explain_link(started: Execution, *, as_json: bool, show_link: bool, waits: bool) -> None:
    """
    Say what becomes of the link of an interactive execution, before anybody begins to wait for the applicant.
    """
    link = _link(started)
    if not started.is_interactive:
        return
    if link is None:
        tell(f"Execution {started.id} waits for a person, but the service gave a token for its widget and no link.")
    elif as_json and not show_link:
        tell(
            f"Execution {started.id} waits for a person, and its link is not shown with --json unless --show-link is"
            f" given. Nobody can get it now: `tl cancel {started.id}`, then run again with --show-link."
        )
    elif as_json and waits:
        tell(f"link: {link}")  # the object comes at the end, which cannot come before somebody has the link
    elif not as_json:
        tell("Hand the link to the applicant: it is not shown again.")


def _private(path: Any, flags: int) -> int:
    return os.open(path, flags, 0o600)
