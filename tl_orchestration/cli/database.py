"""
``tl db``: the tables of a SQL ledger. Each command returns its exit code.
"""

from __future__ import annotations

import click

from tl_orchestration.cli import stores
from tl_orchestration.cli.arguments import Command
from tl_orchestration.cli.outcomes import SUCCESS, UNEXPECTED
from tl_orchestration.cli.output import answer_json, tell
from tl_orchestration.cli.settings import verbose_option


@click.group()
def db() -> None:
    """
    Make and check the tables of a SQL ledger.
    """


@db.command(cls=Command)
@stores.url_option
@stores.json_option
@verbose_option
def upgrade(url: str | None, as_json: bool) -> int:
    """
    Bring the tables to the newest revision. Needs the right to change tables; runs of workflows do not.
    """
    database = stores.database(url, may_be_missing=True)
    before = database.revision()
    database.upgrade()
    after = database.revision()
    if as_json:
        answer_json({"database": database.address, "before": before, "revision": after})
    else:
        was = "was already" if before == after else f"came from {before or 'nothing'} and is now"
        tell(f"{database.address} {was} at revision {after}.")
    return SUCCESS


@db.command(cls=Command)
@stores.url_option
@stores.json_option
@verbose_option
def check(url: str | None, as_json: bool) -> int:
    """
    Look whether the tables are at the newest revision: exits 0 if they are, 1 if they have to be upgraded.
    """
    from tl_orchestration.database import schema

    database = stores.database(url, may_be_missing=True)
    found = database.revision()
    behind = schema.is_behind(found, database.address)
    if as_json:
        answer_json({"database": database.address, "revision": found, "current": not behind})
    if behind:
        tell(schema.advice(found, database.address))
    elif not as_json:
        tell(f"{database.address} is at revision {found}, the newest one.")
    return UNEXPECTED if behind else SUCCESS
