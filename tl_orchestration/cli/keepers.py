"""
Who keeps the entry of a key that a person asks for: a SQL ledger, or the Airflow that runs the step.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

import click

from tl_orchestration.cli import stores
from tl_orchestration.cli.settings import Choices
from tl_orchestration.credentials import secret_in
from tl_orchestration.errors import InvalidSettings, LedgerError
from tl_orchestration.ledger.airflow_rest import SCHEME, AirflowRestLedger, AirflowToken, airflow_address
from tl_orchestration.ledger.entry import Record
from tl_orchestration.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tl_orchestration.database.engine import Database
    from tl_orchestration.ledger.records import Line
    from tl_orchestration.ledger.verdicts import Told

_TOKEN, _TOKEN_FILE = "AIRFLOW_API_TOKEN", "AIRFLOW_API_TOKEN_FILE"


class Keeper(Protocol):
    """
    What ``show``, ``adopt`` and ``not-started`` need of a ledger.
    """

    @property
    def then(self) -> str:
        """
        What has to be done after a verdict, as a sentence.
        """

    def record(self, key: str) -> Record:
        """
        The entry of the key.

        Raises:
            LedgerError: There is none.
            click.UsageError: There is one for each of several services.
        """

    def trail(self, record: Record) -> Sequence[Line]:
        """
        How the entry came about, as far as that is kept.
        """

    def ledger(self, record: Record) -> Told:
        """
        What a verdict about the entry is told to.
        """


@contextlib.contextmanager
def keeper_of(url: str | None, *, namespace: str | None = None, actor: str | None = None) -> Iterator[Keeper]:
    """
    The keeper that the URL names.

    Raises:
        click.UsageError: There is no such ledger, or it keeps no namespaces or no names.
        InvalidSettings: Its URL, its token or a setting of the connection cannot be used.
    """
    chosen = stores.chosen_url(url)
    if not chosen.startswith(SCHEME):
        yield _Sql(stores.database(chosen), namespace)
        return
    if namespace is not None or actor is not None:
        raise click.UsageError(
            "Airflow's task state keeps neither namespaces nor names: leave --namespace and --actor out"
        )
    address, choices = airflow_address(chosen), Choices.of(os.environ)
    settings = Settings(
        proxy=choices.checked_proxy(address), ca_bundle=choices.ca_bundle, client_cert=choices.client_cert
    )
    with contextlib.closing(AirflowRestLedger(address, _token(), settings)) as ledger:
        yield _Airflow(ledger)


def _token() -> AirflowToken:
    token, file = (os.environ.get(name, "").strip() or None for name in (_TOKEN, _TOKEN_FILE))
    if token is not None and file is not None:
        raise InvalidSettings(
            f"{_TOKEN} and {_TOKEN_FILE} are both set, and it is not clear which token is meant: unset one of them."
        )
    return AirflowToken(token if file is None else secret_in(file, "token"))


class _Sql:
    then = "In Airflow, clear the failed task."

    def __init__(self, database: Database, namespace: str | None) -> None:
        from tl_orchestration.ledger.records import Records

        self._database = database
        self._namespace = namespace
        self._records = Records(database)

    def record(self, key: str) -> Record:
        found, namespace = self._records.find(key, self._namespace), self._namespace
        if not found:
            raise LedgerError(f"The ledger holds nothing for {key}{f' in {namespace}' if namespace else ''}.")
        if len(found) > 1:
            names = ", ".join(record.namespace or '""' for record in found)
            raise click.UsageError(f"More than one service has this key; say which with --namespace: {names}.")
        return found[0]

    def trail(self, record: Record) -> Sequence[Line]:
        return self._records.trail(record)

    def ledger(self, record: Record) -> Told:
        from tl_orchestration.ledger.sql import SqlLedger

        return SqlLedger(self._database, record.namespace)


class _Airflow:
    #: Versions after 3.3 discard the task state at a clear, unless told to keep it.
    then = "Clear the failed task; where Airflow asks, keep its task state, for the verdict is in it."

    def __init__(self, ledger: AirflowRestLedger) -> None:
        self._ledger = ledger

    def record(self, key: str) -> Record:
        entry = self._ledger.read(key)
        if entry is None:
            raise LedgerError(
                f"Airflow's task state holds nothing for {key}: no try has got as far as a start. A step with a key of"
                " its own is in the SQL ledger of its connection."
            )
        return Record("", key, entry)

    def trail(self, record: Record) -> Sequence[Line]:
        return ()

    def ledger(self, record: Record) -> Told:
        return self._ledger


__all__ = ["Keeper", "keeper_of"]
