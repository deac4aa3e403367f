"""
From the arguments of a step to what the core takes. Whatever can be wrong is found here, before anything is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve

from airflow_provider import handing_on, identity, on_link, versions
from airflow_provider.redaction import revealed
from tl_orchestration import Pacing, RunRequest, Step
from tl_orchestration.errors import InvalidRequest, InvalidSettings
from tl_orchestration.options import options_for
from tl_orchestration.outcome import OutcomeRules

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from airflow.sdk import Context

    from airflow_provider.hooks import TransactionlinkHook
    from airflow_provider.operators.run_workflow import TransactionlinkRunWorkflowOperator
    from airflow_provider.sensors import TransactionlinkWorkflowSensor
    from tl_orchestration import Execution
    from tl_orchestration.ledger import Ledger


def rules(task: TransactionlinkRunWorkflowOperator, hook: TransactionlinkHook) -> OutcomeRules:
    """
    How the ending is judged. Checks where the result is to go as well.

    Raises:
        InvalidRequest: An argument cannot be used, or the connection forbids what is asked of the result.
    """
    try:
        if seconds(task.timeout) <= 0 or (task.defer_after is not None and task.defer_after < 0):
            raise ValueError("timeout must be positive, and defer_after not negative")
    except (TypeError, ValueError) as error:
        raise _unusable(task, error) from None
    chosen = outcome(task)
    unheard = [name for name in ("fail_when", "skip_when", "result_fields") if getattr(task, name) is not None]
    unheard += ["result"] if revealed(task.result) != "reference" else []
    if unheard and not task.wait_for_completion:
        raise InvalidRequest(
            f"Task {task.task_id!r} does not wait (wait_for_completion=False), so nothing heeds"
            f" {' and '.join(unheard)}: give that to the sensor that waits."
        )
    handing_on.handover(hook, task.result, chosen)
    return chosen


def outcome(task: TransactionlinkRunWorkflowOperator | TransactionlinkWorkflowSensor) -> OutcomeRules:
    """
    What the result means for the task.

    Raises:
        InvalidRequest: A field, a verdict or ``on_partial`` cannot be used.
    """
    try:
        return OutcomeRules(
            result_fields=task.result_fields,
            fail_when=task.fail_when,
            skip_when=task.skip_when,
            on_partial=task.on_partial,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise _unusable(task, error) from None


def pacing(task: TransactionlinkRunWorkflowOperator) -> Pacing:
    """
    When to poll.

    Raises:
        InvalidRequest: ``poll_interval`` is no number of seconds above zero.
    """
    try:
        return Pacing() if task.poll_interval is None else Pacing.every(float(task.poll_interval))
    except (TypeError, ValueError) as error:
        raise _unusable(task, error) from None


def request(task: TransactionlinkRunWorkflowOperator, hook: TransactionlinkHook) -> RunRequest:
    """
    What to start.

    Raises:
        InvalidRequest: It can be sent by nobody, or not to this service.
    """
    parameters = revealed(task.parameters)
    return RunRequest(
        task.workflow_definition_id,
        parameters={} if parameters is None else parameters,
        locale=task.locale,
        expires_at=task.expires_at or None,
        expires_in=task.expires_in,
        record_id=task.record_id or None,
        options=options_for(hook.service(), revealed(task.service_options), "service_options"),
    )


def whole_request(task: TransactionlinkRunWorkflowOperator, hook: TransactionlinkHook, made: RunRequest) -> RunRequest:
    """
    What to start, where a RunRequest says all of it.

    Raises:
        InvalidRequest: The task says some of it, too; or the service does not take it.
    """
    said = ("workflow_definition_id", "expires_at", "expires_in", "record_id", "service_options")
    doubled = [name for name in said if revealed(getattr(task, name)) is not None]
    if doubled:
        raise InvalidRequest(
            f"The function of task {task.task_id!r} returns a RunRequest, which says everything: leave"
            f" {' and '.join(doubled)} out of the task."
        )
    return evolve(made, options=options_for(hook.service(), made.options, "options"))


def ledger(task: TransactionlinkRunWorkflowOperator, hook: TransactionlinkHook, context: Context) -> Ledger | None:
    """
    Where the step is kept: Airflow's task state; for a key of the caller's own, or before 3.3, a SQL ledger.

    Raises:
        InvalidSettings: There is none, and the task has not said that it needs none.
    """
    from airflow_provider.ledger import TaskStateLedger

    if not task.is_recorded:
        return None
    if not kept_in_sql(task, context):
        return TaskStateLedger(versions.task_state_store(context))
    if not task.has_key and not hook.ledger_url():
        raise InvalidSettings(
            "This Airflow keeps no task state over retries (that needs 3.3). Name a SQL ledger (ledger_url of"
            f" connection {hook.transactionlink_conn_id!r}, or of [transactionlink] in airflow.cfg), which then keeps"
            " this task; or say durable=False: then a retry of it starts a new execution. Nothing was started."
        )
    return hook.sql_ledger()


def kept_in_sql(task: TransactionlinkRunWorkflowOperator, context: Context) -> bool:
    """
    Whether the step's state, if it is kept, is kept in a SQL ledger.
    """
    return task.has_key or versions.task_state_store(context) is None


def ledger_key(task: TransactionlinkRunWorkflowOperator, context: Context) -> str:
    """
    The step's name in its ledger: the caller's own key, or what Airflow calls it.

    Raises:
        InvalidRequest: The key was rendered to something that is no text, or empty.
    """
    if not task.has_key:
        return identity.step_key(context["ti"])
    key: Any = task.key  # native rendering makes a number of one that looks like it, or nothing
    if isinstance(key, bool) or not isinstance(key, str | int) or not str(key).strip():
        raise InvalidRequest(f"The key of task {task.task_id!r} is rendered to something that is no text, or empty.")
    return str(key)


def generation(task: TransactionlinkRunWorkflowOperator, context: Context) -> str:
    """
    Which life of the step this is; a key of the caller's own has one only.
    """
    return "" if task.has_key else identity.generation(context["ti"])


def step(task: TransactionlinkRunWorkflowOperator, context: Context) -> Step | None:
    """
    Which step starts, and what it may do about an earlier start of its own; None where nothing is kept.

    Raises:
        InvalidRequest: An argument cannot be used, or needs a step that is kept.
    """
    try:
        made = Step(
            key=ledger_key(task, context),
            generation=generation(task, context),
            retry_failed=task.retry_failed,
            on_unknown_start=task.on_unknown_start,
            correlation_parameter=task.correlation_parameter,
            on_changed_request=task.on_changed_request,
            on_partial=task.on_partial,
            on_link_lost=task.on_link_lost,
        )
    except ValueError as error:
        raise _unusable(task, error) from None
    if task.is_recorded:
        return made
    _check_unrecorded(task)
    return None


def _check_unrecorded(task: TransactionlinkRunWorkflowOperator) -> None:
    if task.on_unknown_start == "repeat-same-key":
        raise InvalidRequest(
            "on_unknown_start='repeat-same-key' needs durable=True or a key: the idempotency key is kept with the"
            " step's state."
        )
    if task.on_unknown_start == "restart":
        raise InvalidRequest(
            "on_unknown_start='restart' needs durable=True or a key: without the step's state, a retry starts another"
            " execution in any case."
        )
    if task.on_changed_request == "reattach":
        raise InvalidRequest(
            "on_changed_request='reattach' needs durable=True or a key: without the step's state, a retry finds no"
            " execution to go on with."
        )
    if task.correlation_parameter is not None:
        raise InvalidRequest("correlation_parameter needs durable=True or a key: the id is kept with the step's state.")
    if task.on_link_lost == "restart":
        raise InvalidRequest(
            "on_link_lost='restart' needs durable=True or a key: without the step's state, a retry starts another"
            " execution in any case."
        )


def link_receiver(task: TransactionlinkRunWorkflowOperator, context: Context) -> Callable[[Execution], None] | None:
    """
    Who is given the link of an interactive execution.

    Raises:
        InvalidRequest: It cannot be called.
    """
    if task.on_link is None:
        return None
    if not callable(task.on_link):
        raise InvalidRequest(
            f"on_link of task {task.task_id!r} must be a callable that takes Airflow's context, or a notifier, not"
            f" {type(task.on_link).__name__}."
        )
    return on_link.with_context(task.on_link, context)


def seconds(timeout: timedelta | float) -> float:
    """
    A duration as a number.
    """
    return float(timeout.total_seconds() if hasattr(timeout, "total_seconds") else timeout)


def _unusable(
    task: TransactionlinkRunWorkflowOperator | TransactionlinkWorkflowSensor, error: Exception
) -> InvalidRequest:
    return InvalidRequest(
        f"An argument of task {task.task_id!r} cannot be used: {error.args[0] if error.args else error}."
    )
