"""
The ledger that a command works with: SQL, or Airflow's task state for what a person may tell about one step.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tl_orchestration.ledger import verdicts
from tl_orchestration.ledger.airflow_rest import SCHEME

if TYPE_CHECKING:
    from tl_orchestration.database.engine import Database
    from tl_orchestration.ledger.sql import SqlLedger

VARIABLE = "TRANSACTIONLINK_LEDGER_URL"

step_url_option = click.option(
    "--url",
    metavar="URL",
    help=f"Of a SQL ledger, or of an Airflow whose task state has the step: airflow+https://HOST. Airflow's token comes"
    f" from AIRFLOW_API_TOKEN or AIRFLOW_API_TOKEN_FILE.  [env: {VARIABLE}]",
)
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


def chosen_url(url: str | None) -> str:
    """
    The URL that was given, else the environment's.

    Raises:
        click.UsageError: There is none.
    """
    chosen = (url or os.environ.get(VARIABLE, "")).strip()
    if not chosen:
        raise click.UsageError(f"There is no ledger: set {VARIABLE}, or give --url.")
    return chosen


def database(url: str | None, *, may_be_missing: bool = False) -> Database:
    """
    The database that was chosen.

    Args:
        may_be_missing: Whether a SQLite file that does not exist is one. A mistyped path would be an empty ledger.

    Raises:
        click.UsageError: None was chosen, or it is not there.
        InvalidSettings: Its URL cannot be used.
    """
    chosen = chosen_url(url)
    if chosen.startswith(SCHEME):
        raise click.UsageError(
            "This needs a SQL ledger, and the URL is that of an Airflow: its task state is kept with each task, and"
            " `tl ledger show`, `adopt` and `not-started` work with it"
        )
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
    return verdicts.acting()
