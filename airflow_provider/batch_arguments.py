"""
From the arguments of a batch task to what the core takes. Whatever can be wrong is found here, before anything is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, ObjectStoragePath

from airflow_provider import identity
from airflow_provider.arguments import seconds
from airflow_provider.redaction import revealed
from airflow_provider.results import storage
from tl_orchestration.batch import Batch, Book, Columns, Limits, Policy, Query, source
from tl_orchestration.batch.policy import checked_campaign
from tl_orchestration.errors import InvalidRequest, InvalidSettings
from tl_orchestration.options import options_for
from tl_orchestration.result_uri import ResultUri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from airflow_provider.hooks import TransactionlinkHook
    from airflow_provider.operators.batch import TransactionlinkBatchOperator
    from tl_orchestration import AsyncClient
    from tl_orchestration.batch.sources import Source

#: Of a run's digest in the name of a worker.
_DIGITS = 8


def worker(task: TransactionlinkBatchOperator, context: Context) -> str:
    """
    The task's name in its campaign, the same over retries and clears: so that these have its rows back at once. Another
    run of the DAG is another worker, also where both share a campaign.
    """
    ti = context["ti"]
    number = task.shard if task.shard is not None else ti.map_index if identity.is_mapped(ti) else None
    run = hashlib.sha256(ti.run_id.encode()).hexdigest()[:_DIGITS]
    return f"{ti.dag_id}/{ti.task_id}" + ("" if number is None else f"[{number}]") + f"@{run}"


@contextlib.contextmanager
def opened(task: TransactionlinkBatchOperator, hook: TransactionlinkHook, context: Context) -> Iterator[Batch]:
    """
    The task's batch, and its ledger's connections closed at the end.

    Raises:
        InvalidRequest: An argument cannot be used, or the connection forbids what is asked of the results.
        InvalidSettings: The connection cannot be used or names no ledger; or source, results or campaign cannot.
    """
    ledger = hook.sql_ledger("A batch")
    try:
        yield _batch(task, hook, context, hook.batch_client(ledger))
    finally:
        ledger.close()


def _check_ends(task: TransactionlinkBatchOperator) -> None:
    """
    Raises:
        InvalidRequest: What the task says of failed rows, or of nothing to start, cannot be meant.
    """
    if task.on_nothing_to_start not in {"accept", "skip"}:
        raise _unusable(task, f"on_nothing_to_start is 'accept' or 'skip', not {task.on_nothing_to_start!r}")
    most: Any = task.max_failed
    share: Any = task.max_failed_share
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
        raise _unusable(task, "max_failed is a number of rows, from 0 on")
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1):
        raise _unusable(task, "max_failed_share is a share of the rows, from 0 to 1")


def _batch(
    task: TransactionlinkBatchOperator, hook: TransactionlinkHook, context: Context, client: AsyncClient
) -> Batch:
    _check_ends(task)
    campaign, columns = _campaign(task, context), _columns(task)
    definition: Any = task.workflow_definition_id
    if not isinstance(definition, str) or not definition.strip():
        raise _unusable(task, "workflow_definition_id is rendered to something that is no text, or empty")
    options = options_for(hook.service(), revealed(task.service_options), "service_options")
    try:
        limits = Limits(quota=task.quota, in_flight=task.in_flight, requests_per_second=task.requests_per_second)
        policy = Policy(
            timeout=_seconds(task.timeout),
            cancel_on_timeout=task.cancel_on_timeout,
            on_bad_rows=task.on_bad_rows,
            max_starts=task.max_starts,
            canary=task.canary,
            starts_at_once=task.starts_at_once,
            breaker_after=task.breaker_after,
            format=task.format,
            correlation_parameter=task.correlation_parameter,
        )
    except (TypeError, ValueError, InvalidSettings) as error:
        raise _unusable(task, str(error.args[0] if error.args else error)) from None
    return Batch(
        client,
        campaign,
        Book(workflow_definition_id=definition, source=_source(task), columns=columns, options=options),
        output=_folder(task, hook),
        limits=limits,
        policy=policy,
        worker=worker(task, context),
    )


def _campaign(task: TransactionlinkBatchOperator, context: Context) -> str:
    """
    The campaign's name, where its tasks may share it.
    """
    ti = context["ti"]
    is_default = task.campaign == f"{ti.dag_id}~{ti.task_id}~{ti.run_id}"
    if is_default and identity.is_mapped(ti) and task.shard is None:
        raise _unusable(
            task,
            "it is mapped, and all of its elements would work on one campaign. Map it over shard if they are workers of"
            " one book; give each book a campaign of its own if they are several, with the map index or the book's name"
            " in it",
        )
    try:
        return checked_campaign(task.campaign)
    except InvalidSettings as error:
        default = " The name is the default, of DAG, task and run id: pass campaign=" if is_default else ""
        raise _unusable(task, f"campaign: {error}{default}") from None


def _columns(task: TransactionlinkBatchOperator) -> Columns:
    given: Any = task.columns
    if isinstance(given, Columns):
        return given
    if not isinstance(given, Mapping):
        raise _unusable(task, f"columns are Columns or a dict of its arguments, not {type(given).__name__}")
    try:
        return Columns.from_dict(given)
    except InvalidSettings as error:
        raise _unusable(task, f"columns: {error}") from None


def _seconds(timeout: Any) -> float:
    try:
        return seconds(timeout)
    except (TypeError, ValueError):
        raise InvalidSettings("timeout must be a timedelta or seconds") from None


def _source(task: TransactionlinkBatchOperator) -> Source:
    where = revealed(task.source)
    if (where is None) == (task.sql is None) or (task.sql is None) != (task.sql_conn_id is None):
        raise _unusable(task, "give either source, or sql and sql_conn_id")
    if where is None:
        values = revealed(task.sql_parameters) or {}
        if not isinstance(values, Mapping):
            raise _unusable(task, f"sql_parameters are a dict of the query's names, not {type(values).__name__}")
        return Query(_engine(str(task.sql_conn_id)), str(task.sql), dict(values))
    if isinstance(where, str) and "://" in where:
        try:
            where = ObjectStoragePath(where)
            where.fs  # noqa: B018  # looks up connection and package
        except Exception as error:  # packages and connections of others; their messages may hold anything
            raise InvalidSettings(
                f"The storage of the source of task {task.task_id!r} cannot be used in this worker"
                f" ({type(error).__name__}). Install the Airflow provider of that storage, and check its connection."
            ) from None
    return source(where)


def _engine(conn_id: str) -> Any:
    """
    The database of an Airflow connection, by the hook of its provider.
    """
    try:
        hook: Any = BaseHook.get_connection(conn_id).get_hook()  # type: ignore[no-untyped-call]  # Airflow's
        return hook.get_sqlalchemy_engine()
    except Exception as error:  # as above
        raise InvalidSettings(
            f"Connection {conn_id!r} gives no database that can be queried ({type(error).__name__}). It must be of a"
            " type whose Airflow provider is installed in this worker and has SQLAlchemy engines."
        ) from None


def _folder(task: TransactionlinkBatchOperator, hook: TransactionlinkHook) -> ObjectStoragePath | None:
    where = revealed(task.results)
    if where is None:
        return None
    text = str(where)
    if "://" not in text:
        text = Path(text).absolute().as_uri()
    uri = ResultUri.parse(text if text.endswith("/") else f"{text}/")
    hook.result_policy().check_uri(uri, "the URI given as results")
    return storage(uri)


def _unusable(task: TransactionlinkBatchOperator, why: str) -> InvalidRequest:
    return InvalidRequest(f"An argument of task {task.task_id!r} cannot be used: {why.rstrip('.')}.")
