"""
The SQL ledger that a command works with.
"""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tl_orchestration.database.engine import Database
    from tl_orchestration.ledger.sql import SqlLedger

VARIABLE = "TRANSACTIONLINK_LEDGER_URL"

url_option = click.option(
    "--url",
    metavar="URL",
    help=f"sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE. Every process on the machine can read it: a"
    f" password belongs into PGPASSWORD, or into the variable.  [env: {VARIABLE}]",
)
actor_option = click.option(
    "--actor", metavar="NAME", help="Who does it, for the trail.  [default: the operating system's user]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object to stdout.")


def database(url: str | None, *, may_be_missing: bool = False) -> Database:
    """
    The database that was chosen.

    Args:
        may_be_missing: Whether a SQLite file that does not exist is one. A mistyped path would be an empty ledger.

    Raises:
        click.UsageError: None was chosen, or it is not there.
        InvalidSettings: Its URL cannot be used.
    """
    chosen = url or os.environ.get(VARIABLE, "").strip()
    if not chosen:
        raise click.UsageError(f"There is no ledger: set {VARIABLE}, or give --url.")
    try:
        from tl_orchestration.database.engine import Database
    except ModuleNotFoundError:
        raise click.UsageError("A SQL ledger needs an extra: pip install 'tl-orchestration[sql]'.") from None
    found = Database(chosen)
    if found.is_missing and not may_be_missing:
        raise click.UsageError(f"There is no file {found.address.removeprefix('sqlite:///')}.")
    return found


def ledger() -> SqlLedger:
    """
    The environment's ledger, for a run with a key.

    Raises:
        click.UsageError: There is none.
        InvalidSettings: Its URL cannot be used.
    """
    if not os.environ.get(VARIABLE, "").strip():
        raise click.UsageError(f"--key needs a ledger: set {VARIABLE}, for example to sqlite:///ledger.db.")
    chosen = database(None, may_be_missing=True)
    from tl_orchestration.ledger.sql import SqlLedger

    return SqlLedger(chosen)


def acting(name: str | None) -> str:
    """
    Who does something: the name that was given, else the operating system's user.
    """
    if name is not None:
        if not name.strip():
            raise click.BadParameter("a name is not empty", param_hint="--actor")
        return name.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return f"user {os.getuid()}"
