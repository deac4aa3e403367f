"""
``tl doctor``: what works on the way to the service, and what to do about what does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
from attrs import asdict, filters
from rich.console import Console
from rich.text import Text

from tl_orchestration.cli.arguments import Command
from tl_orchestration.cli.checks import (
    Check,
    Verdict,
    check_clock,
    check_credential,
    check_dns,
    check_proxy,
    check_settings,
    check_tcp,
    check_tls,
    check_token,
)
from tl_orchestration.cli.outcomes import SUCCESS
from tl_orchestration.cli.output import answer_json, printable
from tl_orchestration.cli.probe import ask
from tl_orchestration.cli.settings import Choices, connecting

#: Every check, in the order in which they run.
CHECKS = ("settings", "token", "dns", "proxy", "tcp", "tls", "clock", "credential")
_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.SKIPPED: "dim"}


@click.command(cls=Command)
@connecting
def doctor(choices: Choices, as_json: bool) -> int:
    """
    Check settings, network, TLS, clock and token, one line each. It starts nothing.
    """
    console = Console(highlight=False)
    found = []
    for check in diagnose(choices):
        found.append(check)
        if not as_json:
            _print(console, check)
    code = next((check.code for check in found if check.status is Verdict.FAIL), SUCCESS)
    if as_json:
        without_code = filters.exclude("code")
        checks = [asdict(check, filter=without_code) for check in found]
        answer_json({"ok": code == SUCCESS, "exit_code": code, "checks": checks})
    return code


def diagnose(choices: Choices) -> Iterator[Check]:
    """
    Every check once: as far as the way goes with its finding, beyond that as skipped.
    """
    reached = 0
    failed = ""
    for check in _as_far_as_it_goes(choices):
        reached += 1
        failed = check.name if check.status is Verdict.FAIL else failed
        yield check
    for name in CHECKS[reached:]:
        yield Check(name, Verdict.SKIPPED, f"not tried, because {failed} failed")


def _as_far_as_it_goes(choices: Choices) -> Iterator[Check]:
    settings, route = check_settings(choices)
    yield settings
    if route is None:
        return
    token = check_token(choices)
    yield token  # without one, the network can be looked at all the same
    dns = check_dns(*route.nearest)
    yield dns
    if dns.status is Verdict.FAIL:
        return
    yield check_proxy(route.proxy, chosen=choices.proxy is not None)
    tcp = check_tcp(*route.nearest)
    yield tcp
    if tcp.status is Verdict.FAIL:
        return
    answer = ask(route)
    tls = check_tls(route, answer)
    yield tls
    if tls.status is Verdict.FAIL:
        return
    yield check_clock(answer)
    if token.status is Verdict.FAIL:
        return
    with choices.client(keyless=True) as client:
        yield check_credential(client, choices)


def _print(console: Console, check: Check) -> None:
    line = Text.assemble((f"{check.status:<8}", _COLOURS[check.status]), f"{check.name:<11}")
    detail = check.detail.rstrip(".") + "."
    line.append(printable(f"{detail} {check.advice}".strip()))
    console.print(line, soft_wrap=True)
