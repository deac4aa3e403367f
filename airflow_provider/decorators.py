"""
``@task.transactionlink``: the decorated function says what to run, and the task runs it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory

from airflow_provider.operators import TransactionlinkRunWorkflowOperator
from airflow_provider.redaction import Withheld, revealed

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import TaskDecorator

    from airflow_provider.hooks import TransactionlinkHook
    from tl_orchestration import RunRequest


class TransactionlinkDecoratedOperator(DecoratedOperator, TransactionlinkRunWorkflowOperator):
    """
    The operator of ``@task.transactionlink``. Its arguments are those of TransactionlinkRunWorkflowOperator but for
    ``parameters``, which the function returns.

    Args:
        python_callable: Returns a mapping of parameters, or a RunRequest that says everything; a coroutine function
            does as well. It is called before the start, again by a retry, and not after a deferral: so it should only
            read, and return the same again.
        op_args: Its arguments. Airflow stores nothing of them but their names.
        op_kwargs: The same by name. Names of Airflow's context, such as ``ti``, are filled in.
        workflow_definition_id: Id of the workflow definition; to be left out for a RunRequest, which has its own.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in TransactionlinkRunWorkflowOperator.template_fields if name != "parameters"),
    )
    custom_operator_name = "@task.transactionlink"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        workflow_definition_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        if "parameters" in kwargs:
            raise TypeError("@task.transactionlink takes no parameters: the decorated function returns them.")
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            workflow_definition_id=workflow_definition_id,
            **kwargs,
        )

    def _do_render_template_fields(self, parent: Any, *args: Any, **kwargs: Any) -> None:
        super()._do_render_template_fields(parent, *args, **kwargs)
        if parent is self:
            self.op_args, self.op_kwargs = Withheld(self.op_args), Withheld(self.op_kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        As the operator's.
        """
        return TransactionlinkRunWorkflowOperator.execute(self, context)  # DecoratedOperator's reads what is withheld

    def _request(self, hook: TransactionlinkHook, context: Context) -> RunRequest:
        from airflow_provider import arguments
        from tl_orchestration import RunRequest
        from tl_orchestration.errors import InvalidRequest
        from tl_orchestration.json_input import kind_of

        made = self._called(context)
        if isinstance(made, RunRequest):
            return arguments.whole_request(self, hook, made)
        if not isinstance(made, Mapping):
            raise InvalidRequest(
                f"The function of task {self.task_id!r} must return a mapping of parameters or a RunRequest, not"
                f" {kind_of(made)}."
            )
        if self.workflow_definition_id is None:
            raise InvalidRequest(
                f"Task {self.task_id!r} names no workflow definition: give @task.transactionlink a"
                " workflow_definition_id, or return a RunRequest."
            )
        self.parameters = Withheld(made)
        return super()._request(hook, context)

    def _called(self, context: Context) -> Any:
        args, known = tuple(revealed(self.op_args)), {**context, **revealed(self.op_kwargs)}
        parameters = inspect.signature(self.python_callable).parameters
        filled, left = list(parameters)[: len(args)], list(parameters)[len(args) :]
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            left = [name for name in known if name not in filled]
        made = self.python_callable(*args, **{name: known[name] for name in left if name in known})
        return asyncio.run(made) if inspect.iscoroutine(made) else made


def transactionlink_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool = False, **kwargs: Any
) -> TaskDecorator:
    """
    ``@task.transactionlink``, by which Airflow knows it.

    Args:
        python_callable: The decorated function; see :class:`TransactionlinkDecoratedOperator`.
        multiple_outputs: Also push each key of the returned dict as an XCom of its own.
        kwargs: Arguments of the operator.
    """
    return task_decorator_factory(
        python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=TransactionlinkDecoratedOperator,
        **kwargs,
    )


__all__ = ["TransactionlinkDecoratedOperator", "transactionlink_task"]
