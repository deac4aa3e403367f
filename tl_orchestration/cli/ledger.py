"""
``tl ledger``: what a ledger holds, what a person may tell it, and what it may forget. Each command returns its exit
code.
"""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

import click
from attrs import evolve

from tl_orchestration.cli import stores
from tl_orchestration.cli.arguments import Command
from tl_orchestration.cli.durations import duration
from tl_orchestration.cli.entries import entry_lines, line_json, line_text, record_json, row_text
from tl_orchestration.cli.keepers import keeper_of
from tl_orchestration.cli.outcomes import SUCCESS
from tl_orchestration.cli.output import answer_json, answer_lines, printable, tell
from tl_orchestration.cli.settings import verbose_option
from tl_orchestration.correlation import recorded_correlation
from tl_orchestration.fate import sought
from tl_orchestration.ledger import verdicts
from tl_orchestration.ledger.entry import UNDECIDED, State

if TYPE_CHECKING:
    from tl_orchestration.ledger.entry import Record

_namespace_option = click.option(
    "--namespace", metavar="NAME", help="Which service, where more than one has the key; `tl ledger list` shows it."
)
_reason_option = click.option(
    "--reason", required=True, metavar="TEXT", help="How it is known, for the trail. Must not be personal."
)


@click.group()
def ledger() -> None:
    """
    Look into a ledger, and settle starts of unknown fate.

    `list` and `purge` need a SQL ledger; the others also work with Airflow's task state.
    """


@ledger.command("list", cls=Command)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in State], case_sensitive=False),
    help="Only entries in this state; may be given more than once.",
)
@click.option("--older-than", type=duration, help="Only entries unchanged for so long: 10m, 90d.")
@_namespace_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@stores.url_option
@stores.json_option
@verbose_option
def list_entries(
    states: tuple[str, ...],
    older_than: float | None,
    namespace: str | None,
    limit: int,
    url: str | None,
    as_json: bool,
) -> int:
    """
    List entries, the longest unchanged first.
    """
    database, now = stores.database(url), time.time()
    from tl_orchestration.ledger.records import Records

    found = Records(database).matching(
        states=[State(state) for state in states],
        unchanged_since=None if older_than is None else now - older_than,
        namespace=namespace,
        limit=limit + 1,
    )
    shown, more = found[:limit], len(found) > limit
    if as_json:
        answer_json({"entries": [record_json(record) for record in shown], "more": more})
        return SUCCESS
    for record in shown:
        click.echo(printable(row_text(record, now)))
    if more:
        tell(f"There are more than {limit}: --limit shows more of them, --state and --older-than fewer.")
    return SUCCESS


@ledger.command(cls=Command)
@click.argument("key")
@_namespace_option
@stores.step_url_option
@stores.json_option
@verbose_option
def show(key: str, namespace: str | None, url: str | None, as_json: bool) -> int:
    """
    Show the entry of KEY and how it came about.
    """
    with keeper_of(url, namespace=namespace) as keeper:
        record = keeper.record(key)
        trail = keeper.trail(record)
    if as_json:
        answer_json({**record_json(record), "trail": [line_json(line) for line in trail]})
        return SUCCESS
    answer_lines(entry_lines(record))
    for line in trail:
        click.echo(printable(line_text(line)))
    if record.entry.state in UNDECIDED and not record.entry.preparing:
        what, name = sought(recorded_correlation(record.entry)), shlex.quote(key)
        tell(
            f"Look for {what} in the vendor's dashboard. If it runs: `tl ledger adopt {name} EXECUTION_ID --reason"
            f" TEXT`; if it does not: `tl ledger not-started {name} --reason TEXT`."
        )
    return SUCCESS


@ledger.command(cls=Command)
@click.argument("key")
@click.argument("execution_id")
@_reason_option
@stores.actor_option
@_namespace_option
@stores.step_url_option
@stores.json_option
@verbose_option
def adopt(
    key: str,
    execution_id: str,
    reason: str,
    actor: str | None,
    namespace: str | None,
    url: str | None,
    as_json: bool,
) -> int:
    """
    Say which execution an unknown start made.

    The next try for KEY goes on with EXECUTION_ID.
    """
    with keeper_of(url, namespace=namespace, actor=actor) as keeper:
        record = keeper.record(key)
        entry = verdicts.adopt(
            keeper.ledger(record), key, execution_id, reason=reason, actor=stores.acting(actor), now=time.time()
        )
    return _said(
        evolve(record, entry=entry), as_json, f"The next try goes on with execution {execution_id}. {keeper.then}"
    )


@ledger.command("not-started", cls=Command)
@click.argument("key")
@_reason_option
@stores.actor_option
@_namespace_option
@stores.step_url_option
@stores.json_option
@verbose_option
def not_started(key: str, reason: str, actor: str | None, namespace: str | None, url: str | None, as_json: bool) -> int:
    """
    Say that an unknown start made nothing.

    The next try for KEY starts.
    """
    with keeper_of(url, namespace=namespace, actor=actor) as keeper:
        record = keeper.record(key)
        entry = verdicts.not_started(
            keeper.ledger(record), key, reason=reason, actor=stores.acting(actor), now=time.time()
        )
    return _said(evolve(record, entry=entry), as_json, f"The next try starts. {keeper.then}")


@ledger.command(cls=Command)
@click.option("--older-than", type=duration, required=True, help="Only entries unchanged for so long: 90d.")
@click.option("--key", metavar="KEY", help="Only this one.")
@stores.actor_option
@_namespace_option
@stores.url_option
@stores.json_option
@verbose_option
def purge(
    older_than: float, key: str | None, actor: str | None, namespace: str | None, url: str | None, as_json: bool
) -> int:
    """
    Forget old entries; their keys stay used.

    Only settled and rejected entries are purged, with their trails. A later start with such a key is refused.
    """
    database, now = stores.database(url), time.time()
    from tl_orchestration.ledger.records import Records

    purged = Records(database).purge(
        unchanged_since=now - older_than, actor=stores.acting(actor), now=now, key=key, namespace=namespace
    )
    if as_json:
        answer_json({"purged": purged})
    else:
        tell(f"{purged} {'entry was' if purged == 1 else 'entries were'} purged.")
    return SUCCESS


def _said(record: Record, as_json: bool, sentences: str) -> int:
    if as_json:
        answer_json(record_json(record))
    else:
        tell(f"Recorded. {sentences}")
    return SUCCESS
